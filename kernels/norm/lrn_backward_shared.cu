// lrn_backward_shared: gradient of normalisation across channels, windows and groups of any size, up to
// MAX_CHANNELS
//   t = dy * y / scale;   dx[i] = dy[i] * scale[i]^-beta - 2 alpha beta x[i] * sum of t[j] over the windows j
//   that hold i; zero where x[i] <= 0, with relu
// dx, dy, x, y (n,c) of float or Bf16   scale (n,c) of float
//
// A block takes t of whole rows, about TILE elements, into dynamic shared memory, then sums `size` of them
// for each element. dy and scale are read a second time, from L1: 20 bytes of traffic an element, bound by
// memory up to windows of 20 or so. In bfloat16 y is made of x and scale: 10 bytes.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

template <class T>
__global__ void __launch_bounds__(THREADS)
    lrn_backward_shared_kernel(T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ x,
                               const T* __restrict__ y, const float* __restrict__ scale, float factor,
                               float beta, bool relu, Reach reach, int per_group, int tile, long long total) {
  float* values = dynamic_shared<float>();
  const long long base =
      static_cast<long long>(blockIdx.x) * tile;  // tile: a multiple of c, hence of per_group
  const int count = total - base < tile ? static_cast<int>(total - base) : tile;
  for (int i = threadIdx.x; i < count; i += THREADS) {
    const long long at = base + i;
    values[i] = widen(dy[at]) * normalised(x[at], y[at], scale[at], beta) / scale[at];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += THREADS) {
    const int place = i % per_group;
    const int begin = i - min(reach.back, place), end = i + min(reach.ahead, per_group - 1 - place);
    float sum = 0.f;
    for (int j = begin; j <= end; ++j) sum += values[j];
    const long long at = base + i;
    const float value = widen(x[at]);
    const float gradient = widen(dy[at]) * negative_power(scale[at], beta) - factor * value * sum;
    dx[at] = narrow<T>(before_relu(relu, value, gradient));
  }
}

}  // namespace

bool lrn_backward_shared_supports(const LrnShape& shape) { return shape.c <= MAX_CHANNELS; }

template <class T>
cudaError_t lrn_backward_shared(T* dx, const T* dy, const T* x, const T* y, const float* scale, float alpha,
                                float beta, bool relu, const LrnShape& shape, cudaStream_t stream) {
  const int rows = shape.c < TILE ? TILE / shape.c : 1;
  const int blocks = (shape.n - 1) / rows + 1;
  return launch("lrn_backward_shared", lrn_backward_shared_kernel<T>, dim3(static_cast<unsigned>(blocks)),
                dim3(THREADS), static_cast<std::size_t>(rows) * shape.c * sizeof(float), stream, dx, dy, x, y,
                scale, 2.f * alpha * beta, beta, relu, reach_of_windows_over(shape.size),
                shape.c / shape.groups, rows * shape.c, static_cast<long long>(shape.n) * shape.c);
}
template LrnBackwardFn<float> lrn_backward_shared<float>;
template LrnBackwardFn<Bf16> lrn_backward_shared<Bf16>;

}  // namespace pcn
