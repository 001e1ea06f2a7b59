// lrn_backward_generic: gradient of normalisation across channels for every shape
//   t = dy * y / scale;   dx[i] = dy[i] * scale[i]^-beta - 2 alpha beta x[i] * sum of t[j] over the windows j
//   that hold i
// dx, dy, x, y, scale (n,c)
//
// A thread makes one element and works out t of all windows that hold it from global memory, which L1 serves:
// 20 bytes of DRAM traffic an element, but 3 * size loads and `size` divisions; bound by those.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

__global__ void __launch_bounds__(THREADS)
    lrn_backward_generic_kernel(float* __restrict__ dx, const float* __restrict__ dy,
                                const float* __restrict__ x, const float* __restrict__ y,
                                const float* __restrict__ scale, float factor, float beta, Reach reach,
                                unsigned per_group, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int place = static_cast<int>(thread % per_group);
  const int begin = -min(reach.back, place), end = min(reach.ahead, static_cast<int>(per_group) - 1 - place);
  float sum = 0.f;
  for (int d = begin; d <= end; ++d) {
    const unsigned i = thread + d;
    sum += dy[i] * y[i] / scale[i];
  }
  dx[thread] = dy[thread] * negative_power(scale[thread], beta) - factor * x[thread] * sum;
}

}  // namespace

cudaError_t lrn_backward_generic(float* dx, const float* dy, const float* x, const float* y,
                                 const float* scale, float alpha, float beta, const LrnShape& shape,
                                 cudaStream_t stream) {
  const long long threads = static_cast<long long>(shape.n) * shape.c;
  return launch("lrn_backward_generic", lrn_backward_generic_kernel, blocks_for(threads), dim3(THREADS), 0,
                stream, dx, dy, x, y, scale, 2.f * alpha * beta, beta, reach_of_windows_over(shape.size),
                static_cast<unsigned>(shape.c / shape.groups), static_cast<unsigned>(threads));
}

}  // namespace pcn
