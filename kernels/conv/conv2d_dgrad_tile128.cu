// conv2d_dgrad_tile128: input gradient, tiles of 128 pixels x 128 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM (conv/dgrad.h). For C/groups a multiple of 128: AlexNet's conv3 and the fully connected
// layers.
// Block: 256 threads, 17408 bytes of shared memory, 127 / 127 / 127 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 2 blocks a multiprocessor. 64 FMAs for 64 bytes read from shared memory a
// thread; 32 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Reading fragments further ahead spilled at 128 registers: up to 176 bytes for 4 steps in place of 2, up
// to 44 for 8. Not timed on a GPU yet.
#include "conv/dgrad.h"

namespace pcn {

// 128 x 128 outputs, 8 along the reduction; 8 x 8 outputs a thread
PCN_DGRAD_TILE(conv2d_dgrad_tile128, 256, 100, Tile<128, 128, 8, 8, 8, 2, 2>)

}  // namespace pcn
