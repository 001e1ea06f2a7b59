// max_pool2d_backward_generic: gradient of the maximum over windows of any size, stride and padding
//   dx[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p,q) whose argmax points at pixel (h,w)
//                 zero where mask[n,h,w,c] <= 0, if there is a mask
// dx, mask (n,h,w,c)   dy, argmax (n,p,q,c)   of float or Bf16, argmax uint8 or int32, see pool.h
//
// A gather: a thread makes 4 channels of one pixel (one where c % 4 != 0 or an array does not start on a
// pack's boundary), looking at the windows that hold it in ascending order, and adds in float. No atomics, so
// the same bits every time; pixels of no window get zero. DRAM: 4*h*w + 5*p*q bytes a channel, in bfloat16
// 2*h*w + 3*p*q, with a mask 4*h*w or 2*h*w more; what windows share comes from L1 and L2. Bound by memory.
#include "pool/windows.h"

namespace pcn {
namespace {

using namespace pool;

template <class T, class Arg, int VEC>
__global__ void __launch_bounds__(THREADS, 4)
    max_pool2d_backward_generic_kernel(T* __restrict__ dx, const T* __restrict__ dy,
                                       const Arg* __restrict__ argmax, const T* __restrict__ mask,
                                       Pool2dShape shape, unsigned threads) {
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
      const Pack<float, VEC> value = load_values<VEC>(dy + index);
      const Pack<Arg, VEC> where = load<VEC>(argmax + index);
      PCN_UNROLL
      for (int j = 0; j < VEC; ++j) sum.v[j] += where.v[j] == position ? value.v[j] : 0.f;
    }
  }
  const long long out = static_cast<long long>(thread) * VEC;
  if (mask != nullptr) mask_out(sum, load_values<VEC>(mask + out));
  store_values(dx + out, sum);
}

template <class T, class Arg>
cudaError_t max_pool2d_backward_of(T* dx, const T* dy, const Arg* argmax, const T* mask,
                                   const Pool2dShape& shape, cudaStream_t stream) {
  const bool packs = shape.c % 4 == 0 && aligned(dx, 4 * sizeof(T)) && aligned(dy, 4 * sizeof(T)) &&
                     aligned(mask, 4 * sizeof(T)) && aligned(argmax, 4 * sizeof(Arg));
  const auto kernel =
      packs ? max_pool2d_backward_generic_kernel<T, Arg, 4> : max_pool2d_backward_generic_kernel<T, Arg, 1>;
  const long long threads = static_cast<long long>(shape.n) * shape.h * shape.w * shape.c / (packs ? 4 : 1);
  return launch("max_pool2d_backward_generic", kernel, blocks_for(threads), dim3(THREADS), 0, stream, dx, dy,
                argmax, mask, shape, static_cast<unsigned>(threads));
}

}  // namespace

template <class T>
cudaError_t max_pool2d_backward_generic(T* dx, const T* dy, const void* argmax, const T* mask,
                                        const Pool2dShape& shape, cudaStream_t stream) {
  return argmax_is_byte(shape)
             ? max_pool2d_backward_of(dx, dy, static_cast<const std::uint8_t*>(argmax), mask, shape, stream)
             : max_pool2d_backward_of(dx, dy, static_cast<const std::int32_t*>(argmax), mask, shape, stream);
}
template MaxPool2dBackwardFn<float> max_pool2d_backward_generic<float>;
template MaxPool2dBackwardFn<Bf16> max_pool2d_backward_generic<Bf16>;

}  // namespace pcn
