// tanh_backward: dx = dy (1 - y^2), for y = tanh(x).
// dy, y, dx (count) of float or Bf16, any shape; dx may be dy. 12 bytes of memory traffic an element, 6 in
// bfloat16: bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct TanhGradient {
  __device__ __forceinline__ float operator()(float dy, float y) const { return dy * (1.f - y * y); }
};

}  // namespace

template <class T>
cudaError_t tanh_backward(T* dx, const T* dy, const T* y, const ElementwiseShape& shape,
                          cudaStream_t stream) {
  return elementwise::binary("tanh_backward", dx, dy, y, shape, stream, TanhGradient{});
}
template GradientFn<float> tanh_backward<float>;
template GradientFn<Bf16> tanh_backward<Bf16>;

}  // namespace pcn
