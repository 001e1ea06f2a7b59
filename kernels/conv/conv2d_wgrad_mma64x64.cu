// conv2d_wgrad_mma64x64: filter gradient on tensor cores, tiles of 64 filters x 64 weights
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   dw (K,R,S,C/groups)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_wgrad.h), TF32 or three TF32 products. For few filters or weights.
// Block: 128 threads in 4 warps of 32 x 32 outputs, 3 stages of 32 along the reduction in 55296 bytes of
// dynamic shared memory. Registers 128 (tf32) and 193 (fp32x3) on sm_80, 124 and 184 on sm_90, no spills;
// blocks a multiprocessor: 2 and 2 on sm_80, 4 and 2 on sm_90.
// 16 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups and K/groups divisible by
// 4, pointers to 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_wgrad.h"

namespace pcn {

// 64 x 64 outputs, 32 along the reduction; 32 x 32 outputs a warp
PCN_WGRAD_MMA(conv2d_wgrad_mma64x64, 128, 60, MmaTile<64, 64, 32, 32, 32, 3>)

}  // namespace pcn
