// conv2d_wgrad_mma128x128_bf16: filter gradient of bfloat16 on tensor cores, tiles of 128 filters x 128
// weights
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   bfloat16   dw (K,R,S,C/groups) and the sums float32   last axis contiguous
// Implicit GEMM with mma.sync m16n8k16 (conv/mma_wgrad.h). For K/groups of 128 and 384: AlexNet's second,
// third and fifth layers, and the fully connected ones.
// Block: 128 threads in 4 warps of 64 x 64 outputs, 4 stages of 32 along the reduction in 69632 bytes of
// dynamic shared memory. Registers 244 on sm_80, 240 on sm_90, no spills; blocks a multiprocessor: 2 on
// sm_80, 2 on sm_90. 64 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: compute capability 8.0 and higher, C/groups and K/groups divisible by 8, pointers to 16 bytes; any
// filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_wgrad.h"

namespace pcn {

// 128 x 128 outputs, 32 along the reduction; 64 x 64 outputs a warp
PCN_WGRAD_MMA(conv2d_wgrad_mma128x128_bf16, 128, 90, MmaTile<128, 128, 32, 64, 64, 4, Bf16>)

}  // namespace pcn
