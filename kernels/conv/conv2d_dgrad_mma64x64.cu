// conv2d_dgrad_mma64x64: input gradient on tensor cores, tiles of 64 pixels x 64 channels
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32, last axis contiguous
// Implicit GEMM with mma.sync (conv/mma_dgrad.h), TF32 or three TF32 products. For few pixels: small batches,
// fully connected layers.
// Block: 128 threads in 4 warps of 32 x 32 outputs, 3 stages of 32 along the reduction in 52224 bytes of
// dynamic shared memory. Registers 124 (tf32) and 190 (fp32x3) on sm_80, 124 and 188 on sm_90, no spills;
// blocks a multiprocessor: 3 and 2 on sm_80, 4 and 2 on sm_90.
// 16 flops per byte fetched from L2. Bound by the tensor cores.
// Accepts: precision tf32 and fp32x3, compute capability 8.0 and higher, C/groups and K/groups divisible by
// 4, pointers to 16 bytes; any filter, stride, padding, groups. Not timed on a GPU yet.
#include "conv/mma_dgrad.h"

namespace pcn {
namespace {

// ---- tile: 64 x 64 outputs, 32 along the reduction; 32 x 32 outputs a warp
using Tile = conv::MmaTile<64, 64, 32, 32, 32, 3>;
static_assert(Tile::THREADS == 128, "threads a block");

// ---- supports
bool supports(const Conv2dShape& shape) { return conv::mma_dgrad_supports<Tile>(shape); }
std::size_t workspace_bytes(const Conv2dShape& shape) { return conv::dgrad_workspace<Tile>(shape); }
double cost(const Conv2dShape& shape) {
  return conv::gemm_cost(conv::dgrad_extent(shape), conv::mma_info<Tile>(shape, 0.65));
}

}  // namespace

const Conv2dTraits conv2d_dgrad_mma64x64_traits = {supports, workspace_bytes, cost};

// ---- launcher
cudaError_t conv2d_dgrad_mma64x64(float* dx, const float* dy, const float* w, const float* mask,
                                  const Conv2dShape& shape, void* workspace, cudaStream_t stream) {
  return conv::mma_dgrad<Tile>("conv2d_dgrad_mma64x64", dx, dy, w, mask, shape, workspace, stream);
}

}  // namespace pcn
