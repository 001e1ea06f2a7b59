// lrn_backward_shuffle: gradient of normalisation across channels, windows of at most 9, groups of a multiple
// of 4 channels
//   t = dy * y / scale;   dx[i] = dy[i] * scale[i]^-beta - 2 alpha beta x[i] * sum of t[j] over the windows j
//   that hold i
// dx, dy, x, scale (n,c)
//
// A thread makes 4 channels, see shuffle.h. y is worked out anew as x * scale^-beta, since the power is
// needed in any case: 16 bytes of traffic an element instead of 20. Bound by memory. lrn_backward_generic
// stands in where an array does not start on 16 bytes.
#include "norm/shuffle.h"

namespace pcn {
namespace {

using namespace norm;

PCN_FN float4 powers(float4 scale, float beta) {
  return make_float4(negative_power(scale.x, beta), negative_power(scale.y, beta),
                     negative_power(scale.z, beta), negative_power(scale.w, beta));
}
PCN_FN float4 terms(float4 dy, float4 x, float4 scale, float4 power) {
  return make_float4(dy.x * (x.x * power.x) / scale.x, dy.y * (x.y * power.y) / scale.y,
                     dy.z * (x.z * power.z) / scale.z, dy.w * (x.w * power.w) / scale.w);
}

__global__ void __launch_bounds__(THREADS)
    lrn_backward_shuffle_kernel(float4* __restrict__ dx, const float4* __restrict__ dy,
                                const float4* __restrict__ x, const float4* __restrict__ scale, float factor,
                                float beta, Reach reach, unsigned per_group, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  float4 g = zero4(), v = zero4(), s = make_float4(1.f, 1.f, 1.f, 1.f);
  if (thread < threads) {
    g = dy[thread];
    v = x[thread];
    s = scale[thread];
  }
  const float4 power = powers(s, beta);
  const float4 sums =
      windowed_sums(thread, threads, per_group, reach, terms(g, v, s, power),
                    [=](unsigned i) { return terms(dy[i], x[i], scale[i], powers(scale[i], beta)); });
  if (thread >= threads) return;
  dx[thread] = make_float4(g.x * power.x - factor * v.x * sums.x, g.y * power.y - factor * v.y * sums.y,
                           g.z * power.z - factor * v.z * sums.z, g.w * power.w - factor * v.w * sums.w);
}

}  // namespace

bool lrn_backward_shuffle_supports(const LrnShape& shape) { return shuffle_supports(shape); }

cudaError_t lrn_backward_shuffle(float* dx, const float* dy, const float* x, const float* y,
                                 const float* scale, float alpha, float beta, const LrnShape& shape,
                                 cudaStream_t stream) {
  if (!aligned16(dx) || !aligned16(dy) || !aligned16(x) || !aligned16(scale))
    return lrn_backward_generic(dx, dy, x, y, scale, alpha, beta, shape, stream);
  const long long threads = static_cast<long long>(shape.n) * shape.c / 4;
  return launch("lrn_backward_shuffle", lrn_backward_shuffle_kernel, blocks_for(threads), dim3(THREADS), 0,
                stream, reinterpret_cast<float4*>(dx), reinterpret_cast<const float4*>(dy),
                reinterpret_cast<const float4*>(x), reinterpret_cast<const float4*>(scale),
                2.f * alpha * beta, beta, reach_of_windows_over(shape.size),
                static_cast<unsigned>(shape.c / shape.groups / 4), static_cast<unsigned>(threads));
}

}  // namespace pcn
