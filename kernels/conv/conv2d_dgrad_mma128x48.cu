// conv2d_dgrad_mma128x48: input gradient on tensor cores, tiles of 128 pixels x 48 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_dgrad.h), TF32 or three TF32 products. For C/groups of 48, a tower of
// AlexNet's second layer.
// Block: 128 threads in 4 warps of 32 x 48 outputs, 4 stages of 16 along the reduction in 47104 bytes of
// dynamic shared memory. Registers 140 (tf32) and 196 (fp32x3) on sm_80, 139 and 199 on sm_90, no spills;
// blocks a multiprocessor: 3 and 2 on sm_80, 3 and 2 on sm_90.
// 17 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups and K/groups divisible by
// 4, pointers to 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_dgrad.h"

namespace pcn {

// 128 x 48 outputs, 16 along the reduction; 32 x 48 outputs a warp
PCN_DGRAD_MMA(conv2d_dgrad_mma128x48, 128, 70, MmaTile<128, 48, 16, 32, 48, 4>)

}  // namespace pcn
