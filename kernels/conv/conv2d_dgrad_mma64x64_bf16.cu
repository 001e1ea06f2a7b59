// conv2d_dgrad_mma64x64_bf16: input gradient of bfloat16 on tensor cores, tiles of 64 pixels x 64 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx and mask (N,H,W,C)   bfloat16, sums float32, last axis contiguous
// dx is 0 where the mask, if there is one, is not positive.
// Implicit GEMM with mma.sync m16n8k16 (conv/mma_dgrad.h). For small images and batches.
// Block: 128 threads in 4 warps of 32 x 32 outputs, 3 stages of 64 along the reduction in 52224 bytes of
// dynamic shared memory. Registers 116 on sm_80, 116 on sm_90, no spills; blocks a multiprocessor: 3 on
// sm_80, 4 on sm_90. 32 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: compute capability 8.0 and higher, C/groups and K/groups divisible by 8, pointers to 16 bytes; any
// filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_dgrad.h"

namespace pcn {

// 64 x 64 outputs, 64 along the reduction; 32 x 32 outputs a warp
PCN_DGRAD_MMA(conv2d_dgrad_mma64x64_bf16, 128, 65, MmaTile<64, 64, 64, 32, 32, 3, Bf16>)

}  // namespace pcn
