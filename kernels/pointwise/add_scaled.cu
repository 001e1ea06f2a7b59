// add_scaled: y = alpha a + beta b; where beta is 0, b is not read
// a, b, y (count) of float or Bf16, any shape; y may be a or b. 12 bytes of memory traffic an element, 8
// where beta is 0; half of that in bfloat16: bound by memory.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

struct ScaledSum {
  float alpha, beta;
  __device__ __forceinline__ float operator()(float a, float b) const { return alpha * a + beta * b; }
};
struct Scaled {
  float alpha;
  __device__ __forceinline__ float operator()(float a, float /*unused*/) const { return alpha * a; }
};

}  // namespace

template <class T>
cudaError_t add_scaled(T* y, const T* a, const T* b, float alpha, float beta, const ElementwiseShape& shape,
                       cudaStream_t stream) {
  if (beta == 0.f) return elementwise::unary("add_scaled", y, a, shape, stream, Scaled{alpha});
  return elementwise::binary("add_scaled", y, a, b, shape, stream, ScaledSum{alpha, beta});
}
template AddFn<float> add_scaled<float>;
template AddFn<Bf16> add_scaled<Bf16>;

}  // namespace pcn
