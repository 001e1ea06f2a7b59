// The tables of the loss family: a warp per example for few classes, a block per example for any number.
#include "loss/loss.h"

namespace pcn {
namespace {

const SoftmaxRow kSoftmax[] = {
    {"softmax_warp", softmax_warp_supports, no_workspace<LossShape>, softmax_warp},
    {"softmax_block", always<LossShape>, no_workspace<LossShape>, softmax_block},
};

const SoftmaxCrossEntropyRow kSoftmaxCrossEntropy[] = {
    {"softmax_cross_entropy_warp", softmax_cross_entropy_warp_supports, softmax_cross_entropy_workspace,
     softmax_cross_entropy_warp},
    {"softmax_cross_entropy_block", always<LossShape>, softmax_cross_entropy_workspace,
     softmax_cross_entropy_block},
};

}  // namespace

KernelTable<SoftmaxRow> softmax_kernels() { return {kSoftmax, 2}; }
KernelTable<SoftmaxCrossEntropyRow> softmax_cross_entropy_kernels() { return {kSoftmaxCrossEntropy, 2}; }

}  // namespace pcn
