// avg_pool2d_backward_generic: gradient of the average over windows of any size, stride and padding
//   dx[n,h,w,c] = sum of dy[n,p,q,c] / count[p,q] over the windows (p,q) that hold pixel (h,w)
// dx (n,h,w,c)   dy (n,p,q,c)   count as in avg_pool2d_generic
//
// A gather: a thread makes 4 channels of one pixel (one where c % 4 != 0 or an array does not start on 16
// bytes), adding the windows in ascending order. No atomics, so the same bits every time; pixels of no window
// get zero. DRAM: 4 * (h*w + p*q) bytes a channel. Bound by memory.
#include "pool/windows.h"

namespace pcn {
namespace {

using namespace pool;

template <int VEC>
__global__ void __launch_bounds__(THREADS, 4)
    avg_pool2d_backward_generic_kernel(float* __restrict__ dx, const float* __restrict__ dy,
                                       CountedPadding padding, Pool2dShape shape, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const Place at = place_of<VEC>(thread, shape.h, shape.w, shape.c);
  const Clip rows = windows_over(at.row + shape.pad_h, shape.r, shape.stride_h, shape.p);
  const Clip cols = windows_over(at.col + shape.pad_w, shape.s, shape.stride_w, shape.q);

  Pack<float, VEC> sum = {};
  for (int p = rows.begin; p < rows.end; ++p) {
    const int count_h =
        counted(p * shape.stride_h - shape.pad_h, shape.r, shape.h, padding.top, padding.bottom);
    for (int q = cols.begin; q < cols.end; ++q) {
      const int count_w =
          counted(q * shape.stride_w - shape.pad_w, shape.s, shape.w, padding.left, padding.right);
      const float share = 1.f / (static_cast<float>(count_h) * static_cast<float>(count_w));
      const Pack<float, VEC> value = load<VEC>(dy + ((at.n * shape.p + p) * shape.q + q) * shape.c + at.c);
      PCN_UNROLL
      for (int j = 0; j < VEC; ++j) sum.v[j] += value.v[j] * share;
    }
  }
  store<VEC>(dx + static_cast<long long>(thread) * VEC, sum);
}

}  // namespace

cudaError_t avg_pool2d_backward_generic(float* dx, const float* dy, const CountedPadding& padding,
                                        const Pool2dShape& shape, cudaStream_t stream) {
  const bool packs = shape.c % 4 == 0 && aligned(dx, 16) && aligned(dy, 16);
  const auto kernel = packs ? avg_pool2d_backward_generic_kernel<4> : avg_pool2d_backward_generic_kernel<1>;
  const long long threads = static_cast<long long>(shape.n) * shape.h * shape.w * shape.c / (packs ? 4 : 1);
  return launch("avg_pool2d_backward_generic", kernel, blocks_for(threads), dim3(THREADS), 0, stream, dx, dy,
                padding, shape, static_cast<unsigned>(threads));
}

}  // namespace pcn
