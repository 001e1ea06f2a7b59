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
namespace {

// ---- tile: 128 x 32 outputs, 8 along the reduction; 8 x 4 outputs a thread
using Tile = conv::Tile<128, 32, 8, 8, 4, 4, 4>;
constexpr conv::TileInfo kTile = Tile::info(0.8);
static_assert(Tile::THREADS == 128, "threads a block");

// ---- supports
bool supports(const Conv2dShape& shape) { return conv::dgrad_vectors(shape); }
std::size_t workspace_bytes(const Conv2dShape& shape) { return conv::dgrad_workspace<Tile>(shape); }
double cost(const Conv2dShape& shape) { return conv::gemm_cost(conv::dgrad_extent(shape), kTile); }

}  // namespace

const Conv2dTraits conv2d_dgrad_tile32_traits = {supports, workspace_bytes, cost};

// ---- launcher
cudaError_t conv2d_dgrad_tile32(float* dx, const float* dy, const float* w, const float* mask,
                                const Conv2dShape& shape, void* workspace, cudaStream_t stream) {
  return conv::dgrad<Tile, 4>("conv2d_dgrad_tile32", dx, dy, w, mask, shape, workspace, stream);
}

}  // namespace pcn
