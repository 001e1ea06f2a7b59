// tanh_backward: dx = dy (1 - y^2), for y = tanh(x).
// dy, y, dx (count), any shape; dx may be dy. 12 bytes of memory traffic an element: bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct TanhGradient {
  __device__ __forceinline__ float operator()(float dy, float y) const { return dy * (1.f - y * y); }
};

}  // namespace

cudaError_t tanh_backward(float* dx, const float* dy, const float* y, const ElementwiseShape& shape,
                          cudaStream_t stream) {
  return elementwise::binary("tanh_backward", dx, dy, y, shape, stream, TanhGradient{});
}

}  // namespace pcn
