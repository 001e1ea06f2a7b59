// conv2d_dgrad_mma64x64: input gradient on tensor cores, tiles of 64 pixels x 64 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_dgrad.h), TF32 or three TF32 products. For few pixels: small batches,
// fully connected layers.
// Block: 128 threads in 4 warps of 32 x 32 outputs, 3 stages of 32 along the reduction in 52224 bytes of
// dynamic shared memory. Registers 124 (tf32) and 190 (fp32x3) on sm_80, 124 and 188 on sm_90, no spills;
// blocks a multiprocessor: 3 and 2 on sm_80, 4 and 2 on sm_90.
// 16 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups and K/groups divisible by
// 4, pointers to 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_dgrad.h"

namespace pcn {

// 64 x 64 outputs, 32 along the reduction; 32 x 32 outputs a warp
PCN_DGRAD_MMA(conv2d_dgrad_mma64x64, 128, 65, MmaTile<64, 64, 32, 32, 32, 3>)

}  // namespace pcn
