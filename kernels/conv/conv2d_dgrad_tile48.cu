// conv2d_dgrad_tile48: input gradient, tiles of 128 pixels x 48 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM (conv/dgrad.h). For C/groups of 48: AlexNet's conv2, the costliest of its gradients,
// which tiles of 64 would fill to 75 %.
// Block: 128 threads, 12288 bytes of shared memory, 116 / 116 / 127 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 4 blocks a multiprocessor. 48 FMAs for 56 bytes read from shared memory a
// thread; 17 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Not timed on a GPU yet.
#include "conv/dgrad.h"

namespace pcn {

// 128 x 48 outputs, 8 along the reduction; 8 x 6 outputs a thread
PCN_DGRAD_TILE(conv2d_dgrad_tile48, 128, 90, Tile<128, 48, 8, 8, 6, 4, 4>)

}  // namespace pcn
