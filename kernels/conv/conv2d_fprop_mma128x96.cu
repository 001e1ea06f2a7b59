// conv2d_fprop_mma128x96: forward convolution on tensor cores, tiles of 128 pixels x 96 filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_fprop.h), TF32 or three TF32 products. For K/groups of 96 and 192.
// Block: 256 threads in 8 warps of 32 x 48 outputs, 3 stages of 32 along the reduction in 86016 bytes of
// dynamic shared memory. Registers 168 (tf32) and 255 (fp32x3) on sm_80, 168 and 255 on sm_90, no spills;
// blocks a multiprocessor: 1 and 1 on sm_80, 1 and 1 on sm_90.
// 27 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups divisible by 4, pointers to
// 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_fprop.h"

namespace pcn {

// 128 x 96 outputs, 32 along the reduction; 32 x 48 outputs a warp
PCN_FPROP_MMA(conv2d_fprop_mma128x96, 256, 90, MmaTile<128, 96, 32, 32, 48, 3>)

}  // namespace pcn
