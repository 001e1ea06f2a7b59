// softmax_cross_entropy_block: loss, gradient and error counts, any number of classes
//   loss_n = (log sum_c exp(x[n, c]) - x[n, label_n]) * weights[label_n]     loss = mean_n loss_n
//   dlogits[n, c] = (softmax(x[n])[c] - [c == label_n]) * grad_scale * weights[label_n]
// x, dlogits (examples, classes) float or Bf16, labels (examples), weights (classes) or none; dlogits may be
// x. A block of 256 threads per example reads its row three times (maximum and rank, sum, gradient), the last
// two from the cache; a second launch of one block adds the examples in order. 8 bytes of memory traffic an
// element: bound by memory; for 128 × 1000, half a megabyte, by latency.
#include "loss/rows.h"

namespace pcn {
namespace {

using namespace loss;

struct CrossEntropySmem {
  float slots[WARPS];
  int ranks[WARPS];
};
struct ReduceSmem {
  double slots[WARPS];
  int errors[WARPS];
};

template <class T>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_block_kernel(Outcome* outcomes, T* dlogits, const T* x, const std::int32_t* labels,
                               const float* weights, float grad_scale, LossShape shape) {
  auto& smem = shared<CrossEntropySmem>();
  const int n = blockIdx.x;
  const long long row = static_cast<long long>(n) * shape.classes;
  const int label = labels[n];
  const bool valid = label >= 0 && label < shape.classes;
  const float x_label = valid ? widen(x[row + label]) : 0.f;

  float max = -INFINITY;
  int rank = 0;
  for (int c = threadIdx.x; c < shape.classes; c += THREADS) {
    const float v = widen(x[row + c]);
    max = fmaxf(max, v);
    rank += before(v, c, x_label, label);
  }
  max = over_block(max, smem.slots, Max{});
  rank = over_block(rank, smem.ranks, Sum{});
  float sum = 0.f;
  for (int c = threadIdx.x; c < shape.classes; c += THREADS) sum += expf(widen(x[row + c]) - max);
  // The barriers inside also part the reading of x_label from the writing of dlogits, which may be the same
  // array.
  sum = over_block(sum, smem.slots, Sum{});
  const float scale = valid ? 1.f / sum : NAN;
  const float weight = weight_of(weights, label, valid), factor = grad_scale * weight;
  for (int c = threadIdx.x; c < shape.classes; c += THREADS)
    dlogits[row + c] = narrow<T>((expf(widen(x[row + c]) - max) * scale - (c == label ? 1.f : 0.f)) * factor);
  if (threadIdx.x == 0) outcomes[n] = outcome(x_label, max, sum, weight, rank, valid);
}

__global__ void __launch_bounds__(THREADS)
    reduce_outcomes_kernel(float* loss, double* metrics, const Outcome* __restrict__ outcomes, int topk,
                           int examples) {
  auto& smem = shared<ReduceSmem>();
  double sum = 0.0;
  int top1 = 0, top_k = 0;
  for (int n = threadIdx.x; n < examples; n += THREADS) {
    const Outcome o = outcomes[n];
    sum += o.loss;
    top1 += o.rank >= 1;
    top_k += o.rank == RANK_WRONG || o.rank >= topk;
  }
  sum = over_block(sum, smem.slots, Sum{});
  top1 = over_block(top1, smem.errors, Sum{});
  top_k = over_block(top_k, smem.errors, Sum{});
  if (threadIdx.x == 0) {
    *loss = static_cast<float>(sum / examples);
    if (metrics) {
      metrics[0] += examples;
      metrics[1] += sum;
      metrics[2] += top1;
      metrics[3] += top_k;
    }
  }
}

}  // namespace

std::size_t softmax_cross_entropy_workspace(const LossShape& shape) {
  return sizeof(Outcome) * static_cast<std::size_t>(shape.examples);
}

cudaError_t loss::reduce_outcomes(const char* stem, float* loss, double* metrics, const Outcome* outcomes,
                                  int topk, const LossShape& shape, cudaStream_t stream) {
  return launch(stem, reduce_outcomes_kernel, dim3(1), dim3(THREADS), 0, stream, loss, metrics, outcomes,
                topk, shape.examples);
}

template <class T>
cudaError_t softmax_cross_entropy_block(float* loss, T* dlogits, double* metrics, const T* logits,
                                        const std::int32_t* labels, const float* weights, int topk,
                                        float grad_scale, const LossShape& shape, void* workspace,
                                        cudaStream_t stream) {
  auto* outcomes = static_cast<Outcome*>(workspace);
  const cudaError_t status =
      launch("softmax_cross_entropy_block", cross_entropy_block_kernel<T>, dim3(shape.examples),
             dim3(THREADS), 0, stream, outcomes, dlogits, logits, labels, weights, grad_scale, shape);
  if (status != cudaSuccess) return status;
  return reduce_outcomes("softmax_cross_entropy_block", loss, metrics, outcomes, topk, shape, stream);
}

template cudaError_t softmax_cross_entropy_block(float*, float*, double*, const float*, const std::int32_t*,
                                                 const float*, int, float, const LossShape&, void*,
                                                 cudaStream_t);
template cudaError_t softmax_cross_entropy_block(float*, Bf16*, double*, const Bf16*, const std::int32_t*,
                                                 const float*, int, float, const LossShape&, void*,
                                                 cudaStream_t);

}  // namespace pcn
