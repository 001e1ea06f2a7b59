// conv2d_fprop_rows16: forward convolution of few pixels, above all fully connected layers on small batches
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32, last axis contiguous
// Implicit GEMM (conv/fprop.h). With M = N*P*Q <= 16 rows every weight is used once: bound by reading w
// (fc6: 151 MB, 35 us at 4.3 TB/s), hence 32 steps along the reduction at once (8 float4 of w a thread in
// flight) and a reduction cut into pieces until the blocks fill the device.
// Block: 128 threads, 38912 bytes of shared memory, 117 / 117 / 116 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 4 blocks a multiprocessor. 16 FMAs for 32 bytes read from shared memory a
// thread; little reuse.
// Accepts: C/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding, groups, K.
// Not timed on a GPU yet.
#include "conv/fprop.h"

namespace pcn {

// 16 x 128 outputs, 32 along the reduction; 4 x 4 outputs a thread
PCN_FPROP_TILE(conv2d_fprop_rows16, 128, 55, Tile<16, 128, 32, 4, 4, 4, 4>)

}  // namespace pcn
