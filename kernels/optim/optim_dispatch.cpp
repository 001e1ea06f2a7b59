// The table of the optim family: kernels look at pointers and segments when they run. The first is for a card of
// its own, the second is asked for by name where other kernels run at the same time.
#include "optim/optim.h"

namespace pcn {
namespace {

const SgdMomentumRow kSgdMomentum[] = {
    {"sgd_momentum_flat", always<SgdShape>, no_workspace<SgdShape>, sgd_momentum_flat},
    {"sgd_momentum_beside", always<SgdShape>, no_workspace<SgdShape>, sgd_momentum_beside}};

}  // namespace

KernelTable<SgdMomentumRow> sgd_momentum_kernels() { return {kSgdMomentum, 2}; }

}  // namespace pcn
