// two_rows.cu: a convolution by a tile of FFMA and by one of tensor cores, on the stand-in runtime (rows.h)
#include "rows.h"

#include "conv/fprop.h"
#include "conv/mma_fprop.h"

namespace pcn {
PCN_FPROP_ROWS(two_rows_ffma, 128, 55, Tile<16, 128, 32, 4, 4, 4, 4>)
PCN_FPROP_MMA_BF16(two_rows_mma, 128, 53, MmaTile<64, 64, 64, 32, 32, 3, Bf16>)
}  // namespace pcn

int main(int, char** arguments) {
  using pcn::Precision;
  if (!std::strcmp(arguments[1], "ffma"))
    run<float>("ffma", Precision::kFp32, 80, pcn::two_rows_ffma_traits, pcn::two_rows_ffma);
  if (!std::strcmp(arguments[1], "mma"))
    run<pcn::Bf16>("mma", Precision::kBf16, 80, pcn::two_rows_mma_traits, pcn::two_rows_mma);
}
