// avg_pool2d_backward_generic: gradient of the average over windows of any size, stride and padding
//   dx[n,h,w,c] = sum of dy[n,p,q,c] / count[p,q] over the windows (p,q) that hold pixel (h,w)
//                 zero where mask[n,h,w,c] <= 0, if there is a mask
// dx, mask (n,h,w,c)   dy (n,p,q,c)   of float or Bf16   count as in avg_pool2d_generic
//
// A gather: a thread makes 4 channels of one pixel (one where c % 4 != 0 or an array does not start on a
// pack's boundary), adding the windows in ascending order in float. No atomics, so the same bits every time;
// pixels of no window get zero. DRAM: 4 * (h*w + p*q) bytes a channel, with a mask 4*h*w more; in bfloat16
// half of that. Bound by memory. To be measured: 8 channels a thread in bfloat16, accesses of 16 bytes,
// not 8.
#include "pool/windows.h"

namespace pcn {
namespace {

using namespace pool;

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS, 4)
    avg_pool2d_backward_generic_kernel(T* __restrict__ dx, const T* __restrict__ dy,
                                       const T* __restrict__ mask, CountedPadding padding, Pool2dShape shape,
                                       unsigned threads) {
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
      const Pack<float, VEC> value =
          load_values<VEC>(dy + ((at.n * shape.p + p) * shape.q + q) * shape.c + at.c);
      PCN_UNROLL
      for (int j = 0; j < VEC; ++j) sum.v[j] += value.v[j] * share;
    }
  }
  const long long out = static_cast<long long>(thread) * VEC;
  if (mask != nullptr) mask_out(sum, load_values<VEC>(mask + out));
  store_values(dx + out, sum);
}

}  // namespace

template <class T>
cudaError_t avg_pool2d_backward_generic(T* dx, const T* dy, const T* mask, const CountedPadding& padding,
                                        const Pool2dShape& shape, cudaStream_t stream) {
  const bool packs = shape.c % 4 == 0 && aligned(dx, 4 * sizeof(T)) && aligned(dy, 4 * sizeof(T)) &&
                     aligned(mask, 4 * sizeof(T));
  const auto kernel =
      packs ? avg_pool2d_backward_generic_kernel<T, 4> : avg_pool2d_backward_generic_kernel<T, 1>;
  const long long threads = static_cast<long long>(shape.n) * shape.h * shape.w * shape.c / (packs ? 4 : 1);
  return launch("avg_pool2d_backward_generic", kernel, blocks_for(threads), dim3(THREADS), 0, stream, dx, dy,
                mask, padding, shape, static_cast<unsigned>(threads));
}
template AvgPool2dBackwardFn<float> avg_pool2d_backward_generic<float>;
template AvgPool2dBackwardFn<Bf16> avg_pool2d_backward_generic<Bf16>;

}  // namespace pcn
