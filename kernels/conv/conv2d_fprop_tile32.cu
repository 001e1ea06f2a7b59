// conv2d_fprop_tile32: forward convolution, tiles of 128 pixels x 32 filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32, last axis contiguous
// Implicit GEMM (conv/fprop.h). For 32 filters, as in cuda-convnet's CIFAR-10 nets.
// Block: 128 threads, 10752 bytes of shared memory, 104 / 104 / 109 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 4 blocks a multiprocessor. 32 FMAs for 48 bytes read from shared memory a
// thread; 13 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding, groups, K.
// Not timed on a GPU yet.
#include "conv/fprop.h"

namespace pcn {

// 128 x 32 outputs, 8 along the reduction; 8 x 4 outputs a thread
PCN_FPROP_TILE(conv2d_fprop_tile32, 128, 80, Tile<128, 32, 8, 8, 4, 4, 4>)

}  // namespace pcn
