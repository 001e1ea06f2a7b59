// tanh_forward: y = tanh(x), through the accurate tanhf, not the approximation of the special function unit.
// x, y (count) of float or Bf16, any shape. 8 bytes of memory traffic an element, 4 in bfloat16: bound by
// memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct Tanh {
  __device__ __forceinline__ float operator()(float x, float /*unused*/) const { return tanhf(x); }
};

}  // namespace

template <class T>
cudaError_t tanh_forward(T* y, const T* x, const ElementwiseShape& shape, cudaStream_t stream) {
  return elementwise::unary("tanh_forward", y, x, shape, stream, Tanh{});
}
template UnaryFn<float> tanh_forward<float>;
template UnaryFn<Bf16> tanh_forward<Bf16>;

}  // namespace pcn
