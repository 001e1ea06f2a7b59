// conv2d_fprop_mma64x64: forward convolution on tensor cores, tiles of 64 pixels x 64 filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_fprop.h), TF32 or three TF32 products. For few pixels: small batches,
// fully connected layers.
// Block: 128 threads in 4 warps of 32 x 32 outputs, 3 stages of 32 along the reduction in 49152 bytes of
// dynamic shared memory. Registers 128 (tf32) and 211 (fp32x3) on sm_80, 128 and 214 on sm_90, no spills;
// blocks a multiprocessor: 3 and 2 on sm_80, 4 and 2 on sm_90.
// 16 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups divisible by 4, pointers to
// 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_fprop.h"

namespace pcn {

// 64 x 64 outputs, 32 along the reduction; 32 x 32 outputs a warp
PCN_FPROP_MMA(conv2d_fprop_mma64x64, 128, 70, MmaTile<64, 64, 32, 32, 32, 3>)

}  // namespace pcn
