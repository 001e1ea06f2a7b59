// lrn_generic: normalisation across channels for every shape
//   scale[i] = k + alpha * sum of x[j]^2, j in [i - size/2, i - size/2 + size - 1] inside i's group;  y = x *
//   scale^-beta
// x, y, scale (n,c)
//
// A thread makes one element and reads its window from global memory. Neighbouring threads read neighbouring
// words, so L1 serves all but the first: 12 bytes of DRAM traffic an element, but `size` loads; bound by L1
// from windows of 5 on.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

__global__ void __launch_bounds__(THREADS)
    lrn_generic_kernel(float* __restrict__ y, float* __restrict__ scale, const float* __restrict__ x,
                       float alpha, float beta, float k, Reach reach, unsigned per_group, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int place = static_cast<int>(thread % per_group);
  const float* at = x + thread;
  const int begin = -min(reach.back, place), end = min(reach.ahead, static_cast<int>(per_group) - 1 - place);
  float sum = 0.f;
  for (int d = begin; d <= end; ++d) sum += at[d] * at[d];
  const float s = k + alpha * sum;
  scale[thread] = s;
  y[thread] = *at * negative_power(s, beta);
}

}  // namespace

cudaError_t lrn_generic(float* y, float* scale, const float* x, float alpha, float beta, float k,
                        const LrnShape& shape, cudaStream_t stream) {
  const long long threads = static_cast<long long>(shape.n) * shape.c;
  return launch("lrn_generic", lrn_generic_kernel, blocks_for(threads), dim3(THREADS), 0, stream, y, scale, x,
                alpha, beta, k, reach_of_window(shape.size), static_cast<unsigned>(shape.c / shape.groups),
                static_cast<unsigned>(threads));
}

}  // namespace pcn
