// The tables of the loss family: a warp per example for few classes, a block per example for any number.
#include "loss/loss.h"

namespace pcn {
namespace {

template <class T>
const SoftmaxRow<T> kSoftmax[] = {
    {"softmax_warp", softmax_warp_supports, no_workspace<LossShape>, softmax_warp<T>},
    {"softmax_block", always<LossShape>, no_workspace<LossShape>, softmax_block<T>},
};

template <class T>
const SoftmaxCrossEntropyRow<T> kSoftmaxCrossEntropy[] = {
    {"softmax_cross_entropy_warp", softmax_cross_entropy_warp_supports, softmax_cross_entropy_workspace,
     softmax_cross_entropy_warp<T>},
    {"softmax_cross_entropy_block", always<LossShape>, softmax_cross_entropy_workspace,
     softmax_cross_entropy_block<T>},
};

}  // namespace

template <class T>
KernelTable<SoftmaxRow<T>> softmax_kernels() {
  return {kSoftmax<T>, 2};
}

template <class T>
KernelTable<SoftmaxCrossEntropyRow<T>> softmax_cross_entropy_kernels() {
  return {kSoftmaxCrossEntropy<T>, 2};
}

template KernelTable<SoftmaxRow<float>> softmax_kernels<float>();
template KernelTable<SoftmaxRow<Bf16>> softmax_kernels<Bf16>();
template KernelTable<SoftmaxCrossEntropyRow<float>> softmax_cross_entropy_kernels<float>();
template KernelTable<SoftmaxCrossEntropyRow<Bf16>> softmax_cross_entropy_kernels<Bf16>();

}  // namespace pcn
