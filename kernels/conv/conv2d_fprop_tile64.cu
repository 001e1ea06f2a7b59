// conv2d_fprop_tile64: forward convolution, tiles of 128 pixels x 64 filters
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32, last axis contiguous
// Implicit GEMM (conv/fprop.h). For K/groups of 64 and 192, and where more, smaller blocks fill the
// device more evenly.
// Block: 128 threads, 12800 bytes of shared memory, 144 / 144 / 151 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 3 blocks a multiprocessor. 64 FMAs for 64 bytes read from shared memory a
// thread; 21 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding, groups, K.
// 4 blocks a multiprocessor (128 registers) made fprop's spill up to 100 bytes, so 3. Not timed on a GPU
// yet.
#include "conv/fprop.h"

namespace pcn {

// 128 x 64 outputs, 8 along the reduction; 8 x 8 outputs a thread
PCN_FPROP_TILE(conv2d_fprop_tile64, 128, 95, Tile<128, 64, 8, 8, 8, 4, 3>)

}  // namespace pcn
