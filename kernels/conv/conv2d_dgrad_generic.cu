// conv2d_dgrad_generic: input gradient of any shape
//   dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over k, p*stride_h + r = h+pad_h, q*stride_w + s = w+pad_w
// dy (N,P,Q,K)   w (K,R,S,C/groups)   dx (N,H,W,C)   float32 or bfloat16, last axis contiguous
// Implicit GEMM (conv/dgrad.h). One element a load, so any number of channels and filters.
// Block: 128 threads, 6912 bytes of shared memory, 86 / 86 / 93 registers on sm_75 / 80 / 90 (no spills),
// which leave room for 4 blocks a multiprocessor. 16 FMAs for 32 bytes read from shared memory a thread;
// 11 flops per byte fetched from L2. Bound by FFMA.
// Accepts: everything.
// Not timed on a GPU yet.
#include "conv/dgrad.h"

namespace pcn {
namespace {

// ---- tile: 64 x 32 outputs, 8 along the reduction; 4 x 4 outputs a thread
using Tile = conv::Tile<64, 32, 8, 4, 4, 4, 4>;
constexpr conv::TileInfo kTile = Tile::info(0.3);
static_assert(Tile::THREADS == 128, "threads a block");

// ---- supports
std::size_t workspace_bytes(const Conv2dShape& shape) { return conv::dgrad_workspace<Tile>(shape); }
double cost(const Conv2dShape& shape) {
  return conv::gemm_cost(conv::dgrad_extent(shape), kTile, shape.precision);
}

}  // namespace

const Conv2dTraits conv2d_dgrad_generic_traits = {always<Conv2dShape>, workspace_bytes, cost};

// ---- launcher
template <class E>
cudaError_t conv2d_dgrad_generic(E* dx, const E* dy, const E* w, const E* mask, const Conv2dShape& shape,
                                 void* workspace, cudaStream_t stream) {
  return conv::dgrad<Tile, 1>("conv2d_dgrad_generic", dx, dy, w, mask, shape, workspace, stream);
}

template cudaError_t conv2d_dgrad_generic(float*, const float*, const float*, const float*,
                                          const Conv2dShape&, void*, cudaStream_t);
template cudaError_t conv2d_dgrad_generic(Bf16*, const Bf16*, const Bf16*, const Bf16*, const Conv2dShape&,
                                          void*, cudaStream_t);
// For the rows of 9.0, whose unit is for it alone.
template cudaError_t conv::dgrad_finish(const char*, Bf16*, const Bf16*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
template cudaError_t conv::dgrad_finish(const char*, float*, const float*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);

}  // namespace pcn
