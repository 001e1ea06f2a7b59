// conv2d_dgrad_tile96: input gradient, tiles of 128 pixels x 96 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM (conv/dgrad.h). For C/groups of 96 and 192: AlexNet's conv4 and conv5.
// Block: 256 threads, 15360 bytes of shared memory, 109 / 109 / 125 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 2 blocks a multiprocessor. 48 FMAs for 56 bytes read from shared memory a
// thread; 27 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Not timed on a GPU yet.
#include "conv/dgrad.h"

namespace pcn {

// 128 x 96 outputs, 8 along the reduction; 8 x 6 outputs a thread
PCN_DGRAD_TILE(conv2d_dgrad_tile96, 256, 95, Tile<128, 96, 8, 8, 6, 4, 2>)

}  // namespace pcn
