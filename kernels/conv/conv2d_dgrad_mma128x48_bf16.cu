// conv2d_dgrad_mma128x48_bf16: input gradient of bfloat16 on tensor cores, tiles of 128 pixels x 48 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx and mask (N,H,W,C)   bfloat16, sums float32, last axis contiguous
// dx is 0 where the mask, if there is one, is not positive.
// Implicit GEMM with mma.sync m16n8k16 (conv/mma_dgrad.h). For C/groups of 48, a tower of AlexNet's second
// layer.
// Block: 128 threads in 4 warps of 32 x 48 outputs, 4 stages of 32 along the reduction in 47104 bytes of
// dynamic shared memory. Registers 142 on sm_80, 144 on sm_90, no spills; blocks a multiprocessor: 3 on
// sm_80, 3 on sm_90. 35 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: compute capability 8.0 and higher, C/groups and K/groups divisible by 8, pointers to 16 bytes; any
// filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_dgrad.h"

namespace pcn {

// 128 x 48 outputs, 32 along the reduction; 32 x 48 outputs a warp
PCN_DGRAD_MMA(conv2d_dgrad_mma128x48_bf16, 128, 70, MmaTile<128, 48, 32, 32, 48, 4, Bf16>)

}  // namespace pcn
