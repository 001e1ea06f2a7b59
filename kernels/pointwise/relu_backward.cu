// relu_backward: dx = dy where y > 0, else 0, for y = relu(x). Where y is NaN, dy passes.
// dy, y, dx (count) of float or Bf16, any shape; dx may be dy. 12 bytes of memory traffic an element, 6 in
// bfloat16: bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct ReluGradient {
  __device__ __forceinline__ float operator()(float dy, float y) const { return y <= 0.f ? 0.f : dy; }
};

}  // namespace

template <class T>
cudaError_t relu_backward(T* dx, const T* dy, const T* y, const ElementwiseShape& shape,
                          cudaStream_t stream) {
  return elementwise::binary("relu_backward", dx, dy, y, shape, stream, ReluGradient{});
}
template GradientFn<float> relu_backward<float>;
template GradientFn<Bf16> relu_backward<Bf16>;

}  // namespace pcn
