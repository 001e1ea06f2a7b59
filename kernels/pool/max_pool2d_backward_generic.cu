// max_pool2d_backward_generic: gradient of the maximum over windows of any size, stride and padding
//   dx[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p,q) whose argmax points at pixel (h,w)
// dx (n,h,w,c)   dy, argmax (n,p,q,c)   argmax uint8 or int32, see pool.h
//
// A gather: a thread makes 4 channels of one pixel (one where c % 4 != 0 or an array does not start on a
// pack's boundary), looking at the windows that hold it in ascending order. No atomics, so the same bits
// every time; pixels of no window get zero. DRAM: 4*h*w + 5*p*q bytes a channel, what windows share comes
// from L1 and L2. Bound by memory.
#include "pool/windows.h"

namespace pcn {
namespace {

using namespace pool;

template <class Arg, int VEC>
__global__ void __launch_bounds__(THREADS)
    max_pool2d_backward_generic_kernel(float* __restrict__ dx, const float* __restrict__ dy,
                                       const Arg* __restrict__ argmax, Pool2dShape shape, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const Place at = place_of<VEC>(thread, shape.h, shape.w, shape.c);
  const int h = at.row + shape.pad_h, w = at.col + shape.pad_w;
  const Clip rows = windows_over(h, shape.r, shape.stride_h, shape.p);
  const Clip cols = windows_over(w, shape.s, shape.stride_w, shape.q);

  Pack<float, VEC> sum = {};
  for (int p = rows.begin; p < rows.end; ++p) {
    for (int q = cols.begin; q < cols.end; ++q) {
      const int position = (h - p * shape.stride_h) * shape.s + w - q * shape.stride_w;
      const int index = ((at.n * shape.p + p) * shape.q + q) * shape.c + at.c;
      const Pack<float, VEC> value = load<VEC>(dy + index);
      const Pack<Arg, VEC> where = load<VEC>(argmax + index);
      PCN_UNROLL
      for (int j = 0; j < VEC; ++j) sum.v[j] += where.v[j] == position ? value.v[j] : 0.f;
    }
  }
  store<VEC>(dx + static_cast<long long>(thread) * VEC, sum);
}

template <class Arg>
cudaError_t run(float* dx, const float* dy, const Arg* argmax, const Pool2dShape& shape,
                cudaStream_t stream) {
  const bool packs =
      shape.c % 4 == 0 && aligned(dx, 16) && aligned(dy, 16) && aligned(argmax, 4 * sizeof(Arg));
  const auto kernel =
      packs ? max_pool2d_backward_generic_kernel<Arg, 4> : max_pool2d_backward_generic_kernel<Arg, 1>;
  const long long threads = static_cast<long long>(shape.n) * shape.h * shape.w * shape.c / (packs ? 4 : 1);
  return launch("max_pool2d_backward_generic", kernel, blocks_for(threads), dim3(THREADS), 0, stream, dx, dy,
                argmax, shape, static_cast<unsigned>(threads));
}

}  // namespace

cudaError_t max_pool2d_backward_generic(float* dx, const float* dy, const void* argmax,
                                        const Pool2dShape& shape, cudaStream_t stream) {
  return argmax_is_byte(shape) ? run(dx, dy, static_cast<const std::uint8_t*>(argmax), shape, stream)
                               : run(dx, dy, static_cast<const std::int32_t*>(argmax), shape, stream);
}

}  // namespace pcn
