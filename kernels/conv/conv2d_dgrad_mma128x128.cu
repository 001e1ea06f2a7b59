// conv2d_dgrad_mma128x128: input gradient on tensor cores, tiles of 128 pixels x 128 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_dgrad.h), TF32 or three TF32 products. For C/groups of 128 and more.
// Block: 256 threads in 8 warps of 64 x 32 outputs, 4 stages of 16 along the reduction in 67584 bytes of
// dynamic shared memory. Registers 155 (tf32) and 238 (fp32x3) on sm_80, 159 and 238 on sm_90, no spills;
// blocks a multiprocessor: 1 and 1 on sm_80, 1 and 1 on sm_90.
// 32 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups and K/groups divisible by
// 4, pointers to 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_dgrad.h"

namespace pcn {

// 128 x 128 outputs, 16 along the reduction; 64 x 32 outputs a warp
PCN_DGRAD_MMA(conv2d_dgrad_mma128x128, 256, 90, MmaTile<128, 128, 16, 64, 32, 4>)

}  // namespace pcn
