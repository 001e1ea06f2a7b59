// conv2d_wgrad_tile128: filter gradient, tiles of 128 filters x 128 weights
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   dw (K,R,S,C/groups)   float32, last axis contiguous
// Implicit GEMM (conv/wgrad.h). For K/groups a multiple of 128: AlexNet's conv2, conv3, conv5 and the
// fully connected layers (whose reduction, the batch, is short: they are bound by writing dw).
// Block: 256 threads, 16896 bytes of shared memory, 124 / 124 / 126 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 2 blocks a multiprocessor. 64 FMAs for 64 bytes read from shared memory a
// thread; 32 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Reading fragments further ahead spilled at 128 registers: up to 176 bytes for 4 steps in place of 2, up
// to 44 for 8. Not timed on a GPU yet.
#include "conv/wgrad.h"

namespace pcn {

// 128 x 128 outputs, 8 along the reduction; 8 x 8 outputs a thread
PCN_WGRAD_TILE(conv2d_wgrad_tile128, 256, 100, Tile<128, 128, 8, 8, 8, 2, 2>)

}  // namespace pcn
