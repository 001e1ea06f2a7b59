// lrn_spatial_backward_generic: gradient of normalisation across size x size pixels of one channel, for every
// shape
//   t = dy * y / scale;   dx = dy * scale^-beta - 2 alpha beta x * sum of t over the windows that hold the
//   pixel
// dx, dy, x, y (n,h,w,c) of float or Bf16   scale (n,h,w,c) of float
//
// A thread makes one element and works out t of all windows that hold it from global memory, which L1 and L2
// serve: 3 * size^2 loads and size^2 divisions an element; bound by those. In bfloat16 y is made of x
// and scale.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

template <class T>
__global__ void __launch_bounds__(THREADS)
    lrn_spatial_backward_generic_kernel(T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ x,
                                        const T* __restrict__ y, const float* __restrict__ scale,
                                        float factor, float beta, Reach reach, LrnSpatialShape shape,
                                        unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const unsigned pixel = thread / shape.c;
  const int w = static_cast<int>(pixel % shape.w), h = static_cast<int>(pixel / shape.w % shape.h);
  float sum = 0.f;
  for (int r = -min(reach.back, h); r <= min(reach.ahead, shape.h - 1 - h); ++r) {
    for (int s = -min(reach.back, w); s <= min(reach.ahead, shape.w - 1 - w); ++s) {
      const unsigned i = thread + (r * shape.w + s) * shape.c;
      sum += widen(dy[i]) * normalised(x[i], y[i], scale[i], beta) / scale[i];
    }
  }
  dx[thread] =
      narrow<T>(widen(dy[thread]) * negative_power(scale[thread], beta) - factor * widen(x[thread]) * sum);
}

}  // namespace

template <class T>
cudaError_t lrn_spatial_backward_generic(T* dx, const T* dy, const T* x, const T* y, const float* scale,
                                         float alpha, float beta, const LrnSpatialShape& shape,
                                         cudaStream_t stream) {
  const long long threads = static_cast<long long>(shape.n) * shape.h * shape.w * shape.c;
  return launch("lrn_spatial_backward_generic", lrn_spatial_backward_generic_kernel<T>, blocks_for(threads),
                dim3(THREADS), 0, stream, dx, dy, x, y, scale, 2.f * alpha * beta, beta,
                reach_of_windows_over(shape.size), shape, static_cast<unsigned>(threads));
}
template LrnSpatialBackwardFn<float> lrn_spatial_backward_generic<float>;
template LrnSpatialBackwardFn<Bf16> lrn_spatial_backward_generic<Bf16>;

}  // namespace pcn
