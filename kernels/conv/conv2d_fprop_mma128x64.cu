// conv2d_fprop_mma128x64: forward convolution on tensor cores, tiles of 128 pixels x 64 filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_fprop.h), TF32 or three TF32 products. For K/groups of 64, and where
// more, smaller blocks fill the device more evenly.
// Block: 128 threads in 4 warps of 64 x 32 outputs, 4 stages of 16 along the reduction in 49152 bytes of
// dynamic shared memory. Registers 168 (tf32) and 245 (fp32x3) on sm_80, 197 and 247 on sm_90, no spills;
// blocks a multiprocessor: 3 and 2 on sm_80, 2 and 2 on sm_90.
// 21 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups divisible by 4, pointers to
// 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_fprop.h"

namespace pcn {

// 128 x 64 outputs, 16 along the reduction; 64 x 32 outputs a warp
PCN_FPROP_MMA(conv2d_fprop_mma128x64, 128, 85, MmaTile<128, 64, 16, 64, 32, 4>)

}  // namespace pcn
