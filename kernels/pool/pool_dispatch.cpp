// The tables of the pool family, in order of preference; the same rows for both types.
#include "pool/pool.h"

namespace pcn {
namespace {

template <class Row, int N>
KernelTable<Row> table(const Row (&rows)[N]) {
  return {rows, N};
}

constexpr auto kAny = always<Pool2dShape>;
constexpr auto kNone = no_workspace<Pool2dShape>;

template <class T>
const MaxPool2dRow<T> kMaxPool2d[] = {
    {"max_pool2d_3x3_stride2", max_pool2d_3x3_stride2_supports, kNone, max_pool2d_3x3_stride2<T>},
    {"max_pool2d_generic", kAny, kNone, max_pool2d_generic<T>},
};
template <class T>
const MaxPool2dBackwardRow<T> kMaxPool2dBackward[] = {
    {"max_pool2d_backward_3x3_stride2", max_pool2d_backward_3x3_stride2_supports, kNone,
     max_pool2d_backward_3x3_stride2<T>},
    {"max_pool2d_backward_generic", kAny, kNone, max_pool2d_backward_generic<T>},
};
template <class T>
const AvgPool2dRow<T> kAvgPool2d[] = {
    {"avg_pool2d_generic", kAny, kNone, avg_pool2d_generic<T>},
};
template <class T>
const AvgPool2dBackwardRow<T> kAvgPool2dBackward[] = {
    {"avg_pool2d_backward_generic", kAny, kNone, avg_pool2d_backward_generic<T>},
};

}  // namespace

template <class T>
KernelTable<MaxPool2dRow<T>> max_pool2d_kernels() {
  return table(kMaxPool2d<T>);
}
template KernelTable<MaxPool2dRow<float>> max_pool2d_kernels<float>();
template KernelTable<MaxPool2dRow<Bf16>> max_pool2d_kernels<Bf16>();

template <class T>
KernelTable<MaxPool2dBackwardRow<T>> max_pool2d_backward_kernels() {
  return table(kMaxPool2dBackward<T>);
}
template KernelTable<MaxPool2dBackwardRow<float>> max_pool2d_backward_kernels<float>();
template KernelTable<MaxPool2dBackwardRow<Bf16>> max_pool2d_backward_kernels<Bf16>();

template <class T>
KernelTable<AvgPool2dRow<T>> avg_pool2d_kernels() {
  return table(kAvgPool2d<T>);
}
template KernelTable<AvgPool2dRow<float>> avg_pool2d_kernels<float>();
template KernelTable<AvgPool2dRow<Bf16>> avg_pool2d_kernels<Bf16>();

template <class T>
KernelTable<AvgPool2dBackwardRow<T>> avg_pool2d_backward_kernels() {
  return table(kAvgPool2dBackward<T>);
}
template KernelTable<AvgPool2dBackwardRow<float>> avg_pool2d_backward_kernels<float>();
template KernelTable<AvgPool2dBackwardRow<Bf16>> avg_pool2d_backward_kernels<Bf16>();

}  // namespace pcn
