// filters_from_depth_any: the gradient of filters from that of their rearrangement, t = side
//   dw[k, r, s, c] = from[k, r / t, s / t, ((r mod t) t + s mod t) C + c]
// from (K, to_r, to_s, to_c)   dw (K, R, S, C)   float
// A thread an element of dw: neighbours write neighbours and read runs of t C. A few hundred kilobytes: bound
// by latency. Accepts everything.
#include "common/device.h"
#include "depth/depth.h"

namespace pcn {
namespace {

constexpr int FROM_DEPTH_THREADS = 256;

__global__ void __launch_bounds__(FROM_DEPTH_THREADS)
    filters_from_depth_kernel(float* __restrict__ dw, const float* __restrict__ from, DepthShape shape,
                              unsigned count) {
  const unsigned index = blockIdx.x * FROM_DEPTH_THREADS + threadIdx.x;
  if (index >= count) return;
  const int t = shape.side, place = index / shape.c, c = index - place * shape.c;
  const int line = place / shape.s, s = place - line * shape.s, k = line / shape.r, r = line - k * shape.r;
  const int depth = (r % t * t + s % t) * shape.c + c;
  dw[index] = __ldg(from + ((k * shape.to_r + r / t) * shape.to_s + s / t) * shape.to_c + depth);
}

}  // namespace

cudaError_t filters_from_depth_any(float* dw, const float* from, const DepthShape& shape,
                                   cudaStream_t stream) {
  const unsigned count = static_cast<unsigned>(shape.k) * shape.r * shape.s * shape.c;
  return launch("filters_from_depth_any", filters_from_depth_kernel,
                dim3((count + FROM_DEPTH_THREADS - 1) / FROM_DEPTH_THREADS), dim3(FROM_DEPTH_THREADS), 0,
                stream, dw, from, shape, count);
}

}  // namespace pcn
