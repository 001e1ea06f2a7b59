// hopper_row.cu: a convolution by the tile of compute capability 9.0, on the stand-in runtime (rows.h)
//
// Of its two tiles of outputs the second has 8 of 64 columns; of nine steps the last is alone in its round, and the
// ring of four stages turns round twice.
#include "rows.h"

#include "conv/hopper/fprop.h"

namespace pcn {
PCN_FPROP_WGMMA_BF16(hopper_row, 384, 50, WgmmaTile<128, 64, 64, 4, Bf16>)
template cudaError_t conv::fprop_finish(const char*, Bf16*, const float*, const Conv2dShape&, Activation,
                                        void*, const conv::GemmGrid&, cudaStream_t);
}  // namespace pcn

int main() { run<pcn::Bf16>("wgmma", pcn::Precision::kBf16, 90, pcn::hopper_row_traits, pcn::hopper_row); }
