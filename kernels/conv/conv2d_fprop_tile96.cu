// conv2d_fprop_tile96: forward convolution, tiles of 128 pixels x 96 filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32, last axis contiguous
// Implicit GEMM (conv/fprop.h). For K/groups of 96 and 192, which tiles of 128 would fill to 75 %:
// AlexNet's conv1 (through the first layer's kernel) and conv4.
// Block: 256 threads, 14848 bytes of shared memory, 117 / 117 / 123 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 2 blocks a multiprocessor. 48 FMAs for 56 bytes read from shared memory a
// thread; 27 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding, groups, K.
// Not timed on a GPU yet.
#include "conv/fprop.h"

namespace pcn {

// 128 x 96 outputs, 8 along the reduction; 8 x 6 outputs a thread
PCN_FPROP_TILE(conv2d_fprop_tile96, 256, 95, Tile<128, 96, 8, 8, 6, 4, 2>)

}  // namespace pcn
