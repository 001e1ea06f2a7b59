// The tables of the norm family, in order of preference; the same rows for both types.
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

template <class T>
const LrnRow<T> kLrn[] = {
    {"lrn_shuffle", lrn_shuffle_supports, kNone, lrn_shuffle<T>},
    {"lrn_shared", lrn_shared_supports, kNone, lrn_shared<T>},
    {"lrn_generic", kAny, kNone, lrn_generic<T>},
};
template <class T>
const LrnBackwardRow<T> kLrnBackward[] = {
    {"lrn_backward_shuffle", lrn_backward_shuffle_supports, kNone, lrn_backward_shuffle<T>},
    {"lrn_backward_shared", lrn_backward_shared_supports, kNone, lrn_backward_shared<T>},
    {"lrn_backward_generic", kAny, kNone, lrn_backward_generic<T>},
};
template <class T>
const LrnSpatialRow<T> kLrnSpatial[] = {
    {"lrn_spatial_march", lrn_spatial_march_supports, kNoneSpatial, lrn_spatial_march<T>},
    {"lrn_spatial_generic", kAnySpatial, kNoneSpatial, lrn_spatial_generic<T>},
};
template <class T>
const LrnSpatialBackwardRow<T> kLrnSpatialBackward[] = {
    {"lrn_spatial_backward_march", lrn_spatial_backward_march_supports, kNoneSpatial,
     lrn_spatial_backward_march<T>},
    {"lrn_spatial_backward_generic", kAnySpatial, kNoneSpatial, lrn_spatial_backward_generic<T>},
};
template <class T>
const LrnMaxPool2dRow<T> kLrnMaxPool2d[] = {
    {"lrn_max_pool2d_march", lrn_max_pool2d_march_supports, kNonePooled, lrn_max_pool2d_march<T>},
    {"lrn_max_pool2d_generic", kAnyPooled, kNonePooled, lrn_max_pool2d_generic<T>},
};
template <class T>
const LrnMaxPool2dBackwardRow<T> kLrnMaxPool2dBackward[] = {
    {"lrn_max_pool2d_backward_march", lrn_max_pool2d_backward_march_supports, kNonePooled,
     lrn_max_pool2d_backward_march<T>},
    {"lrn_max_pool2d_backward_generic", kAnyPooled, kNonePooled, lrn_max_pool2d_backward_generic<T>},
};

}  // namespace

template <class T>
KernelTable<LrnRow<T>> lrn_kernels() {
  return table(kLrn<T>);
}
template KernelTable<LrnRow<float>> lrn_kernels<float>();
template KernelTable<LrnRow<Bf16>> lrn_kernels<Bf16>();

template <class T>
KernelTable<LrnBackwardRow<T>> lrn_backward_kernels() {
  return table(kLrnBackward<T>);
}
template KernelTable<LrnBackwardRow<float>> lrn_backward_kernels<float>();
template KernelTable<LrnBackwardRow<Bf16>> lrn_backward_kernels<Bf16>();

template <class T>
KernelTable<LrnSpatialRow<T>> lrn_spatial_kernels() {
  return table(kLrnSpatial<T>);
}
template KernelTable<LrnSpatialRow<float>> lrn_spatial_kernels<float>();
template KernelTable<LrnSpatialRow<Bf16>> lrn_spatial_kernels<Bf16>();

template <class T>
KernelTable<LrnSpatialBackwardRow<T>> lrn_spatial_backward_kernels() {
  return table(kLrnSpatialBackward<T>);
}
template KernelTable<LrnSpatialBackwardRow<float>> lrn_spatial_backward_kernels<float>();
template KernelTable<LrnSpatialBackwardRow<Bf16>> lrn_spatial_backward_kernels<Bf16>();

template <class T>
KernelTable<LrnMaxPool2dRow<T>> lrn_max_pool2d_kernels() {
  return table(kLrnMaxPool2d<T>);
}
template KernelTable<LrnMaxPool2dRow<float>> lrn_max_pool2d_kernels<float>();
template KernelTable<LrnMaxPool2dRow<Bf16>> lrn_max_pool2d_kernels<Bf16>();

template <class T>
KernelTable<LrnMaxPool2dBackwardRow<T>> lrn_max_pool2d_backward_kernels() {
  return table(kLrnMaxPool2dBackward<T>);
}
template KernelTable<LrnMaxPool2dBackwardRow<float>> lrn_max_pool2d_backward_kernels<float>();
template KernelTable<LrnMaxPool2dBackwardRow<Bf16>> lrn_max_pool2d_backward_kernels<Bf16>();

}  // namespace pcn
