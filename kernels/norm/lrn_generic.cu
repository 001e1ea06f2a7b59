// lrn_generic: normalisation across channels for every shape
//   scale[i] = k + alpha * sum of x[j]^2, j in [i - size/2, i - size/2 + size - 1] inside i's group;  y = x *
//   scale^-beta
// x, y (n,c) of float or Bf16   scale (n,c) of float
//
// A thread makes one element and reads its window from global memory. Neighbouring threads read neighbouring
// words, so L1 serves all but the first: 12 bytes of DRAM traffic an element, 8 in bfloat16, but `size`
// loads; bound by L1 from windows of 5 on.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

template <class T>
__global__ void __launch_bounds__(THREADS)
    lrn_generic_kernel(T* __restrict__ y, float* __restrict__ scale, const T* __restrict__ x, float alpha,
                       float beta, float k, Reach reach, unsigned per_group, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int place = static_cast<int>(thread % per_group);
  const T* at = x + thread;
  const int begin = -min(reach.back, place), end = min(reach.ahead, static_cast<int>(per_group) - 1 - place);
  float sum = 0.f;
  for (int d = begin; d <= end; ++d) {
    const float value = widen(at[d]);
    sum += value * value;
  }
  const float s = k + alpha * sum;
  scale[thread] = s;
  y[thread] = narrow<T>(widen(*at) * negative_power(s, beta));
}

}  // namespace

template <class T>
cudaError_t lrn_generic(T* y, float* scale, const T* x, float alpha, float beta, float k,
                        const LrnShape& shape, cudaStream_t stream) {
  const long long threads = static_cast<long long>(shape.n) * shape.c;
  return launch("lrn_generic", lrn_generic_kernel<T>, blocks_for(threads), dim3(THREADS), 0, stream, y, scale,
                x, alpha, beta, k, reach_of_window(shape.size), static_cast<unsigned>(shape.c / shape.groups),
                static_cast<unsigned>(threads));
}
template LrnFn<float> lrn_generic<float>;
template LrnFn<Bf16> lrn_generic<Bf16>;

}  // namespace pcn
