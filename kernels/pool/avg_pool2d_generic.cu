// avg_pool2d_generic: average over windows of any size, stride and padding
//   y[n,p,q,c] = sum over r,s of x[n, p*stride_h + r - pad_h, q*stride_w + s - pad_w, c] / count[p,q]
// x (n,h,w,c)   y (n,p,q,c)   of float or Bf16   count: the window's pixels in the image, or in the image and
// the counted padding
//
// A thread makes 4 channels of one output (one where c % 4 != 0 or an array does not start on a pack's
// boundary), adding in row-major order in float. Windows that overlap are served by L1 and L2: DRAM sees
// 4 * (h*w + p*q) bytes a channel, half of that in bfloat16. Bound by memory as long as size^2 / stride^2
// stays below 4 or so. To be measured: 8 channels a thread in bfloat16, accesses of 16 bytes, not 8.
#include "pool/windows.h"

namespace pcn {
namespace {

using namespace pool;

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS, 4)
    avg_pool2d_generic_kernel(T* __restrict__ y, const T* __restrict__ x, CountedPadding padding,
                              Pool2dShape shape, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const Place at = place_of<VEC>(thread, shape.p, shape.q, shape.c);
  const int h0 = at.row * shape.stride_h - shape.pad_h, w0 = at.col * shape.stride_w - shape.pad_w;
  const Clip rows = clip(h0, shape.r, shape.h), cols = clip(w0, shape.s, shape.w);

  Pack<float, VEC> sum = {};
  for (int r = rows.begin; r < rows.end; ++r) {
    const T* line = x + ((at.n * shape.h + h0 + r) * shape.w + w0 + cols.begin) * shape.c + at.c;
    for (int s = cols.begin; s < cols.end; ++s, line += shape.c) {
      const Pack<float, VEC> value = load_values<VEC>(line);
      PCN_UNROLL
      for (int j = 0; j < VEC; ++j) sum.v[j] += value.v[j];
    }
  }
  const float count = static_cast<float>(counted(h0, shape.r, shape.h, padding.top, padding.bottom)) *
                      static_cast<float>(counted(w0, shape.s, shape.w, padding.left, padding.right));
  PCN_UNROLL
  for (int j = 0; j < VEC; ++j) sum.v[j] /= count;
  store_values(y + static_cast<long long>(thread) * VEC, sum);
}

}  // namespace

template <class T>
cudaError_t avg_pool2d_generic(T* y, const T* x, const CountedPadding& padding, const Pool2dShape& shape,
                               cudaStream_t stream) {
  const bool packs = shape.c % 4 == 0 && aligned(y, 4 * sizeof(T)) && aligned(x, 4 * sizeof(T));
  const auto kernel = packs ? avg_pool2d_generic_kernel<T, 4> : avg_pool2d_generic_kernel<T, 1>;
  const long long threads = static_cast<long long>(shape.n) * shape.p * shape.q * shape.c / (packs ? 4 : 1);
  return launch("avg_pool2d_generic", kernel, blocks_for(threads), dim3(THREADS), 0, stream, y, x, padding,
                shape, static_cast<unsigned>(threads));
}
template AvgPool2dFn<float> avg_pool2d_generic<float>;
template AvgPool2dFn<Bf16> avg_pool2d_generic<Bf16>;

}  // namespace pcn
