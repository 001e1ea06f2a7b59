// conv2d_dgrad_tile64: input gradient, tiles of 128 pixels x 64 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM (conv/dgrad.h). For C/groups of 64 and 192, and where more, smaller blocks fill the
// device more evenly.
// Block: 128 threads, 13312 bytes of shared memory, 142 / 142 / 149 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 3 blocks a multiprocessor. 64 FMAs for 64 bytes read from shared memory a
// thread; 21 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// 4 blocks a multiprocessor (128 registers) made fprop's spill up to 100 bytes, so 3. Not timed on a GPU
// yet.
#include "conv/dgrad.h"

namespace pcn {

// 128 x 64 outputs, 8 along the reduction; 8 x 8 outputs a thread
PCN_DGRAD_TILE(conv2d_dgrad_tile64, 128, 95, Tile<128, 64, 8, 8, 8, 4, 3>)

}  // namespace pcn
