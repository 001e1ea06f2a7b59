// dropout_backward_mask: dx[i] = mask[i] ? dy[i] * scale : 0
// dy, dx (count) float, mask (count) bytes, 0 or 1; dx may be dy. 9 bytes of memory traffic an element: bound
// by memory. Four elements a thread, as one float4 and one uchar4 where the pointers allow.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

using elementwise::THREADS;
constexpr int PER_THREAD = 4;

__global__ void __launch_bounds__(THREADS)
    dropout_backward_kernel(float* dx, const float* dy, const std::uint8_t* mask, float scale, unsigned count,
                            int vectors) {
  const unsigned i = blockIdx.x * THREADS + threadIdx.x;
  const unsigned whole = vectors ? count / PER_THREAD : 0;
  if (i < whole) {
    const float4 g = reinterpret_cast<const float4*>(dy)[i];
    const uchar4 m = reinterpret_cast<const uchar4*>(mask)[i];
    reinterpret_cast<float4*>(dx)[i] = make_float4(m.x ? g.x * scale : 0.f, m.y ? g.y * scale : 0.f,
                                                   m.z ? g.z * scale : 0.f, m.w ? g.w * scale : 0.f);
  }
  const unsigned stride = gridDim.x * THREADS;
  for (unsigned j = PER_THREAD * whole + i; j < count; j += stride) dx[j] = mask[j] ? dy[j] * scale : 0.f;
}

}  // namespace

cudaError_t dropout_backward_mask(float* dx, const float* dy, const std::uint8_t* mask, float scale,
                                  const ElementwiseShape& shape, cudaStream_t stream) {
  const int vectors = elementwise::aligned16(dx) && elementwise::aligned16(dy) &&
                      reinterpret_cast<std::uintptr_t>(mask) % 4 == 0;
  const unsigned count = shape.count;
  return launch("dropout_backward_mask", dropout_backward_kernel,
                dim3((count + THREADS * PER_THREAD - 1) / (THREADS * PER_THREAD)), dim3(THREADS), 0, stream,
                dx, dy, mask, scale, count, vectors);
}

}  // namespace pcn
