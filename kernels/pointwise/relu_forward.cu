// relu_forward: y = max(x, 0), and NaN stays NaN (fmaxf would hide it from whoever looks for it).
// x, y (count) of float or Bf16, any shape. 8 bytes of memory traffic an element, 4 in bfloat16, one
// comparison: bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct Relu {
  __device__ __forceinline__ float operator()(float x, float /*unused*/) const { return x < 0.f ? 0.f : x; }
};

}  // namespace

template <class T>
cudaError_t relu_forward(T* y, const T* x, const ElementwiseShape& shape, cudaStream_t stream) {
  return elementwise::unary("relu_forward", y, x, shape, stream, Relu{});
}
template UnaryFn<float> relu_forward<float>;
template UnaryFn<Bf16> relu_forward<Bf16>;

}  // namespace pcn
