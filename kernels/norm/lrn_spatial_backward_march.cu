// lrn_spatial_backward_march: gradient of normalisation across 3x3 or 5x5 pixels of one channel
//   t = dy * y / scale;   dx = dy * scale^-beta - 2 alpha beta x * sum of t over the size x size pixels
//   around
// dx, dy, x, scale (n,h,w,c)   size 3 or 5, c % 4 == 0
//
// See march.h. y is worked out anew as x * scale^-beta: dy, x and scale are read for t and once more, from
// L1, for dx; 16 bytes of DRAM traffic an element and the halo, which L2 holds. 8 KB of shared memory a
// block. Bound by memory. lrn_spatial_backward_generic stands in where an array does not start on 16 bytes.
#include "norm/march.h"

namespace pcn {
namespace {

using namespace norm;

template <int SIZE>
__global__ void __launch_bounds__(THREADS)
    lrn_spatial_backward_march_kernel(float4* __restrict__ dx, const float4* __restrict__ dy,
                                      const float4* __restrict__ x, const float4* __restrict__ scale,
                                      float factor, float beta, LrnSpatialShape shape) {
  march<SIZE>(
      shape,
      [=](int i) {
        const float4 g = dy[i], v = x[i], s = scale[i];
        return make_float4(
            g.x * (v.x * negative_power(s.x, beta)) / s.x, g.y * (v.y * negative_power(s.y, beta)) / s.y,
            g.z * (v.z * negative_power(s.z, beta)) / s.z, g.w * (v.w * negative_power(s.w, beta)) / s.w);
      },
      [=](int i, float4 sums) {
        const float4 g = dy[i], v = x[i], s = scale[i];
        dx[i] = make_float4(g.x * negative_power(s.x, beta) - factor * v.x * sums.x,
                            g.y * negative_power(s.y, beta) - factor * v.y * sums.y,
                            g.z * negative_power(s.z, beta) - factor * v.z * sums.z,
                            g.w * negative_power(s.w, beta) - factor * v.w * sums.w);
      });
}

}  // namespace

bool lrn_spatial_backward_march_supports(const LrnSpatialShape& shape) { return march_supports(shape); }

cudaError_t lrn_spatial_backward_march(float* dx, const float* dy, const float* x, const float* y,
                                       const float* scale, float alpha, float beta,
                                       const LrnSpatialShape& shape, cudaStream_t stream) {
  if (!aligned16(dx) || !aligned16(dy) || !aligned16(x) || !aligned16(scale))
    return lrn_spatial_backward_generic(dx, dy, x, y, scale, alpha, beta, shape, stream);
  const auto kernel =
      shape.size == 3 ? lrn_spatial_backward_march_kernel<3> : lrn_spatial_backward_march_kernel<5>;
  return launch("lrn_spatial_backward_march", kernel, dim3(static_cast<unsigned>(march_blocks(shape))),
                dim3(THREADS), 0, stream, reinterpret_cast<float4*>(dx), reinterpret_cast<const float4*>(dy),
                reinterpret_cast<const float4*>(x), reinterpret_cast<const float4*>(scale),
                2.f * alpha * beta, beta, shape);
}

}  // namespace pcn
