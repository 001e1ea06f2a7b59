// lrn_max_pool2d_backward_generic: gradient of normalisation across channels and maximum over windows of
// pixels, every shape
//   g[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p,q) whose argmax points at pixel (h,w)
//   t = g * x * scale^-beta / scale
//   dx[i] = g[i] * scale[i]^-beta - 2 alpha beta x[i] * sum of t[j] over the channels j whose windows hold i;
//   zero where x[i] <= 0, with relu
// dx, x (n,h,w,c)   dy, argmax (n,p,q,c)   dx, dy, x of float or Bf16   argmax uint8 or int32, see norm.h
//
// A thread makes one element and works out scale and g of each channel whose window holds its own, from
// global memory, which L1 serves: lrn_size^2 loads of x, and of dy and argmax lrn_size times the windows over
// a pixel. Bound by those. A gather in ascending order of windows: no atomics, the same bits every time.
#include "norm/pooled.h"

namespace pcn {
namespace {

using namespace norm;

template <class T, class Arg>
__global__ void __launch_bounds__(THREADS)
    lrn_max_pool2d_backward_generic_kernel(T* __restrict__ dx, const T* __restrict__ dy,
                                           const Arg* __restrict__ argmax, const T* __restrict__ x,
                                           LrnMaxPool2dShape shape, float alpha, float beta, float k,
                                           float factor, bool relu, Reach reach, Reach over,
                                           unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int c = static_cast<int>(thread % shape.c);
  const unsigned pixel = thread / shape.c, line = pixel / shape.w;
  const int h = static_cast<int>(line % shape.h) + shape.pad_h;
  const int w = static_cast<int>(pixel % shape.w) + shape.pad_w;
  const int n = static_cast<int>(line / shape.h);
  const Clip rows = windows_over(h, shape.r, shape.stride_h, shape.p);
  const Clip cols = windows_over(w, shape.s, shape.stride_w, shape.q);
  const int per_group = shape.c / shape.groups, place = c % per_group;
  const int begin = -min(over.back, place), end = min(over.ahead, per_group - 1 - place);

  float sum = 0.f, straight = 0.f;
  for (int d = begin; d <= end; ++d) {
    float g = 0.f;
    for (int p = rows.begin; p < rows.end; ++p) {
      for (int q = cols.begin; q < cols.end; ++q) {
        const int position = (h - p * shape.stride_h) * shape.s + w - q * shape.stride_w;
        const int index = ((n * shape.p + p) * shape.q + q) * shape.c + c + d;
        g += argmax[index] == position ? widen(dy[index]) : 0.f;
      }
    }
    const T* at = x + thread + d;
    const float scale = scale_at(at, place + d, per_group, reach, alpha, k);
    const float power = negative_power(scale, beta);
    sum += g * (widen(*at) * power) / scale;
    if (d == 0) straight = g * power;
  }
  const float value = widen(x[thread]);
  dx[thread] = narrow<T>(before_relu(relu, value, straight - factor * value * sum));
}

template <class T, class Arg>
cudaError_t lrn_max_pool2d_backward_of(T* dx, const T* dy, const Arg* argmax, const T* x, float alpha,
                                       float beta, float k, bool relu, const LrnMaxPool2dShape& shape,
                                       cudaStream_t stream) {
  const long long threads = static_cast<long long>(shape.n) * shape.h * shape.w * shape.c;
  return launch("lrn_max_pool2d_backward_generic", lrn_max_pool2d_backward_generic_kernel<T, Arg>,
                blocks_for(threads), dim3(THREADS), 0, stream, dx, dy, argmax, x, shape, alpha, beta, k,
                2.f * alpha * beta, relu, reach_of_window(shape.lrn_size),
                reach_of_windows_over(shape.lrn_size), static_cast<unsigned>(threads));
}

}  // namespace

template <class T>
cudaError_t lrn_max_pool2d_backward_generic(T* dx, const T* dy, const void* argmax, const T* x, float alpha,
                                            float beta, float k, bool relu, const LrnMaxPool2dShape& shape,
                                            cudaStream_t stream) {
  return argmax_is_byte(shape) ? lrn_max_pool2d_backward_of(dx, dy, static_cast<const std::uint8_t*>(argmax),
                                                            x, alpha, beta, k, relu, shape, stream)
                               : lrn_max_pool2d_backward_of(dx, dy, static_cast<const std::int32_t*>(argmax),
                                                            x, alpha, beta, k, relu, shape, stream);
}
template LrnMaxPool2dBackwardFn<float> lrn_max_pool2d_backward_generic<float>;
template LrnMaxPool2dBackwardFn<Bf16> lrn_max_pool2d_backward_generic<Bf16>;

}  // namespace pcn
