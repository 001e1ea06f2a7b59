// primitives.h: tensor-core and asynchronous-copy instructions, as functions
//
// Kernels contain no asm: they call these, which are PTX under nvcc and kernels/emulation under g++.
//
//   kTensorCores             whether there are any: false in code for sm_75, where kernels for them trap and their rows
//                            must not be chosen (common/image.h)
//   cp_async_4/8/16(shared, global, predicate)    copies, or writes zeros where the predicate is false
//   cp_async_commit(), cp_async_wait<N>()         all but the N newest groups of this thread have landed
//   ldmatrix_x1/x2/x4[_trans](r, row)             8x8 matrices of 16-bit elements; lane l gives row l % 8 of matrix l / 8
//   to_tf32(f), to_bf16(f), from_bf16(h)          round to nearest (ties away, ties to even)
//   mma_m16n8k8_tf32, mma_m16n8k16_bf16, _f16     d += a * b on one warp, PTX fragment layouts
//   named_barrier_sync/arrive(id, threads)        id 1 to 15
//   mbarrier_init/arrive/arrive_expect_tx/wait, fence_mbarrier_init, fence_proxy_async                  sm_90
//   tma_load_2d/4d, tma_load_im2col_4d, tma_store_2d/4d, tma_store_commit, tma_store_wait<N>            sm_90
//   wgmma_fence, wgmma_m64k8_tf32<N>, wgmma_m64k16_bf16<N>, wgmma_commit, wgmma_wait<N>, wgmma_descriptor  sm_90a
//   setmaxnreg_inc/dec<R>                                                                               sm_90a
//
// On sm_75, cp_async_* are plain copies (commit and wait do nothing), so that generic kernels may use them;
// the mma functions trap, as their instructions do not exist.
#pragma once
#include "common/device.h"

namespace pcn {
// What has tensor cores and asynchronous copies, as image_at_least() counts.
constexpr int kTensorCoresSince = 80;
}  // namespace pcn

#ifdef __CUDACC__
#include "common/primitives_device.h"
#else
#include "emulation/primitives.h"
#endif

namespace pcn {

// Shared-memory operand of wgmma: K-major, 128-byte swizzle, rows of 128 bytes, groups of 8 rows
// `group_bytes` apart. Advance along K by adding bytes / 16 to the descriptor. The address must be aligned to
// 1024 bytes.
PCN_HOST_FN uint64_t wgmma_descriptor(uint32_t shared_address, uint32_t group_bytes = 1024) {
  return static_cast<uint64_t>((shared_address & 0x3ffff) >> 4) | static_cast<uint64_t>(1) << 16 |
         static_cast<uint64_t>((group_bytes & 0x3ffff) >> 4) << 32 | static_cast<uint64_t>(1) << 62;
}

}  // namespace pcn
