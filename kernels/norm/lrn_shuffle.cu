// lrn_shuffle: normalisation across channels, windows of at most 9, groups of a multiple of 4 channels (the
// paper's: size 5)
//   scale[i] = k + alpha * sum of x[j]^2, j in [i - size/2, i - size/2 + size - 1] inside i's group;  y = x *
//   scale^-beta
// x, y, scale (n,c)
//
// A thread makes 4 channels, see shuffle.h; grid and block are flat over all of them. 12 bytes of traffic an
// element, each x read once but for 2 in 32 float4s, which L1 has: bound by memory. lrn_generic stands in
// where an array does not start on 16 bytes.
#include "norm/shuffle.h"

namespace pcn {
namespace {

using namespace norm;

PCN_FN float4 square(float4 v) { return make_float4(v.x * v.x, v.y * v.y, v.z * v.z, v.w * v.w); }

__global__ void __launch_bounds__(THREADS)
    lrn_shuffle_kernel(float4* __restrict__ y, float4* __restrict__ scale, const float4* __restrict__ x,
                       float alpha, float beta, float k, Reach reach, unsigned per_group, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  const float4 own = thread < threads ? x[thread] : zero4();
  const float4 sums =
      windowed_sums(thread, threads, per_group, reach, square(own), [x](unsigned i) { return square(x[i]); });
  if (thread >= threads) return;
  const float4 s =
      make_float4(k + alpha * sums.x, k + alpha * sums.y, k + alpha * sums.z, k + alpha * sums.w);
  scale[thread] = s;
  y[thread] = make_float4(own.x * negative_power(s.x, beta), own.y * negative_power(s.y, beta),
                          own.z * negative_power(s.z, beta), own.w * negative_power(s.w, beta));
}

}  // namespace

bool lrn_shuffle_supports(const LrnShape& shape) { return shuffle_supports(shape); }

cudaError_t lrn_shuffle(float* y, float* scale, const float* x, float alpha, float beta, float k,
                        const LrnShape& shape, cudaStream_t stream) {
  if (!aligned16(y) || !aligned16(scale) || !aligned16(x))
    return lrn_generic(y, scale, x, alpha, beta, k, shape, stream);
  const long long threads = static_cast<long long>(shape.n) * shape.c / 4;
  return launch("lrn_shuffle", lrn_shuffle_kernel, blocks_for(threads), dim3(THREADS), 0, stream,
                reinterpret_cast<float4*>(y), reinterpret_cast<float4*>(scale),
                reinterpret_cast<const float4*>(x), alpha, beta, k, reach_of_window(shape.size),
                static_cast<unsigned>(shape.c / shape.groups / 4), static_cast<unsigned>(threads));
}

}  // namespace pcn
