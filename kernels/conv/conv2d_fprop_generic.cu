// conv2d_fprop_generic: forward convolution of any shape
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32 or bfloat16, last axis contiguous
// Implicit GEMM (conv/fprop.h). One element a load, so any number of channels; about a third of the fast
// kernels' rate is to be expected. First layers of 3 channels at stride 1 end here.
// Block: 128 threads, 6656 bytes of shared memory, 95 / 95 / 95 registers on sm_75 / 80 / 90 (no spills),
// which leave room for 4 blocks a multiprocessor. 16 FMAs for 32 bytes read from shared memory a thread;
// 11 flops per byte fetched from L2. Bound by FFMA.
// Accepts: everything.
// Not timed on a GPU yet.
#include "conv/fprop.h"

namespace pcn {
namespace {

// ---- tile: 64 x 32 outputs, 8 along the reduction; 4 x 4 outputs a thread
using Tile = conv::Tile<64, 32, 8, 4, 4, 4, 4>;
constexpr conv::TileInfo kTile = Tile::info(0.3);
static_assert(Tile::THREADS == 128, "threads a block");

// ---- supports
std::size_t workspace_bytes(const Conv2dShape& shape) {
  return conv::split_bytes(conv::fprop_extent(shape), kTile);
}
double cost(const Conv2dShape& shape) {
  return conv::gemm_cost(conv::fprop_extent(shape), kTile, shape.precision);
}

}  // namespace

const Conv2dTraits conv2d_fprop_generic_traits = {always<Conv2dShape>, workspace_bytes, cost};

// ---- launcher
template <class E>
cudaError_t conv2d_fprop_generic(E* y, const E* x, const E* w, const float* b, const Conv2dShape& shape,
                                 Activation activation, void* workspace, cudaStream_t stream) {
  return conv::fprop<Tile, 1>("conv2d_fprop_generic", y, x, w, b, shape, activation, workspace, stream);
}

template cudaError_t conv2d_fprop_generic(float*, const float*, const float*, const float*,
                                          const Conv2dShape&, Activation, void*, cudaStream_t);
template cudaError_t conv2d_fprop_generic(Bf16*, const Bf16*, const Bf16*, const float*, const Conv2dShape&,
                                          Activation, void*, cudaStream_t);

}  // namespace pcn
