// logistic_forward: y = 1 / (1 + exp(-x)). For very negative x, exp overflows to infinity and y is 0, as it
// should be. x, y (count) of float or Bf16, any shape. 8 bytes of memory traffic an element, 4 in bfloat16:
// bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct Logistic {
  __device__ __forceinline__ float operator()(float x, float /*unused*/) const {
    return 1.f / (1.f + expf(-x));
  }
};

}  // namespace

template <class T>
cudaError_t logistic_forward(T* y, const T* x, const ElementwiseShape& shape, cudaStream_t stream) {
  return elementwise::unary("logistic_forward", y, x, shape, stream, Logistic{});
}
template UnaryFn<float> logistic_forward<float>;
template UnaryFn<Bf16> logistic_forward<Bf16>;

}  // namespace pcn
