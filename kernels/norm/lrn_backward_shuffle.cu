// lrn_backward_shuffle: gradient of normalisation across channels, windows of at most 9, groups of a multiple
// of 4 channels
//   t = dy * y / scale;   dx[i] = dy[i] * scale[i]^-beta - 2 alpha beta x[i] * sum of t[j] over the windows j
//   that hold i; zero where x[i] <= 0, with relu
// dx, dy, x (n,c) of float or Bf16   scale (n,c) of float
//
// A thread makes 4 channels, see shuffle.h. y is worked out anew as x * scale^-beta, since the power is
// needed in any case: 16 bytes of traffic an element instead of 20, 10 in bfloat16. Bound by memory.
// lrn_backward_generic stands in where an array does not start on a quadruple's boundary. To be measured: 8
// channels a thread in bfloat16, accesses of 16 bytes, not 8.
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

template <class T>
__global__ void __launch_bounds__(THREADS)
    lrn_backward_shuffle_kernel(Four<T>* __restrict__ dx, const Four<T>* __restrict__ dy,
                                const Four<T>* __restrict__ x, const Four<float>* __restrict__ scale,
                                float factor, float beta, bool relu, Reach reach, unsigned per_group,
                                unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  float4 g = zero4(), v = zero4(), s = make_float4(1.f, 1.f, 1.f, 1.f);
  if (thread < threads) {
    g = load4(dy + thread);
    v = load4(x + thread);
    s = load4(scale + thread);
  }
  const float4 power = powers(s, beta);
  const float4 sums =
      windowed_sums(thread, threads, per_group, reach, terms(g, v, s, power), [=](unsigned i) {
        const float4 far = load4(scale + i);
        return terms(load4(dy + i), load4(x + i), far, powers(far, beta));
      });
  if (thread >= threads) return;
  store4(dx + thread, make_float4(before_relu(relu, v.x, g.x * power.x - factor * v.x * sums.x),
                                  before_relu(relu, v.y, g.y * power.y - factor * v.y * sums.y),
                                  before_relu(relu, v.z, g.z * power.z - factor * v.z * sums.z),
                                  before_relu(relu, v.w, g.w * power.w - factor * v.w * sums.w)));
}

}  // namespace

bool lrn_backward_shuffle_supports(const LrnShape& shape) { return shuffle_supports(shape); }

template <class T>
cudaError_t lrn_backward_shuffle(T* dx, const T* dy, const T* x, const T* y, const float* scale, float alpha,
                                 float beta, bool relu, const LrnShape& shape, cudaStream_t stream) {
  if (!aligned4(dx) || !aligned4(dy) || !aligned4(x) || !aligned4(scale))
    return lrn_backward_generic(dx, dy, x, y, scale, alpha, beta, relu, shape, stream);
  const long long threads = static_cast<long long>(shape.n) * shape.c / 4;
  return launch("lrn_backward_shuffle", lrn_backward_shuffle_kernel<T>, blocks_for(threads), dim3(THREADS), 0,
                stream, fours(dx), fours(dy), fours(x), fours(scale), 2.f * alpha * beta, beta, relu,
                reach_of_windows_over(shape.size), static_cast<unsigned>(shape.c / shape.groups / 4),
                static_cast<unsigned>(threads));
}
template LrnBackwardFn<float> lrn_backward_shuffle<float>;
template LrnBackwardFn<Bf16> lrn_backward_shuffle<Bf16>;

}  // namespace pcn
