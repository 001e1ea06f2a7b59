// conv2d_dgrad_mma128x64: input gradient on tensor cores, tiles of 128 pixels x 64 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_dgrad.h), TF32 or three TF32 products. For C/groups of 64 and 192.
// Block: 128 threads in 4 warps of 64 x 32 outputs, 4 stages of 16 along the reduction in 51200 bytes of
// dynamic shared memory. Registers 164 (tf32) and 237 (fp32x3) on sm_80, 164 and 239 on sm_90, no spills;
// blocks a multiprocessor: 3 and 2 on sm_80, 3 and 2 on sm_90.
// 21 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups and K/groups divisible by
// 4, pointers to 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_dgrad.h"

namespace pcn {

// 128 x 64 outputs, 16 along the reduction; 64 x 32 outputs a warp
PCN_DGRAD_MMA(conv2d_dgrad_mma128x64, 128, 80, MmaTile<128, 64, 16, 64, 32, 4>)

}  // namespace pcn
