// lrn_spatial_march: normalisation across 3x3 or 5x5 pixels of one channel
//   scale[h,w] = k + alpha * sum of x^2 over the size x size pixels around (h,w) in the image;  y = x *
//   scale^-beta
// x, y (n,h,w,c) of float or Bf16   scale (n,h,w,c) of float   size 3 or 5, c % 4 == 0
//
// See march.h. x is read for its square, and once more from L1 for y: 12 bytes of DRAM traffic an element, 8
// in bfloat16, and the halo, which L2 holds. 8 KB of shared memory a block. Bound by memory.
// lrn_spatial_generic stands in where an array does not start on a quadruple's boundary.
#include "norm/march.h"

namespace pcn {
namespace {

using namespace norm;

template <class T, int SIZE>
__global__ void __launch_bounds__(THREADS)
    lrn_spatial_march_kernel(Four<T>* __restrict__ y, Four<float>* __restrict__ scale,
                             const Four<T>* __restrict__ x, float alpha, float beta, float k,
                             LrnSpatialShape shape) {
  march<SIZE>(
      shape,
      [=](int i) {
        const float4 v = load4(x + i);
        return make_float4(v.x * v.x, v.y * v.y, v.z * v.z, v.w * v.w);
      },
      [=](int i, float4 sums) {
        const float4 v = load4(x + i);
        const float4 s =
            make_float4(k + alpha * sums.x, k + alpha * sums.y, k + alpha * sums.z, k + alpha * sums.w);
        store4(scale + i, s);
        store4(y + i, make_float4(v.x * negative_power(s.x, beta), v.y * negative_power(s.y, beta),
                                  v.z * negative_power(s.z, beta), v.w * negative_power(s.w, beta)));
      });
}

}  // namespace

bool lrn_spatial_march_supports(const LrnSpatialShape& shape) { return march_supports(shape); }

template <class T>
cudaError_t lrn_spatial_march(T* y, float* scale, const T* x, float alpha, float beta, float k,
                              const LrnSpatialShape& shape, cudaStream_t stream) {
  if (!aligned4(y) || !aligned4(scale) || !aligned4(x))
    return lrn_spatial_generic(y, scale, x, alpha, beta, k, shape, stream);
  const auto kernel = shape.size == 3 ? lrn_spatial_march_kernel<T, 3> : lrn_spatial_march_kernel<T, 5>;
  return launch("lrn_spatial_march", kernel, dim3(static_cast<unsigned>(march_blocks(shape))), dim3(THREADS),
                0, stream, fours(y), fours(scale), fours(x), alpha, beta, k, shape);
}
template LrnSpatialFn<float> lrn_spatial_march<float>;
template LrnSpatialFn<Bf16> lrn_spatial_march<Bf16>;

}  // namespace pcn
