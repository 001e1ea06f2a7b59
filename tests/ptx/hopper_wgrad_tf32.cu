// hopper_wgrad_tf32.cu: a weight gradient in TF32, and the bias's, by the tile of compute capability 9.0 whose warps
// transpose dy, on the stand-in runtime
//
// Eight steps of pixels, the last of 21, turn the ring of three stages and that of two buffers round. Blocks have 32
// channels of one group, 16 of two ("wgrad_narrow").
#include "weights.h"

#include "conv/hopper/wgrad.h"

namespace pcn {
PCN_WGRAD_WGMMA(hopper_wgrad_tf32, 384, 50, TransposingTile<128, 64, 32, 3>)
template cudaError_t conv::wgrad_finish(const char*, float*, float*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
}  // namespace pcn

int main(int, char** arguments) {
  const char* const name = arguments[1];
  const int groups = std::strcmp(name, "wgrad_narrow") == 0 ? 2 : 1;
  run_gradient<float>(name, pcn::Precision::kTf32, groups, pcn::hopper_wgrad_tf32_traits,
                      pcn::hopper_wgrad_tf32);
}
