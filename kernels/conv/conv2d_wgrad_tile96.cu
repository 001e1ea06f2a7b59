// conv2d_wgrad_tile96: filter gradient, tiles of 96 filters x 128 weights
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   dw (K,R,S,C/groups)   float32, last axis contiguous
// Implicit GEMM (conv/wgrad.h). For K/groups of 96 and 192: AlexNet's conv1 (through the first layer's
// kernel) and conv4.
// Block: 256 threads, 14848 bytes of shared memory, 125 / 125 / 127 registers on sm_75 / 80 / 90 (no
// spills), which leave room for 2 blocks a multiprocessor. 48 FMAs for 56 bytes read from shared memory a
// thread; 27 flops per byte fetched from L2. Bound by FFMA.
// Accepts: C/groups and K/groups divisible by 4, pointers to 16 bytes; any filter, stride, padding,
// groups.
// Not timed on a GPU yet.
#include "conv/wgrad.h"

namespace pcn {
namespace {

// ---- tile: 96 x 128 outputs, 8 along the reduction; 6 x 8 outputs a thread
using Tile = conv::Tile<96, 128, 8, 6, 8, 4, 2>;
constexpr conv::TileInfo kTile = Tile::info(0.95);
static_assert(Tile::THREADS == 256, "threads a block");

// ---- supports
bool supports(const Conv2dShape& shape) { return conv::wgrad_vectors(shape); }
std::size_t workspace_bytes(const Conv2dShape& shape) {
  return conv::split_bytes(conv::wgrad_extent(shape), kTile);
}
double cost(const Conv2dShape& shape) { return conv::gemm_cost(conv::wgrad_extent(shape), kTile); }

}  // namespace

const Conv2dTraits conv2d_wgrad_tile96_traits = {supports, workspace_bytes, cost};

// ---- launcher
cudaError_t conv2d_wgrad_tile96(float* dw, const float* dy, const float* x, const Conv2dShape& shape,
                                void* workspace, cudaStream_t stream) {
  return conv::wgrad<Tile, 4>("conv2d_wgrad_tile96", dw, dy, x, shape, workspace, stream);
}

}  // namespace pcn
