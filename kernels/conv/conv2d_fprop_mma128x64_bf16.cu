// conv2d_fprop_mma128x64_bf16: forward convolution of bfloat16 on tensor cores, tiles of 128 pixels x 64
// filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   bfloat16, b (K) and the sums float32, last axis contiguous
// Implicit GEMM with mma.sync m16n8k16 (conv/mma_fprop.h). For K/groups of 64, and where few images make few
// tiles.
// Block: 128 threads in 4 warps of 64 x 32 outputs, 4 stages of 32 along the reduction in 49152 bytes of
// dynamic shared memory. Registers 168 on sm_80, 172 on sm_90, no spills; blocks a multiprocessor: 3 on
// sm_80, 2 on sm_90. 43 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: compute capability 8.0 and higher, C/groups divisible by 8, pointers to 16 bytes; any filter,
// stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_fprop.h"

namespace pcn {

// 128 x 64 outputs, 32 along the reduction; 64 x 32 outputs a warp
PCN_FPROP_MMA(conv2d_fprop_mma128x64_bf16, 128, 85, MmaTile<128, 64, 32, 64, 32, 4, Bf16>)

}  // namespace pcn
