// conv2d_wgrad_tile32: filter gradient, tiles of 32 filters x 128 weights
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   dw (K,R,S,C/groups)   float32, last axis contiguous
// Implicit GEMM (conv/wgrad.h). For 32 filters, as in cuda-convnet's CIFAR-10 nets.
// Block: 128 threads, 10752 bytes of shared memory, 109 / 109 / 111 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 4 blocks a multiprocessor. 32 FMAs for 48 bytes read from shared memory a
// thread; 13 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Not timed on a GPU yet.
#include "conv/wgrad.h"

namespace pcn {

// 32 x 128 outputs, 8 along the reduction; 4 x 8 outputs a thread
PCN_WGRAD_TILE(conv2d_wgrad_tile32, 128, 80, Tile<32, 128, 8, 4, 8, 4, 4>)

}  // namespace pcn
