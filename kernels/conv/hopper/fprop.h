// Forward convolution on sm_90a: the matrix product of conv/fprop.h on the tile of wgmma_tile.h. Rows are output
// pixels, brought by an im2col map (a tiled one of 1x1 filters), columns filters. The kernel of every line of
// PCN_FPROP_WGMMA and _WGMMA_BF16 in tiles.inc.
#pragma once
#include "conv/fprop.h"
#include "conv/hopper/halo_product.h"

namespace pcn::conv {

// Not of this unit, which is for 90a alone: what other cards need, they must find (conv2d_fprop_generic.cu has it), and
// of two equal functions the linker keeps either.
extern template cudaError_t fprop_finish(const char* stem, Bf16* y, const float* b, const Conv2dShape& shape,
                                         Activation activation, void* workspace, const GemmGrid& grid,
                                         cudaStream_t stream);
extern template cudaError_t fprop_finish(const char* stem, float* y, const float* b, const Conv2dShape& shape,
                                         Activation activation, void* workspace, const GemmGrid& grid,
                                         cudaStream_t stream);

template <class T, class E>
cudaError_t wgmma_fprop(const char* stem, E* y, const E* x, const E* w, const float* b,
                        const Conv2dShape& shape, Activation activation, void* workspace,
                        cudaStream_t stream) {
  const WgmmaLayout layout = wgmma_layout<T, Forward>(shape);
  const Epilogue<E> epilogue = {b, activation == Activation::kRelu, nullptr};
  const cudaError_t status =
      wgmma_product<T, Forward>(stem, y, x, w, epilogue, shape, layout, workspace, stream);
  if (status != cudaSuccess) return status;
  return fprop_finish(stem, y, b, shape, activation, workspace, layout.grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_FPROP_WGMMA or _WGMMA_BF16 in tiles.inc: the kernel's launcher and its traits.
#define PCN_FPROP_WGMMA(stem, THREADS_A_BLOCK, PERCENT, ...)                                              \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                        \
  const Conv2dTraits stem##_traits = {conv::wgmma_supports<conv::__VA_ARGS__, conv::Forward>,             \
                                      conv::wgmma_workspace<conv::__VA_ARGS__, conv::Forward>,            \
                                      conv::wgmma_cost<conv::__VA_ARGS__, conv::Forward, PERCENT>, never, \
                                      conv::wgmma_shared<conv::__VA_ARGS__, conv::Forward>};              \
  cudaError_t stem(conv::__VA_ARGS__::Element* y, const conv::__VA_ARGS__::Element* x,                    \
                   const conv::__VA_ARGS__::Element* w, const float* b, const Conv2dShape& shape,         \
                   Activation activation, void* workspace, cudaStream_t stream) {                         \
    return conv::wgmma_fprop<conv::__VA_ARGS__>(#stem, y, x, w, b, shape, activation, workspace, stream); \
  }
#define PCN_FPROP_WGMMA_BF16 PCN_FPROP_WGMMA
