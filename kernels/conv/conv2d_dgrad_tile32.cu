// conv2d_dgrad_tile32: input gradient, tiles of 128 pixels x 32 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM (conv/dgrad.h). For 32 channels, as in cuda-convnet's CIFAR-10 nets.
// Block: 128 threads, 11264 bytes of shared memory, 100 / 100 / 109 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 4 blocks a multiprocessor. 32 FMAs for 48 bytes read from shared memory a
// thread; 13 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Not timed on a GPU yet.
#include "conv/dgrad.h"

namespace pcn {

// 128 x 32 outputs, 8 along the reduction; 8 x 4 outputs a thread
PCN_DGRAD_TILE(conv2d_dgrad_tile32, 128, 80, Tile<128, 32, 8, 8, 4, 4, 4>)

}  // namespace pcn
