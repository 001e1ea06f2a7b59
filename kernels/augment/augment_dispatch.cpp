// The table of the augment family: three channels known to the compiler, then any number; first
// crops as images, then crops in the depth layout.
#include "augment/augment.h"

namespace pcn {
namespace {

template <class T>
const AugmentRow<T> kAugment[] = {
    {"augment_rgb", augment_rgb_supports, no_workspace<AugmentShape>, augment_rgb<T>},
    {"augment_any", augment_any_supports, no_workspace<AugmentShape>, augment_any<T>},
    {"augment_depth4_rgb", augment_depth4_rgb_supports, no_workspace<AugmentShape>, augment_depth4_rgb<T>},
    {"augment_depth", augment_depth_supports, no_workspace<AugmentShape>, augment_depth<T>},
};

}  // namespace

template <class T>
KernelTable<AugmentRow<T>> augment_kernels() {
  return {kAugment<T>, 4};
}

template KernelTable<AugmentRow<float>> augment_kernels<float>();
template KernelTable<AugmentRow<Bf16>> augment_kernels<Bf16>();

}  // namespace pcn
