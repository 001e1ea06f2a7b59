// The table of the optim family: one kernel, which looks at pointers and segments when it runs.
#include "optim/optim.h"

namespace pcn {
namespace {

const SgdMomentumRow kSgdMomentum[] = {
    {"sgd_momentum_flat", always<SgdShape>, no_workspace<SgdShape>, sgd_momentum_flat}};

}  // namespace

KernelTable<SgdMomentumRow> sgd_momentum_kernels() { return {kSgdMomentum, 1}; }

}  // namespace pcn
