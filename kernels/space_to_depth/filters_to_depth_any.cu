// filters_to_depth_any: filters for images in the depth layout, t = side
//   to[k, r', s', (a t + b) C + c] = w[k, t r' + a, t s' + b, c], 0 beyond the filter and in channels left
//   over
// w (K, R, S, C)   to (K, to_r, to_s, to_c)   float or Bf16
// A thread an element of `to`: neighbours write neighbours and read runs of t C. A few hundred kilobytes:
// bound by latency. Accepts everything.
#include "common/device.h"
#include "common/element.h"
#include "space_to_depth/space_to_depth.h"

namespace pcn {
namespace {

constexpr int THREADS = 256;

template <class T>
__global__ void __launch_bounds__(THREADS)
    filters_to_depth_kernel(T* __restrict__ to, const T* __restrict__ w, DepthShape shape, unsigned count) {
  const unsigned index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= count) return;
  const int t = shape.side, place = index / shape.to_c, depth = index - place * shape.to_c;
  const int tap = depth / shape.c, c = depth - tap * shape.c, a = tap / t;
  const int line = place / shape.to_s, k = line / shape.to_r;
  const int r = (line - k * shape.to_r) * t + a, s = (place - line * shape.to_s) * t + (tap - a * t);
  const bool inside = a < t && r < shape.r && s < shape.s;
  to[index] = inside ? w[((k * shape.r + r) * shape.s + s) * shape.c + c] : narrow<T>(0.f);
}

}  // namespace

template <class T>
cudaError_t filters_to_depth_any(T* to, const T* w, const DepthShape& shape, cudaStream_t stream) {
  const unsigned count = static_cast<unsigned>(shape.k) * shape.to_r * shape.to_s * shape.to_c;
  return launch("filters_to_depth_any", filters_to_depth_kernel<T>, dim3((count + THREADS - 1) / THREADS),
                dim3(THREADS), 0, stream, to, w, shape, count);
}

template cudaError_t filters_to_depth_any(float*, const float*, const DepthShape&, cudaStream_t);
template cudaError_t filters_to_depth_any(Bf16*, const Bf16*, const DepthShape&, cudaStream_t);

}  // namespace pcn
