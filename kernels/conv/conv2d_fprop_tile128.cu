// conv2d_fprop_tile128: forward convolution, tiles of 128 pixels x 128 filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32, last axis contiguous
// Implicit GEMM (conv/fprop.h). For K/groups a multiple of 128: AlexNet's conv2, conv3 and conv5.
// Block: 256 threads, 16896 bytes of shared memory, 124 / 124 / 123 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 2 blocks a multiprocessor. 64 FMAs for 64 bytes read from shared memory a
// thread; 32 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding, groups, K.
// Reading fragments further ahead spilled at 128 registers: up to 176 bytes for 4 steps in place of 2, up
// to 44 for 8. Not timed on a GPU yet.
#include "conv/fprop.h"

namespace pcn {

// 128 x 128 outputs, 8 along the reduction; 8 x 8 outputs a thread
PCN_FPROP_TILE(conv2d_fprop_tile128, 256, 100, Tile<128, 128, 8, 8, 8, 2, 2>)

}  // namespace pcn
