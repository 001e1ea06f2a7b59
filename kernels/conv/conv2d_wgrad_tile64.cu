// conv2d_wgrad_tile64: filter gradient, tiles of 64 filters x 128 weights
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   dw (K,R,S,C/groups)   float32, last axis contiguous
// Implicit GEMM (conv/wgrad.h). For K/groups of 64.
// Block: 128 threads, 12800 bytes of shared memory, 159 / 159 / 167 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 3 blocks a multiprocessor. 64 FMAs for 64 bytes read from shared memory a
// thread; 21 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// 4 blocks a multiprocessor (128 registers) made fprop's spill up to 100 bytes, so 3. Not timed on a GPU
// yet.
#include "conv/wgrad.h"

namespace pcn {

// 64 x 128 outputs, 8 along the reduction; 8 x 8 outputs a thread
PCN_WGRAD_TILE(conv2d_wgrad_tile64, 128, 95, Tile<64, 128, 8, 8, 8, 4, 3>)

}  // namespace pcn
