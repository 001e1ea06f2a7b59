// conv2d_dgrad_mma128x128_bf16: input gradient of bfloat16 on tensor cores, tiles of 128 pixels x 128
// channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx and mask (N,H,W,C)   bfloat16, sums float32, last axis contiguous
// dx is 0 where the mask, if there is one, is not positive.
// Implicit GEMM with mma.sync m16n8k16 (conv/mma_dgrad.h). For C/groups of 128 and 256: AlexNet's third
// layer, and the fully connected ones.
// Block: 128 threads in 4 warps of 64 x 64 outputs, 4 stages of 32 along the reduction in 67584 bytes of
// dynamic shared memory. Registers 242 on sm_80, 242 on sm_90, no spills; blocks a multiprocessor: 2 on
// sm_80, 2 on sm_90. 64 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: compute capability 8.0 and higher, C/groups and K/groups divisible by 8, pointers to 16 bytes; any
// filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_dgrad.h"

namespace pcn {

// 128 x 128 outputs, 32 along the reduction; 64 x 64 outputs a warp
PCN_DGRAD_MMA(conv2d_dgrad_mma128x128_bf16, 128, 95, MmaTile<128, 128, 32, 64, 64, 4, Bf16>)

}  // namespace pcn
