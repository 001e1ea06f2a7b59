// lrn_shuffle: normalisation across channels, windows of at most 9, groups of a multiple of 4 channels (the
// paper's: size 5)
//   scale[i] = k + alpha * sum of x[j]^2, j in [i - size/2, i - size/2 + size - 1] inside i's group;  y = x *
//   scale^-beta
// x, y (n,c) of float or Bf16   scale (n,c) of float
//
// A thread makes 4 channels, see shuffle.h; grid and block are flat over all of them. 12 bytes of traffic an
// element, 8 in bfloat16, each x read once but for 2 in 32 quadruples, which L1 has: bound by memory.
// lrn_generic stands in where an array does not start on a quadruple's boundary. To be measured: 8 channels a
// thread in bfloat16, accesses of 16 bytes, not 8.
#include "norm/shuffle.h"

namespace pcn {
namespace {

using namespace norm;

PCN_FN float4 square(float4 v) { return make_float4(v.x * v.x, v.y * v.y, v.z * v.z, v.w * v.w); }

template <class T>
__global__ void __launch_bounds__(THREADS)
    lrn_shuffle_kernel(Four<T>* __restrict__ y, Four<float>* __restrict__ scale,
                       const Four<T>* __restrict__ x, float alpha, float beta, float k, Reach reach,
                       unsigned per_group, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  const float4 own = thread < threads ? load4(x + thread) : zero4();
  const float4 sums = windowed_sums(thread, threads, per_group, reach, square(own),
                                    [x](unsigned i) { return square(load4(x + i)); });
  if (thread >= threads) return;
  const float4 s =
      make_float4(k + alpha * sums.x, k + alpha * sums.y, k + alpha * sums.z, k + alpha * sums.w);
  store4(scale + thread, s);
  store4(y + thread, make_float4(own.x * negative_power(s.x, beta), own.y * negative_power(s.y, beta),
                                 own.z * negative_power(s.z, beta), own.w * negative_power(s.w, beta)));
}

}  // namespace

bool lrn_shuffle_supports(const LrnShape& shape) { return shuffle_supports(shape); }

template <class T>
cudaError_t lrn_shuffle(T* y, float* scale, const T* x, float alpha, float beta, float k,
                        const LrnShape& shape, cudaStream_t stream) {
  if (!aligned4(y) || !aligned4(scale) || !aligned4(x))
    return lrn_generic(y, scale, x, alpha, beta, k, shape, stream);
  const long long threads = static_cast<long long>(shape.n) * shape.c / 4;
  return launch("lrn_shuffle", lrn_shuffle_kernel<T>, blocks_for(threads), dim3(THREADS), 0, stream, fours(y),
                fours(scale), fours(x), alpha, beta, k, reach_of_window(shape.size),
                static_cast<unsigned>(shape.c / shape.groups / 4), static_cast<unsigned>(threads));
}
template LrnFn<float> lrn_shuffle<float>;
template LrnFn<Bf16> lrn_shuffle<Bf16>;

}  // namespace pcn
