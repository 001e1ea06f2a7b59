// conv2d_fprop_mma128x128_bf16: forward convolution of bfloat16 on tensor cores, tiles of 128 pixels x 128
// filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   bfloat16, b (K) and the sums float32, last axis contiguous
// Implicit GEMM with mma.sync m16n8k16 (conv/mma_fprop.h). For K/groups of 128 and 384: AlexNet's second,
// third and fifth layers.
// Block: 128 threads in 4 warps of 64 x 64 outputs, 4 stages of 32 along the reduction in 65536 bytes of
// dynamic shared memory. Registers 250 on sm_80, 253 on sm_90, no spills; blocks a multiprocessor: 2 on
// sm_80, 2 on sm_90. 64 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: compute capability 8.0 and higher, C/groups divisible by 8, pointers to 16 bytes; any filter,
// stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_fprop.h"

namespace pcn {

// 128 x 128 outputs, 32 along the reduction; 64 x 64 outputs a warp
PCN_FPROP_MMA(conv2d_fprop_mma128x128_bf16, 128, 100, MmaTile<128, 128, 32, 64, 64, 4, Bf16>)

}  // namespace pcn
