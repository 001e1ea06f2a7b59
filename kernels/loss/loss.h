// The loss family: softmax, and softmax with cross-entropy, its gradient and the counts of errors.
// logits (examples, classes) T = float or Bf16, classes contiguous; any number of classes from 1 up. Computed
// in float.
#pragma once
#include "common/types.h"

namespace pcn {

struct LossShape {
  int examples, classes;
};

template <class T>
using SoftmaxFn = cudaError_t(T* y, const T* x, const LossShape& shape, cudaStream_t stream);

// weights (classes) or null: an example's loss is multiplied by its label's. loss (1): mean over the batch
// (the sum divided by the examples, not by their weights). dlogits (examples, classes): gradient of the sum
// of the losses, times grad_scale. metrics (4) or null: += [examples, sum of losses, top-1 errors, top-k
// errors]. A label outside 0 … classes-1 makes its loss and its gradient NaN and counts as an error.
template <class T>
using SoftmaxCrossEntropyFn = cudaError_t(float* loss, T* dlogits, double* metrics, const T* logits,
                                          const std::int32_t* labels, const float* weights, int topk,
                                          float grad_scale, const LossShape& shape, void* workspace,
                                          cudaStream_t stream);

template <class T>
using SoftmaxRow = KernelRow<LossShape, SoftmaxFn<T>>;
template <class T>
using SoftmaxCrossEntropyRow = KernelRow<LossShape, SoftmaxCrossEntropyFn<T>>;

template <class T>
cudaError_t softmax_warp(T* y, const T* x, const LossShape& shape, cudaStream_t stream);
template <class T>
cudaError_t softmax_block(T* y, const T* x, const LossShape& shape, cudaStream_t stream);
bool softmax_warp_supports(const LossShape& shape);

template <class T>
cudaError_t softmax_cross_entropy_warp(float* loss, T* dlogits, double* metrics, const T* logits,
                                       const std::int32_t* labels, const float* weights, int topk,
                                       float grad_scale, const LossShape& shape, void* workspace,
                                       cudaStream_t stream);
template <class T>
cudaError_t softmax_cross_entropy_block(float* loss, T* dlogits, double* metrics, const T* logits,
                                        const std::int32_t* labels, const float* weights, int topk,
                                        float grad_scale, const LossShape& shape, void* workspace,
                                        cudaStream_t stream);
bool softmax_cross_entropy_warp_supports(const LossShape& shape);
std::size_t softmax_cross_entropy_workspace(const LossShape& shape);

template <class T>
KernelTable<SoftmaxRow<T>> softmax_kernels();
template <class T>
KernelTable<SoftmaxCrossEntropyRow<T>> softmax_cross_entropy_kernels();

}  // namespace pcn
