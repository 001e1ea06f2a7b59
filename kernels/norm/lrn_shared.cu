// lrn_shared: normalisation across channels, windows and groups of any size, up to MAX_CHANNELS channels
//   scale[i] = k + alpha * sum of x[j]^2, j in [i - size/2, i - size/2 + size - 1] inside i's group;  y = x *
//   scale^-beta
// x, y (n,c) of float or Bf16   scale (n,c) of float
//
// A block takes whole rows, as many as make about TILE elements, into dynamic shared memory; each x is then
// read once from global memory and `size` times from shared memory, where neighbouring threads touch
// neighbouring words. 12 bytes of traffic an element, 8 in bfloat16; bound by memory up to windows of 20 or
// so, then by shared memory.
#include "norm/response.h"

namespace pcn {
namespace {

using namespace norm;

template <class T>
__global__ void __launch_bounds__(THREADS)
    lrn_shared_kernel(T* __restrict__ y, float* __restrict__ scale, const T* __restrict__ x, float alpha,
                      float beta, float k, Reach reach, int per_group, int tile, long long total) {
  float* values = dynamic_shared<float>();
  const long long base =
      static_cast<long long>(blockIdx.x) * tile;  // tile: a multiple of c, hence of per_group
  const int count = total - base < tile ? static_cast<int>(total - base) : tile;
  for (int i = threadIdx.x; i < count; i += THREADS) values[i] = widen(x[base + i]);
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += THREADS) {
    const int place = i % per_group;
    const int begin = i - min(reach.back, place), end = i + min(reach.ahead, per_group - 1 - place);
    float sum = 0.f;
    for (int j = begin; j <= end; ++j) sum += values[j] * values[j];
    const float s = k + alpha * sum;
    scale[base + i] = s;
    y[base + i] = narrow<T>(values[i] * negative_power(s, beta));
  }
}

}  // namespace

bool lrn_shared_supports(const LrnShape& shape) { return shape.c <= MAX_CHANNELS; }

template <class T>
cudaError_t lrn_shared(T* y, float* scale, const T* x, float alpha, float beta, float k,
                       const LrnShape& shape, cudaStream_t stream) {
  const int rows = shape.c < TILE ? TILE / shape.c : 1;
  const int blocks = (shape.n - 1) / rows + 1;
  return launch("lrn_shared", lrn_shared_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(THREADS),
                static_cast<std::size_t>(rows) * shape.c * sizeof(float), stream, y, scale, x, alpha, beta, k,
                reach_of_window(shape.size), shape.c / shape.groups, rows * shape.c,
                static_cast<long long>(shape.n) * shape.c);
}
template LrnFn<float> lrn_shared<float>;
template LrnFn<Bf16> lrn_shared<Bf16>;

}  // namespace pcn
