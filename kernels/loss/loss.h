// The loss family: softmax, and softmax with cross-entropy, its gradient and the counts of errors.
// logits (examples, classes) float32, classes contiguous; any number of classes from 1 up.
#pragma once
#include "common/types.h"

namespace pcn {

struct LossShape {
  int examples, classes;
};

using SoftmaxFn = cudaError_t(float* y, const float* x, const LossShape& shape, cudaStream_t stream);

// loss (1): mean over the batch. dlogits (examples, classes): gradient of the sum of the losses, times
// grad_scale. metrics (4) or null: += [examples, sum of losses, top-1 errors, top-k errors]. A label outside
// 0 … classes-1 makes its loss and its gradient NaN and counts as an error.
using SoftmaxCrossEntropyFn = cudaError_t(float* loss, float* dlogits, double* metrics, const float* logits,
                                          const std::int32_t* labels, int topk, float grad_scale,
                                          const LossShape& shape, void* workspace, cudaStream_t stream);

using SoftmaxRow = KernelRow<LossShape, SoftmaxFn>;
using SoftmaxCrossEntropyRow = KernelRow<LossShape, SoftmaxCrossEntropyFn>;

SoftmaxFn softmax_warp, softmax_block;
bool softmax_warp_supports(const LossShape& shape);

SoftmaxCrossEntropyFn softmax_cross_entropy_warp, softmax_cross_entropy_block;
bool softmax_cross_entropy_warp_supports(const LossShape& shape);
std::size_t softmax_cross_entropy_workspace(const LossShape& shape);

KernelTable<SoftmaxRow> softmax_kernels();
KernelTable<SoftmaxCrossEntropyRow> softmax_cross_entropy_kernels();

}  // namespace pcn
