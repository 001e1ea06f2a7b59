// max_pool2d_generic: maximum over windows of any size, stride and padding, with the place it was found
//   y[n,p,q,c] = max over r,s of x[n, p*stride_h + r - pad_h, q*stride_w + s - pad_w, c];  argmax = r*S + s
// x (n,h,w,c)   y, argmax (n,p,q,c)   x, y of float or Bf16   argmax uint8 or int32, see pool.h
//
// The first maximum in row-major order wins; the first NaN beats every number, as in NumPy and PyTorch.
// Selecting does not round, and among the many equal numbers that bfloat16 has the same one wins.
// A thread makes 4 channels of one output (one where c % 4 != 0 or an array does not start on a pack's
// boundary) straight from global memory: windows that overlap are served by L1 and L2, so DRAM sees about
// 4*h*w + 5*p*q bytes a channel, 2*h*w + 3*p*q in bfloat16. Bound by memory as long as size^2 / stride^2
// stays below 4 or so; above, by L1. Very large windows (global pooling) have few threads.
#include "pool/windows.h"

namespace pcn {
namespace {

using namespace pool;

template <class T, class Arg, int VEC>
__global__ void __launch_bounds__(THREADS)
    max_pool2d_generic_kernel(T* __restrict__ y, Arg* __restrict__ argmax, const T* __restrict__ x,
                              Pool2dShape shape, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const Place at = place_of<VEC>(thread, shape.p, shape.q, shape.c);
  const int h0 = at.row * shape.stride_h - shape.pad_h, w0 = at.col * shape.stride_w - shape.pad_w;
  const Clip rows = clip(h0, shape.r, shape.h), cols = clip(w0, shape.s, shape.w);

  Pack<float, VEC> best;
  Pack<Arg, VEC> where;
  PCN_UNROLL
  for (int j = 0; j < VEC; ++j) {
    best.v[j] = -INFINITY;  // a window of -inf alone is found at its first pixel inside the image
    where.v[j] = static_cast<Arg>(rows.begin * shape.s + cols.begin);
  }
  for (int r = rows.begin; r < rows.end; ++r) {
    const T* line = x + ((at.n * shape.h + h0 + r) * shape.w + w0 + cols.begin) * shape.c + at.c;
    for (int s = cols.begin; s < cols.end; ++s, line += shape.c) {
      const Pack<float, VEC> value = load_values<VEC>(line);
      PCN_UNROLL
      for (int j = 0; j < VEC; ++j) {
        if (!(value.v[j] <= best.v[j]) && best.v[j] == best.v[j]) {  // greater, or the first NaN
          best.v[j] = value.v[j];
          where.v[j] = static_cast<Arg>(r * shape.s + s);
        }
      }
    }
  }
  store_values(y + static_cast<long long>(thread) * VEC, best);
  store<VEC>(argmax + static_cast<long long>(thread) * VEC, where);
}

template <class T, class Arg>
cudaError_t max_pool2d_of(T* y, Arg* argmax, const T* x, const Pool2dShape& shape, cudaStream_t stream) {
  const bool packs = shape.c % 4 == 0 && aligned(y, 4 * sizeof(T)) && aligned(x, 4 * sizeof(T)) &&
                     aligned(argmax, 4 * sizeof(Arg));
  const auto kernel = packs ? max_pool2d_generic_kernel<T, Arg, 4> : max_pool2d_generic_kernel<T, Arg, 1>;
  const long long threads = static_cast<long long>(shape.n) * shape.p * shape.q * shape.c / (packs ? 4 : 1);
  return launch("max_pool2d_generic", kernel, blocks_for(threads), dim3(THREADS), 0, stream, y, argmax, x,
                shape, static_cast<unsigned>(threads));
}

}  // namespace

template <class T>
cudaError_t max_pool2d_generic(T* y, void* argmax, const T* x, const Pool2dShape& shape,
                               cudaStream_t stream) {
  return argmax_is_byte(shape) ? max_pool2d_of(y, static_cast<std::uint8_t*>(argmax), x, shape, stream)
                               : max_pool2d_of(y, static_cast<std::int32_t*>(argmax), x, shape, stream);
}
template MaxPool2dFn<float> max_pool2d_generic<float>;
template MaxPool2dFn<Bf16> max_pool2d_generic<Bf16>;

}  // namespace pcn
