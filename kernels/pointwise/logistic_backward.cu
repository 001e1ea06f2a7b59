// logistic_backward: dx = dy y (1 - y), for y = 1 / (1 + exp(-x)).
// dy, y, dx (count) of float or Bf16, any shape; dx may be dy. 12 bytes of memory traffic an element, 6 in
// bfloat16: bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct LogisticGradient {
  __device__ __forceinline__ float operator()(float dy, float y) const { return dy * (y * (1.f - y)); }
};

}  // namespace

template <class T>
cudaError_t logistic_backward(T* dx, const T* dy, const T* y, const ElementwiseShape& shape,
                              cudaStream_t stream) {
  return elementwise::binary("logistic_backward", dx, dy, y, shape, stream, LogisticGradient{});
}
template GradientFn<float> logistic_backward<float>;
template GradientFn<Bf16> logistic_backward<Bf16>;

}  // namespace pcn
