// lrn_spatial_march: normalisation across 3x3 or 5x5 pixels of one channel
//   scale[h,w] = k + alpha * sum of x^2 over the size x size pixels around (h,w) in the image;  y = x *
//   scale^-beta
// x, y, scale (n,h,w,c)   size 3 or 5, c % 4 == 0
//
// See march.h. x is read for its square, and once more from L1 for y: 12 bytes of DRAM traffic an element and
// the halo, which L2 holds. 8 KB of shared memory a block. Bound by memory. lrn_spatial_generic stands in
// where an array does not start on 16 bytes.
#include "norm/march.h"

namespace pcn {
namespace {

using namespace norm;

template <int SIZE>
__global__ void __launch_bounds__(THREADS)
    lrn_spatial_march_kernel(float4* __restrict__ y, float4* __restrict__ scale, const float4* __restrict__ x,
                             float alpha, float beta, float k, LrnSpatialShape shape) {
  march<SIZE>(
      shape,
      [=](int i) {
        const float4 v = x[i];
        return make_float4(v.x * v.x, v.y * v.y, v.z * v.z, v.w * v.w);
      },
      [=](int i, float4 sums) {
        const float4 v = x[i];
        const float4 s =
            make_float4(k + alpha * sums.x, k + alpha * sums.y, k + alpha * sums.z, k + alpha * sums.w);
        scale[i] = s;
        y[i] = make_float4(v.x * negative_power(s.x, beta), v.y * negative_power(s.y, beta),
                           v.z * negative_power(s.z, beta), v.w * negative_power(s.w, beta));
      });
}

}  // namespace

bool lrn_spatial_march_supports(const LrnSpatialShape& shape) { return march_supports(shape); }

cudaError_t lrn_spatial_march(float* y, float* scale, const float* x, float alpha, float beta, float k,
                              const LrnSpatialShape& shape, cudaStream_t stream) {
  if (!aligned16(y) || !aligned16(scale) || !aligned16(x))
    return lrn_spatial_generic(y, scale, x, alpha, beta, k, shape, stream);
  const auto kernel = shape.size == 3 ? lrn_spatial_march_kernel<3> : lrn_spatial_march_kernel<5>;
  return launch("lrn_spatial_march", kernel, dim3(static_cast<unsigned>(march_blocks(shape))), dim3(THREADS),
                0, stream, reinterpret_cast<float4*>(y), reinterpret_cast<float4*>(scale),
                reinterpret_cast<const float4*>(x), alpha, beta, k, shape);
}

}  // namespace pcn
