// softmax_cross_entropy_warp: loss, gradient and error counts, up to WARP_CLASSES classes
//   loss_n = (log sum_c exp(x[n, c]) - x[n, label_n]) * weights[label_n]     loss = mean_n loss_n
//   dlogits[n, c] = (softmax(x[n])[c] - [c == label_n]) * grad_scale * weights[label_n]
// x, dlogits (examples, classes) float or Bf16, labels (examples), weights (classes) or none; dlogits may be
// x. A warp per example keeps its row in registers; 8 examples to a block of 256 threads; a second launch of
// one block adds the examples in order. 8 bytes of memory traffic an element: for the small matrices it is
// meant for, bound by latency. Rejects more classes; softmax_cross_entropy_block takes them.
#include "loss/rows.h"

namespace pcn {
namespace {

using namespace loss;

template <class T>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_warp_kernel(Outcome* outcomes, T* dlogits, const T* x, const std::int32_t* labels,
                              const float* weights, float grad_scale, LossShape shape) {
  const int n = blockIdx.x * WARPS + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const bool live = n < shape.examples;
  const long long row = static_cast<long long>(n) * shape.classes;
  const int label = live ? labels[n] : 0;
  const bool valid = label >= 0 && label < shape.classes;

  float v[PER_LANE];
  float max = -INFINITY, x_label = 0.f;
  PCN_UNROLL
  for (int k = 0; k < PER_LANE; ++k) {
    const int c = lane + 32 * k;
    v[k] = live && c < shape.classes ? widen(x[row + c]) : -INFINITY;
    max = fmaxf(max, v[k]);
    if (c == label) x_label = v[k];
  }
  // From its owner's register: nobody reads what another lane will overwrite where dlogits is x.
  x_label = __shfl_sync(ALL, x_label, label & 31);
  int rank = 0;
  PCN_UNROLL
  for (int k = 0; k < PER_LANE; ++k) {
    const int c = lane + 32 * k;
    rank += c < shape.classes && before(v[k], c, x_label, label);
  }
  max = over_warp(max, Max{});
  rank = over_warp(rank, Sum{});
  float sum = 0.f;
  PCN_UNROLL
  for (int k = 0; k < PER_LANE; ++k) {
    v[k] = live && lane + 32 * k < shape.classes ? expf(v[k] - max) : 0.f;
    sum += v[k];
  }
  sum = over_warp(sum, Sum{});
  const float scale = valid ? 1.f / sum : NAN;
  const float weight = weight_of(weights, label, valid), factor = grad_scale * weight;
  PCN_UNROLL
  for (int k = 0; k < PER_LANE; ++k) {
    const int c = lane + 32 * k;
    if (live && c < shape.classes)
      dlogits[row + c] = narrow<T>((v[k] * scale - (c == label ? 1.f : 0.f)) * factor);
  }
  if (live && lane == 0) outcomes[n] = outcome(x_label, max, sum, weight, rank, valid);
}

}  // namespace

bool softmax_cross_entropy_warp_supports(const LossShape& shape) { return shape.classes <= WARP_CLASSES; }

template <class T>
cudaError_t softmax_cross_entropy_warp(float* loss, T* dlogits, double* metrics, const T* logits,
                                       const std::int32_t* labels, const float* weights, int topk,
                                       float grad_scale, const LossShape& shape, void* workspace,
                                       cudaStream_t stream) {
  auto* outcomes = static_cast<Outcome*>(workspace);
  const cudaError_t status = launch("softmax_cross_entropy_warp", cross_entropy_warp_kernel<T>,
                                    dim3((shape.examples + WARPS - 1) / WARPS), dim3(THREADS), 0, stream,
                                    outcomes, dlogits, logits, labels, weights, grad_scale, shape);
  if (status != cudaSuccess) return status;
  return reduce_outcomes("softmax_cross_entropy_warp", loss, metrics, outcomes, topk, shape, stream);
}

template cudaError_t softmax_cross_entropy_warp(float*, float*, double*, const float*, const std::int32_t*,
                                                const float*, int, float, const LossShape&, void*,
                                                cudaStream_t);
template cudaError_t softmax_cross_entropy_warp(float*, Bf16*, double*, const Bf16*, const std::int32_t*,
                                                const float*, int, float, const LossShape&, void*,
                                                cudaStream_t);

}  // namespace pcn
