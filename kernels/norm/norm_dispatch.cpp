// The tables of the norm family, in order of preference.
#include "norm/norm.h"

namespace pcn {
namespace {

template <class Row, int N>
KernelTable<Row> table(const Row (&rows)[N]) {
  return {rows, N};
}

constexpr auto kAny = always<LrnShape>;
constexpr auto kNone = no_workspace<LrnShape>;
constexpr auto kAnySpatial = always<LrnSpatialShape>;
constexpr auto kNoneSpatial = no_workspace<LrnSpatialShape>;
constexpr auto kAnyPooled = always<LrnMaxPool2dShape>;
constexpr auto kNonePooled = no_workspace<LrnMaxPool2dShape>;

const LrnRow kLrn[] = {
    {"lrn_shuffle", lrn_shuffle_supports, kNone, lrn_shuffle},
    {"lrn_shared", lrn_shared_supports, kNone, lrn_shared},
    {"lrn_generic", kAny, kNone, lrn_generic},
};
const LrnBackwardRow kLrnBackward[] = {
    {"lrn_backward_shuffle", lrn_backward_shuffle_supports, kNone, lrn_backward_shuffle},
    {"lrn_backward_shared", lrn_backward_shared_supports, kNone, lrn_backward_shared},
    {"lrn_backward_generic", kAny, kNone, lrn_backward_generic},
};
const LrnSpatialRow kLrnSpatial[] = {
    {"lrn_spatial_march", lrn_spatial_march_supports, kNoneSpatial, lrn_spatial_march},
    {"lrn_spatial_generic", kAnySpatial, kNoneSpatial, lrn_spatial_generic},
};
const LrnSpatialBackwardRow kLrnSpatialBackward[] = {
    {"lrn_spatial_backward_march", lrn_spatial_backward_march_supports, kNoneSpatial,
     lrn_spatial_backward_march},
    {"lrn_spatial_backward_generic", kAnySpatial, kNoneSpatial, lrn_spatial_backward_generic},
};
const LrnMaxPool2dRow kLrnMaxPool2d[] = {
    {"lrn_max_pool2d_march", lrn_max_pool2d_march_supports, kNonePooled, lrn_max_pool2d_march},
    {"lrn_max_pool2d_generic", kAnyPooled, kNonePooled, lrn_max_pool2d_generic},
};
const LrnMaxPool2dBackwardRow kLrnMaxPool2dBackward[] = {
    {"lrn_max_pool2d_backward_march", lrn_max_pool2d_backward_march_supports, kNonePooled,
     lrn_max_pool2d_backward_march},
    {"lrn_max_pool2d_backward_generic", kAnyPooled, kNonePooled, lrn_max_pool2d_backward_generic},
};

}  // namespace

KernelTable<LrnRow> lrn_kernels() { return table(kLrn); }
KernelTable<LrnBackwardRow> lrn_backward_kernels() { return table(kLrnBackward); }
KernelTable<LrnSpatialRow> lrn_spatial_kernels() { return table(kLrnSpatial); }
KernelTable<LrnSpatialBackwardRow> lrn_spatial_backward_kernels() { return table(kLrnSpatialBackward); }
KernelTable<LrnMaxPool2dRow> lrn_max_pool2d_kernels() { return table(kLrnMaxPool2d); }
KernelTable<LrnMaxPool2dBackwardRow> lrn_max_pool2d_backward_kernels() {
  return table(kLrnMaxPool2dBackward);
}

}  // namespace pcn
