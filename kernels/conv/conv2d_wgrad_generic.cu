// conv2d_wgrad_generic: filter gradient of any shape
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
// dy (N,P,Q,K)   x (N,H,W,C)   float32 or bfloat16   dw (K,R,S,C/groups)   float32   last axis contiguous
// Implicit GEMM (conv/wgrad.h). One element a load, so any number of channels and filters.
// Block: 128 threads, 6656 bytes of shared memory, 88 / 88 / 88 registers on sm_75 / 80 / 90 (no spills),
// which leave room for 4 blocks a multiprocessor. 16 FMAs for 32 bytes read from shared memory a thread;
// 11 flops per byte fetched from L2. Bound by FFMA.
// Accepts: everything.
// Not timed on a GPU yet.
#include "conv/wgrad.h"

namespace pcn {
namespace {

// ---- tile: 32 x 64 outputs, 8 along the reduction; 4 x 4 outputs a thread
using Tile = conv::Tile<32, 64, 8, 4, 4, 4, 4>;
constexpr conv::TileInfo kTile = Tile::info(0.3);
static_assert(Tile::THREADS == 128, "threads a block");

// ---- supports
std::size_t workspace_bytes(const Conv2dShape& shape) {
  return conv::split_bytes(conv::wgrad_extent(shape), kTile);
}
double cost(const Conv2dShape& shape) {
  return conv::gemm_cost(conv::wgrad_extent(shape), kTile, shape.precision);
}

}  // namespace

const Conv2dTraits conv2d_wgrad_generic_traits = {always<Conv2dShape>, workspace_bytes, cost};

// ---- launcher
template <class E>
cudaError_t conv2d_wgrad_generic(float* dw, float* db, const E* dy, const E* x, const Conv2dShape& shape,
                                 void* workspace, cudaStream_t stream) {
  return conv::wgrad<Tile, 1>("conv2d_wgrad_generic", dw, db, dy, x, shape, workspace, stream);
}

// For hopper/wgrad.h.
template cudaError_t conv::wgrad_finish(const char*, float*, float*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
template cudaError_t conv2d_wgrad_generic(float*, float*, const float*, const float*, const Conv2dShape&,
                                          void*, cudaStream_t);
template cudaError_t conv2d_wgrad_generic(float*, float*, const Bf16*, const Bf16*, const Conv2dShape&, void*,
                                          cudaStream_t);

}  // namespace pcn
