// softmax_warp: y[n, c] = exp(x[n, c] - max_c x) / sum_c exp(x[n, c] - max_c x), up to WARP_CLASSES classes
// x, y (examples, classes) float or Bf16; y may be x. A warp per example keeps its row in registers; 8
// examples to a block of 256 threads. 8 bytes (Bf16: 4) of memory traffic an element, one pass: bound by
// memory, for the small batches it is meant for by latency. Rejects more classes; softmax_block takes them.
#include "loss/rows.h"

namespace pcn {
namespace {

using namespace loss;

template <class T>
__global__ void __launch_bounds__(THREADS) softmax_warp_kernel(T* y, const T* x, LossShape shape) {
  const int n = blockIdx.x * WARPS + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const bool live = n < shape.examples;
  const long long row = static_cast<long long>(n) * shape.classes;

  float v[PER_LANE];
  float max = -INFINITY;
  PCN_UNROLL
  for (int k = 0; k < PER_LANE; ++k) {
    const int c = lane + 32 * k;
    v[k] = live && c < shape.classes ? widen(x[row + c]) : -INFINITY;
    max = fmaxf(max, v[k]);
  }
  max = over_warp(max, Max{});
  float sum = 0.f;
  PCN_UNROLL
  for (int k = 0; k < PER_LANE; ++k) {
    const int c = lane + 32 * k;
    v[k] = live && c < shape.classes ? expf(v[k] - max) : 0.f;
    sum += v[k];
  }
  sum = over_warp(sum, Sum{});
  const float scale = 1.f / sum;
  PCN_UNROLL
  for (int k = 0; k < PER_LANE; ++k) {
    const int c = lane + 32 * k;
    if (live && c < shape.classes) y[row + c] = narrow<T>(v[k] * scale);
  }
}

}  // namespace

bool softmax_warp_supports(const LossShape& shape) { return shape.classes <= WARP_CLASSES; }

template <class T>
cudaError_t softmax_warp(T* y, const T* x, const LossShape& shape, cudaStream_t stream) {
  return launch("softmax_warp", softmax_warp_kernel<T>, dim3((shape.examples + WARPS - 1) / WARPS),
                dim3(THREADS), 0, stream, y, x, shape);
}

template cudaError_t softmax_warp(float*, const float*, const LossShape&, cudaStream_t);
template cudaError_t softmax_warp(Bf16*, const Bf16*, const LossShape&, cudaStream_t);

}  // namespace pcn
