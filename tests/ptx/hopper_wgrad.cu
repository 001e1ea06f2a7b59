// hopper_wgrad.cu: a weight gradient, and the bias's, by the tile of compute capability 9.0, on the stand-in runtime
//
// Four steps of pixels, the last of 53, turn the ring of three stages round.
#include "weights.h"

#include "conv/hopper/wgrad.h"

namespace pcn {
PCN_WGRAD_WGMMA_BF16(hopper_wgrad, 384, 50, WgmmaTile<128, 64, 64, 3, Bf16>)
template cudaError_t conv::wgrad_finish(const char*, float*, float*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
}  // namespace pcn

int main() {
  run_gradient<pcn::Bf16>("wgrad", pcn::Precision::kBf16, 1, pcn::hopper_wgrad_traits, pcn::hopper_wgrad);
}
