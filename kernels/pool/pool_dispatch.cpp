// The tables of the pool family, in order of preference.
#include "pool/pool.h"

namespace pcn {
namespace {

template <class Row, int N>
KernelTable<Row> table(const Row (&rows)[N]) {
  return {rows, N};
}

constexpr auto kAny = always<Pool2dShape>;
constexpr auto kNone = no_workspace<Pool2dShape>;

const MaxPool2dRow kMaxPool2d[] = {
    {"max_pool2d_3x3_stride2", max_pool2d_3x3_stride2_supports, kNone, max_pool2d_3x3_stride2},
    {"max_pool2d_generic", kAny, kNone, max_pool2d_generic},
};
const MaxPool2dBackwardRow kMaxPool2dBackward[] = {
    {"max_pool2d_backward_3x3_stride2", max_pool2d_backward_3x3_stride2_supports, kNone,
     max_pool2d_backward_3x3_stride2},
    {"max_pool2d_backward_generic", kAny, kNone, max_pool2d_backward_generic},
};
const AvgPool2dRow kAvgPool2d[] = {
    {"avg_pool2d_generic", kAny, kNone, avg_pool2d_generic},
};
const AvgPool2dBackwardRow kAvgPool2dBackward[] = {
    {"avg_pool2d_backward_generic", kAny, kNone, avg_pool2d_backward_generic},
};

}  // namespace

KernelTable<MaxPool2dRow> max_pool2d_kernels() { return table(kMaxPool2d); }
KernelTable<MaxPool2dBackwardRow> max_pool2d_backward_kernels() { return table(kMaxPool2dBackward); }
KernelTable<AvgPool2dRow> avg_pool2d_kernels() { return table(kAvgPool2d); }
KernelTable<AvgPool2dBackwardRow> avg_pool2d_backward_kernels() { return table(kAvgPool2dBackward); }

}  // namespace pcn
