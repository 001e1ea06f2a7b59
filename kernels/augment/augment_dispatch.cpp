// The table of the augment family: three channels known to the compiler, then any number.
#include "augment/augment.h"

namespace pcn {
namespace {

const AugmentRow kAugment[] = {
    {"augment_rgb", augment_rgb_supports, no_workspace<AugmentShape>, augment_rgb},
    {"augment_any", always<AugmentShape>, no_workspace<AugmentShape>, augment_any},
};

}  // namespace

KernelTable<AugmentRow> augment_kernels() { return {kAugment, 2}; }

}  // namespace pcn
