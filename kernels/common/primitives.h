// primitives.h: tensor-core and asynchronous-copy instructions, as functions
//
// Kernels contain no asm: they call these, which are PTX under nvcc and kernels/emulation under g++.
//
//   kTensorCores             whether there are any: false in code for sm_75, where kernels for them trap and their rows
//                            must not be chosen (common/image.h)
//   kept_shared(p)           p, of shared memory and the same in a full warp: a shuffle's result, which the compiler keeps
//                            in a register, where it would else compute the address anew at every use
//   cp_async_4/8/16(shared, global, predicate)    copies, or writes zeros where the predicate is false
//   cp_async_commit(), cp_async_wait<N>()         all but the N newest groups of this thread have landed
//   ldmatrix_x1/x2/x4[_trans](r, row)             8x8 matrices of 16-bit elements; lane l gives row l % 8 of matrix l / 8
//   to_tf32(f), to_bf16(f), from_bf16(h)          round to nearest (ties away, ties to even)
//   mma_m16n8k8_tf32, mma_m16n8k16_bf16, _f16     d += a * b on one warp, PTX fragment layouts
//   named_barrier_sync/arrive(id, threads)        id 1 to 15
//   mbarrier_init/arrive/arrive_expect_tx/wait, fence_mbarrier_init, fence_proxy_async                  sm_90
//   read_in_vain(shared, bytes)   tells the emulator that products read what nothing was written to, for rows that are
//                                 not stored: its checks do not report it, its NaN is there as ever    sm_90
//   tma_load_2d/4d, tma_load_im2col_4d, tma_store_2d/4d, tma_store_commit, tma_store_wait<N>            sm_90
//   l2_evict_first(), l2_evict_last()             what the copies take as their last argument: how long L2 keeps
//                                                 the bytes; made once a thread                         sm_90
//   prefetch_tensor_map(map), elect_one()         true in one lane of a full warp, always the same      sm_90
//   stmatrix_x1/x2/x4[_trans](row, r)             ldmatrix the other way round                          sm_90
//   grid_dependency_wait(), grid_dependency_trigger()   of a launch_dependent(): until the grids before have ended;
//                                                 the next may start                                    sm_90
//   wgmma_fence(registers...), wgmma_commit(), wgmma_wait<N>(registers...), wgmma_descriptor            sm_90a
//   wgmma_m64k8_tf32<N>, wgmma_m64k16_bf16<N, A, B>     d[N / 2] (+)= A[64][K] B[N][K]^T on a warpgroup  sm_90a
//   setmaxnreg_inc/dec<R>                                                                               sm_90a
//
// On sm_75, cp_async_* are plain copies (commit and wait do nothing), so that generic kernels may use them;
// the mma functions trap, as their instructions do not exist.
#pragma once
#include "common/device.h"

namespace pcn {
// What has tensor cores and asynchronous copies, as image_at_least() counts.
constexpr int kTensorCoresSince = 80;
// Which index of an operand of wgmma is contiguous in shared memory: K, or that of D's rows (A) or columns (B).
enum class Major { kK, kMN };
}  // namespace pcn

#ifdef __CUDACC__
#include "common/primitives_device.h"
#else
#include "emulation/primitives.h"
#endif

namespace pcn {

// wgmma. A and B are descriptors of shared memory, or A is a warp's fragment as mma.sync takes it. `accumulate`
// zero: d is overwritten. N is 48, 64, 96, 128, 192 or 256; TF32 is K-major. Whoever has touched accumulators,
// or registers of A, hands them to wgmma_fence before the product and to wgmma_wait after it, so that the
// compiler moves nothing past these: PTX leaves undefined what is written between the two.
//
// Descriptor of an operand in shared memory that lies as TMA lays boxes of `swizzle` bytes (128, 64, 32): rows
// of so many bytes, from an address that is a multiple of 8 rows.
//   K-major    a row is an index of D, `group_bytes` lie between groups of 8 rows. Along K: add bytes / 16.
//   MN-major   a row is an index of K, `group_bytes` as above; `next_bytes` from the `swizzle` bytes of a row
//              to the next ones of the same K. Along K: add 16 * swizzle / 16.
// Without swizzle (0) a K-major row is 16 bytes, may begin at any multiple of them, and has its next 16 `next_bytes`
// further on. Along K: add 2 * next_bytes / 16.
PCN_HOST_FN uint64_t wgmma_descriptor(uint32_t shared_address, uint32_t group_bytes = 1024,
                                      uint32_t swizzle = 128, uint32_t next_bytes = 16) {
  const uint64_t mode = swizzle == 0 ? 0 : swizzle == 128 ? 1 : swizzle == 64 ? 2 : 3;
  return static_cast<uint64_t>((shared_address & 0x3ffff) >> 4) |
         static_cast<uint64_t>((next_bytes & 0x3ffff) >> 4) << 16 |
         static_cast<uint64_t>((group_bytes & 0x3ffff) >> 4) << 32 | mode << 62;
}

}  // namespace pcn
