// softmax_block: y[n, c] = exp(x[n, c] - max_c x) / sum_c exp(x[n, c] - max_c x), any number of classes
// x, y (examples, classes) float or Bf16; y may be x. A block of 256 threads per example reads its row three
// times: for the maximum, the sum and the result, the last two from the cache. 8 bytes (Bf16: 4) of memory
// traffic an element: bound by memory; for 128 × 1000 by latency.
#include "loss/rows.h"

namespace pcn {
namespace {

using namespace loss;

struct SoftmaxSmem {
  float slots[WARPS];
};

template <class T>
__global__ void __launch_bounds__(THREADS) softmax_block_kernel(T* y, const T* x, LossShape shape) {
  auto& smem = shared<SoftmaxSmem>();
  const long long row = static_cast<long long>(blockIdx.x) * shape.classes;
  float max = -INFINITY;
  for (int c = threadIdx.x; c < shape.classes; c += THREADS) max = fmaxf(max, widen(x[row + c]));
  max = over_block(max, smem.slots, Max{});
  float sum = 0.f;
  for (int c = threadIdx.x; c < shape.classes; c += THREADS) sum += expf(widen(x[row + c]) - max);
  sum = over_block(sum, smem.slots, Sum{});
  const float scale = 1.f / sum;
  for (int c = threadIdx.x; c < shape.classes; c += THREADS)
    y[row + c] = narrow<T>(expf(widen(x[row + c]) - max) * scale);
}

}  // namespace

template <class T>
cudaError_t softmax_block(T* y, const T* x, const LossShape& shape, cudaStream_t stream) {
  return launch("softmax_block", softmax_block_kernel<T>, dim3(shape.examples), dim3(THREADS), 0, stream, y,
                x, shape);
}

template cudaError_t softmax_block(float*, const float*, const LossShape&, cudaStream_t);
template cudaError_t softmax_block(Bf16*, const Bf16*, const LossShape&, cudaStream_t);

}  // namespace pcn
