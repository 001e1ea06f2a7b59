// conv2d_wgrad_tile96: filter gradient, tiles of 96 filters x 128 weights
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   dw (K,R,S,C/groups)   float32, last axis contiguous
// Implicit GEMM (conv/wgrad.h). For K/groups of 96 and 192: AlexNet's conv1 (through the first layer's
// kernel) and conv4.
// Block: 256 threads, 14848 bytes of shared memory, 125 / 125 / 127 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 2 blocks a multiprocessor. 48 FMAs for 56 bytes read from shared memory a
// thread; 27 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Not timed on a GPU yet.
#include "conv/wgrad.h"

namespace pcn {

// 96 x 128 outputs, 8 along the reduction; 6 x 8 outputs a thread
PCN_WGRAD_TILE(conv2d_wgrad_tile96, 256, 95, Tile<96, 128, 8, 6, 8, 4, 2>)

}  // namespace pcn
