// lrn_backward_shared: gradient of normalisation across channels, windows and groups of any size, up to
// MAX_CHANNELS
//   t = dy * y / scale;   dx[i] = dy[i] * scale[i]^-beta - 2 alpha beta x[i] * sum of t[j] over the windows j
//   that hold i
// dx, dy, x, y, scale (n,c)
//
// A block takes t of whole rows, about TILE elements, into dynamic shared memory, then sums `size` of them
// for each element. dy and scale are read a second time, from L1: 20 bytes of traffic an element, bound by
// memory up to windows of 20 or so.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

constexpr int TILE = 4096;
constexpr int MAX_CHANNELS = 12 * 1024;
static_assert(MAX_CHANNELS * sizeof(float) <= 48 * 1024,
              "more shared memory must be asked for on every device");

__global__ void __launch_bounds__(THREADS)
    lrn_backward_shared_kernel(float* __restrict__ dx, const float* __restrict__ dy,
                               const float* __restrict__ x, const float* __restrict__ y,
                               const float* __restrict__ scale, float factor, float beta, Reach reach,
                               int per_group, int tile, long long total) {
  float* values = dynamic_shared<float>();
  const long long base =
      static_cast<long long>(blockIdx.x) * tile;  // tile: a multiple of c, hence of per_group
  const int count = total - base < tile ? static_cast<int>(total - base) : tile;
  for (int i = threadIdx.x; i < count; i += THREADS) values[i] = dy[base + i] * y[base + i] / scale[base + i];
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += THREADS) {
    const int place = i % per_group;
    const int begin = i - min(reach.back, place), end = i + min(reach.ahead, per_group - 1 - place);
    float sum = 0.f;
    for (int j = begin; j <= end; ++j) sum += values[j];
    dx[base + i] = dy[base + i] * negative_power(scale[base + i], beta) - factor * x[base + i] * sum;
  }
}

}  // namespace

bool lrn_backward_shared_supports(const LrnShape& shape) { return shape.c <= MAX_CHANNELS; }

cudaError_t lrn_backward_shared(float* dx, const float* dy, const float* x, const float* y,
                                const float* scale, float alpha, float beta, const LrnShape& shape,
                                cudaStream_t stream) {
  const int rows = shape.c < TILE ? TILE / shape.c : 1;
  const int blocks = (shape.n - 1) / rows + 1;
  return launch("lrn_backward_shared", lrn_backward_shared_kernel, dim3(static_cast<unsigned>(blocks)),
                dim3(THREADS), static_cast<std::size_t>(rows) * shape.c * sizeof(float), stream, dx, dy, x, y,
                scale, 2.f * alpha * beta, beta, reach_of_windows_over(shape.size), shape.c / shape.groups,
                rows * shape.c, static_cast<long long>(shape.n) * shape.c);
}

}  // namespace pcn
