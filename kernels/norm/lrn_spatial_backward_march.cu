// lrn_spatial_backward_march: gradient of normalisation across 3x3 or 5x5 pixels of one channel
//   t = dy * y / scale;   dx = dy * scale^-beta - 2 alpha beta x * sum of t over the size x size pixels
//   around
// dx, dy, x (n,h,w,c) of float or Bf16   scale (n,h,w,c) of float   size 3 or 5, c % 4 == 0
//
// See march.h. y is worked out anew as x * scale^-beta: dy, x and scale are read for t and once more, from
// L1, for dx; 16 bytes of DRAM traffic an element, 10 in bfloat16, and the halo, which L2 holds. 8 KB of
// shared memory a block. Bound by memory. lrn_spatial_backward_generic stands in where an array does not
// start on a quadruple's boundary.
#include "norm/march.h"

namespace pcn {
namespace {

using namespace norm;

template <class T, int SIZE>
__global__ void __launch_bounds__(THREADS)
    lrn_spatial_backward_march_kernel(Four<T>* __restrict__ dx, const Four<T>* __restrict__ dy,
                                      const Four<T>* __restrict__ x, const Four<float>* __restrict__ scale,
                                      float factor, float beta, LrnSpatialShape shape) {
  march<SIZE>(
      shape,
      [=](int i) {
        const float4 g = load4(dy + i), v = load4(x + i), s = load4(scale + i);
        return make_float4(
            g.x * (v.x * negative_power(s.x, beta)) / s.x, g.y * (v.y * negative_power(s.y, beta)) / s.y,
            g.z * (v.z * negative_power(s.z, beta)) / s.z, g.w * (v.w * negative_power(s.w, beta)) / s.w);
      },
      [=](int i, float4 sums) {
        const float4 g = load4(dy + i), v = load4(x + i), s = load4(scale + i);
        store4(dx + i, make_float4(g.x * negative_power(s.x, beta) - factor * v.x * sums.x,
                                   g.y * negative_power(s.y, beta) - factor * v.y * sums.y,
                                   g.z * negative_power(s.z, beta) - factor * v.z * sums.z,
                                   g.w * negative_power(s.w, beta) - factor * v.w * sums.w));
      });
}

}  // namespace

bool lrn_spatial_backward_march_supports(const LrnSpatialShape& shape) { return march_supports(shape); }

template <class T>
cudaError_t lrn_spatial_backward_march(T* dx, const T* dy, const T* x, const T* y, const float* scale,
                                       float alpha, float beta, const LrnSpatialShape& shape,
                                       cudaStream_t stream) {
  if (!aligned4(dx) || !aligned4(dy) || !aligned4(x) || !aligned4(scale))
    return lrn_spatial_backward_generic(dx, dy, x, y, scale, alpha, beta, shape, stream);
  const auto kernel =
      shape.size == 3 ? lrn_spatial_backward_march_kernel<T, 3> : lrn_spatial_backward_march_kernel<T, 5>;
  return launch("lrn_spatial_backward_march", kernel, dim3(static_cast<unsigned>(march_blocks(shape))),
                dim3(THREADS), 0, stream, fours(dx), fours(dy), fours(x), fours(scale), 2.f * alpha * beta,
                beta, shape);
}
template LrnSpatialBackwardFn<float> lrn_spatial_backward_march<float>;
template LrnSpatialBackwardFn<Bf16> lrn_spatial_backward_march<Bf16>;

}  // namespace pcn
