// conv2d_wgrad_mma96x128: filter gradient on tensor cores, tiles of 96 filters x 128 weights
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   dw (K,R,S,C/groups)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_wgrad.h), TF32 or three TF32 products. For K/groups of 96, as in
// AlexNet's first layer.
// Block: 256 threads in 8 warps of 48 x 32 outputs, 4 stages of 16 along the reduction in 61440 bytes of
// dynamic shared memory. Registers 136 (tf32) and 200 (fp32x3) on sm_80, 141 and 194 on sm_90, no spills;
// blocks a multiprocessor: 1 and 1 on sm_80, 1 and 1 on sm_90.
// 27 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups and K/groups divisible by
// 4, pointers to 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_wgrad.h"

namespace pcn {

// 96 x 128 outputs, 16 along the reduction; 48 x 32 outputs a warp
PCN_WGRAD_MMA(conv2d_wgrad_mma96x128, 256, 80, MmaTile<96, 128, 16, 48, 32, 4>)

}  // namespace pcn
