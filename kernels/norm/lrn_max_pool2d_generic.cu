// lrn_max_pool2d_generic: normalisation across channels and maximum over windows of pixels, every shape
//   u[i] = x[i] * (k + alpha * sum of x[j]^2)^-beta, j in [i - size/2, i - size/2 + size - 1] in i's group
//   y[n,p,q,c] = max over r,s of u[n, p*stride_h + r - pad_h, q*stride_w + s - pad_w, c]; argmax = r*S + s
// x (n,h,w,c)   y, argmax (n,p,q,c)   x, y of float or Bf16   argmax uint8 or int32, see norm.h
//
// A thread makes one output and works out u of each pixel of its window from global memory, which L1 serves:
// lrn_size loads and a power for each, so pixels of several windows are normalised several times. Bound by
// those. Rounds like lrn_generic; the first maximum in row-major order wins, the first NaN every number.
// In bfloat16 maxima are of float values: only the greatest is rounded.
#include "norm/pooled.h"

namespace pcn {
namespace {

using namespace norm;

template <class T, class Arg>
__global__ void __launch_bounds__(THREADS)
    lrn_max_pool2d_generic_kernel(T* __restrict__ y, Arg* __restrict__ argmax, const T* __restrict__ x,
                                  LrnMaxPool2dShape shape, float alpha, float beta, float k, Reach reach,
                                  unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int c = static_cast<int>(thread % shape.c);
  const unsigned pixel = thread / shape.c, line = pixel / shape.q;
  const int q = static_cast<int>(pixel % shape.q), p = static_cast<int>(line % shape.p);
  const int n = static_cast<int>(line / shape.p);
  const int h0 = p * shape.stride_h - shape.pad_h, w0 = q * shape.stride_w - shape.pad_w;
  const Clip rows = clip(h0, shape.r, shape.h), cols = clip(w0, shape.s, shape.w);
  const int per_group = shape.c / shape.groups, place = c % per_group;

  float best = -INFINITY;  // a window of -inf alone is found at its first pixel inside the image
  int where = rows.begin * shape.s + cols.begin;
  for (int r = rows.begin; r < rows.end; ++r) {
    const T* at = x + ((n * shape.h + h0 + r) * shape.w + w0 + cols.begin) * shape.c + c;
    for (int s = cols.begin; s < cols.end; ++s, at += shape.c) {
      const float value = widen(*at) * negative_power(scale_at(at, place, per_group, reach, alpha, k), beta);
      if (beats(value, best)) {
        best = value;
        where = r * shape.s + s;
      }
    }
  }
  y[thread] = narrow<T>(best);
  argmax[thread] = static_cast<Arg>(where);
}

template <class T, class Arg>
cudaError_t lrn_max_pool2d_of(T* y, Arg* argmax, const T* x, float alpha, float beta, float k,
                              const LrnMaxPool2dShape& shape, cudaStream_t stream) {
  const long long threads = static_cast<long long>(shape.n) * shape.p * shape.q * shape.c;
  return launch("lrn_max_pool2d_generic", lrn_max_pool2d_generic_kernel<T, Arg>, blocks_for(threads),
                dim3(THREADS), 0, stream, y, argmax, x, shape, alpha, beta, k,
                reach_of_window(shape.lrn_size), static_cast<unsigned>(threads));
}

}  // namespace

template <class T>
cudaError_t lrn_max_pool2d_generic(T* y, void* argmax, const T* x, float alpha, float beta, float k,
                                   const LrnMaxPool2dShape& shape, cudaStream_t stream) {
  return argmax_is_byte(shape)
             ? lrn_max_pool2d_of(y, static_cast<std::uint8_t*>(argmax), x, alpha, beta, k, shape, stream)
             : lrn_max_pool2d_of(y, static_cast<std::int32_t*>(argmax), x, alpha, beta, k, shape, stream);
}
template LrnMaxPool2dFn<float> lrn_max_pool2d_generic<float>;
template LrnMaxPool2dFn<Bf16> lrn_max_pool2d_generic<Bf16>;

}  // namespace pcn
