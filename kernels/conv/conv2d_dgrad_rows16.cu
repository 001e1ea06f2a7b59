// conv2d_dgrad_rows16: input gradient of few pixels, above all fully connected layers on small batches
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM (conv/dgrad.h). With N*H*W <= 16 rows every weight is used once: bound by reading w,
// hence 32 steps along the reduction at once and a reduction cut into pieces until the blocks fill the
// device.
// Block: 128 threads, 38976 bytes of shared memory, 108 / 108 / 115 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 4 blocks a multiprocessor. 16 FMAs for 32 bytes read from shared memory a
// thread; little reuse.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Not timed on a GPU yet.
#include "conv/dgrad.h"

namespace pcn {

// 16 x 128 outputs, 32 along the reduction; 4 x 4 outputs a thread
PCN_DGRAD_TILE(conv2d_dgrad_rows16, 128, 55, Tile<16, 128, 32, 4, 4, 4, 4>)

}  // namespace pcn
