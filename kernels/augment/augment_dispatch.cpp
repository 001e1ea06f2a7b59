// The table of the augment family: three channels known to the compiler, then any number.
#include "augment/augment.h"

namespace pcn {
namespace {

template <class T>
const AugmentRow<T> kAugment[] = {
    {"augment_rgb", augment_rgb_supports, no_workspace<AugmentShape>, augment_rgb<T>},
    {"augment_any", always<AugmentShape>, no_workspace<AugmentShape>, augment_any<T>},
};

}  // namespace

template <class T>
KernelTable<AugmentRow<T>> augment_kernels() {
  return {kAugment<T>, 2};
}

template KernelTable<AugmentRow<float>> augment_kernels<float>();
template KernelTable<AugmentRow<Bf16>> augment_kernels<Bf16>();

}  // namespace pcn
