// lrn_spatial_generic: normalisation across size x size pixels of one channel, for every shape
//   scale[h,w] = k + alpha * sum of x^2 over rows [h - size/2, h - size/2 + size - 1] and columns likewise,
//   in the image y = x * scale^-beta
// x, y (n,h,w,c) of float or Bf16   scale (n,h,w,c) of float
//
// A thread makes one element and reads its window from global memory; neighbouring threads read neighbouring
// channels, and L1 and L2 serve what windows share: size^2 loads an element; bound by those.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

template <class T>
__global__ void __launch_bounds__(THREADS)
    lrn_spatial_generic_kernel(T* __restrict__ y, float* __restrict__ scale, const T* __restrict__ x,
                               float alpha, float beta, float k, Reach reach, LrnSpatialShape shape,
                               unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const unsigned pixel = thread / shape.c;
  const int w = static_cast<int>(pixel % shape.w), h = static_cast<int>(pixel / shape.w % shape.h);
  const T* at = x + thread;
  float sum = 0.f;
  for (int r = -min(reach.back, h); r <= min(reach.ahead, shape.h - 1 - h); ++r) {
    for (int s = -min(reach.back, w); s <= min(reach.ahead, shape.w - 1 - w); ++s) {
      const float value = widen(at[(r * shape.w + s) * shape.c]);
      sum += value * value;
    }
  }
  const float total = k + alpha * sum;
  scale[thread] = total;
  y[thread] = narrow<T>(widen(*at) * negative_power(total, beta));
}

}  // namespace

template <class T>
cudaError_t lrn_spatial_generic(T* y, float* scale, const T* x, float alpha, float beta, float k,
                                const LrnSpatialShape& shape, cudaStream_t stream) {
  const long long threads = static_cast<long long>(shape.n) * shape.h * shape.w * shape.c;
  return launch("lrn_spatial_generic", lrn_spatial_generic_kernel<T>, blocks_for(threads), dim3(THREADS), 0,
                stream, y, scale, x, alpha, beta, k, reach_of_window(shape.size), shape,
                static_cast<unsigned>(threads));
}
template LrnSpatialFn<float> lrn_spatial_generic<float>;
template LrnSpatialFn<Bf16> lrn_spatial_generic<Bf16>;

}  // namespace pcn
