// relu_backward: dx = dy where y > 0, else 0, for y = relu(x). Where y is NaN, dy passes.
// dy, y, dx (count), any shape; dx may be dy. 12 bytes of memory traffic an element: bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct ReluGradient {
  __device__ __forceinline__ float operator()(float dy, float y) const { return y <= 0.f ? 0.f : dy; }
};

}  // namespace

cudaError_t relu_backward(float* dx, const float* dy, const float* y, const ElementwiseShape& shape,
                          cudaStream_t stream) {
  return elementwise::binary("relu_backward", dx, dy, y, shape, stream, ReluGradient{});
}

}  // namespace pcn
