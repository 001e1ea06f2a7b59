// lrn_backward_generic: gradient of normalisation across channels for every shape
//   t = dy * y / scale;   dx[i] = dy[i] * scale[i]^-beta - 2 alpha beta x[i] * sum of t[j] over the windows j
//   that hold i; zero where x[i] <= 0, with relu
// dx, dy, x, y (n,c) of float or Bf16   scale (n,c) of float
//
// A thread makes one element and works out t of all windows that hold it from global memory, which L1 serves:
// 20 bytes of DRAM traffic an element, but 3 * size loads and `size` divisions; bound by those. In bfloat16 y
// is made of x and scale: 10 bytes, and `size` powers.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

template <class T>
__global__ void __launch_bounds__(THREADS)
    lrn_backward_generic_kernel(T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ x,
                                const T* __restrict__ y, const float* __restrict__ scale, float factor,
                                float beta, bool relu, Reach reach, unsigned per_group, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int place = static_cast<int>(thread % per_group);
  const int begin = -min(reach.back, place), end = min(reach.ahead, static_cast<int>(per_group) - 1 - place);
  float sum = 0.f;
  for (int d = begin; d <= end; ++d) {
    const unsigned i = thread + d;
    sum += widen(dy[i]) * normalised(x[i], y[i], scale[i], beta) / scale[i];
  }
  const float value = widen(x[thread]);
  const float gradient = widen(dy[thread]) * negative_power(scale[thread], beta) - factor * value * sum;
  dx[thread] = narrow<T>(before_relu(relu, value, gradient));
}

}  // namespace

template <class T>
cudaError_t lrn_backward_generic(T* dx, const T* dy, const T* x, const T* y, const float* scale, float alpha,
                                 float beta, bool relu, const LrnShape& shape, cudaStream_t stream) {
  const long long threads = static_cast<long long>(shape.n) * shape.c;
  return launch("lrn_backward_generic", lrn_backward_generic_kernel<T>, blocks_for(threads), dim3(THREADS), 0,
                stream, dx, dy, x, y, scale, 2.f * alpha * beta, beta, relu,
                reach_of_windows_over(shape.size), static_cast<unsigned>(shape.c / shape.groups),
                static_cast<unsigned>(threads));
}
template LrnBackwardFn<float> lrn_backward_generic<float>;
template LrnBackwardFn<Bf16> lrn_backward_generic<Bf16>;

}  // namespace pcn
