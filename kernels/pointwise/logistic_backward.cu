// logistic_backward: dx = dy y (1 - y), for y = 1 / (1 + exp(-x)).
// dy, y, dx (count), any shape; dx may be dy. 12 bytes of memory traffic an element: bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct LogisticGradient {
  __device__ __forceinline__ float operator()(float dy, float y) const { return dy * (y * (1.f - y)); }
};

}  // namespace

cudaError_t logistic_backward(float* dx, const float* dy, const float* y, const ElementwiseShape& shape,
                              cudaStream_t stream) {
  return elementwise::binary("logistic_backward", dx, dy, y, shape, stream, LogisticGradient{});
}

}  // namespace pcn
