// Gradient with respect to the filters on sm_90a, the host's side: what weights.h and, of float, weights_tf32.h compute. The
// kernel of every line of PCN_WGRAD_WGMMA and _WGMMA_BF16 in tiles.inc.
#pragma once
#include "conv/hopper/product.h"
#include "conv/hopper/weights.h"
#include "conv/hopper/weights_tf32.h"
#include "conv/wgrad.h"

namespace pcn::conv {

// Of conv2d_wgrad_generic.cu: see hopper/fprop.h.
extern template cudaError_t wgrad_finish(const char* stem, float* dw, float* db, const Conv2dShape& shape,
                                         void* workspace, const GemmGrid& grid, cudaStream_t stream);

template <class T>
constexpr bool kTransposes = T::TRANSPOSES;
// Channels of a wide block of x: rows of 128 bytes.
template <class T>
constexpr int kWide = 128 / static_cast<int>(sizeof(typename T::Element));
template <class T, int CHANNELS>
using WeightsSide = std::conditional_t<kTransposes<T>, WeightsTf32<CHANNELS>, Weights<CHANNELS>>;

inline GemmExtent weights_extent(const Conv2dShape& s) {
  const GemmExtent e = wgrad_extent(s);
  return {e.cols, e.rows, e.depth, e.batches, e.splits};
}
// The rate of the fastest of these tiles in multiply-adds of FFMA: by the cycle model 1.55 times that of the fastest
// mma.sync tile, of TF32 1.33 times.
template <class T>
TileInfo weights_info(double efficiency) {
  constexpr double RATE = kTransposes<T> ? 6 : 14;
  return {T::BM, T::BN, T::BK, T::THREADS, 1, efficiency * RATE, RATE};
}
template <class T>
GemmGrid weights_grid(const Conv2dShape& s) {
  return gemm_grid(weights_extent(s), weights_info<T>(1));
}

// Channels of a block: no block has two taps.
template <class T>
bool wide_blocks(const Conv2dShape& s) {
  return s.c / s.groups % kWide<T> == 0 || (s.r == 1 && s.s == 1);
}

template <class T>
bool wgmma_wgrad_supports(const Conv2dShape& s) {
  return (wide_blocks<T>(s) || s.c / s.groups % 16 == 0) && maps_take<T>(s) &&
         image_at_least(ring_kernel<T, WeightsSide<T, 16>, 4>(), 90);
}
template <class T>
std::size_t wgmma_wgrad_workspace(const Conv2dShape& s) {
  const int splits = weights_grid<T>(s).splits;
  return splits == 1 ? 0 : splits * wgrad_piece(s, s.bias_grad != 0) * sizeof(float);
}
template <class T, int PERCENT>
double wgmma_wgrad_cost(const Conv2dShape& s) {
  return gemm_cost(weights_extent(s), weights_info<T>(PERCENT / 100.0), s.precision);
}

// dy (pixels, filters), of which a load takes 64 pixels of a block.
template <class T, class E>
cudaError_t map_gradient(TensorMap* map, const E* dy, const Conv2dShape& s) {
  constexpr int SPAN = WeightsSide<T, 16>::template SPAN<T>;
  const uint64_t k = s.k, pixels = std::uint64_t(s.n) * s.p * s.q;
  const uint64_t dim[] = {k, pixels}, stride[] = {k * sizeof(E)};
  const uint32_t box[] = {SPAN / sizeof(E), T::BK};
  // A lane reads rows of float as they lie, and rounds them; wgmma wants those of Bf16 swizzled.
  return encode_tiled(map, dy, kTransposes<T> ? TensorElement::kFloat32 : kOperand<E>, 2, dim, stride, box,
                      kTransposes<T> ? TensorSwizzle::kNone : swizzle_of(SPAN));
}

// dw, or the pieces, `piece` floats apart: filters end with their group.
template <class T>
cudaError_t map_weights(TensorMap* map, float* out, const GemmExtent& extent, int pieces,
                        std::int64_t piece) {
  const uint64_t weights = extent.rows, filters = extent.cols, groups = extent.batches, row = 4 * weights;
  const uint64_t dim[] = {weights, filters, groups, static_cast<uint64_t>(pieces)};
  const uint64_t stride[] = {row, filters * row, static_cast<uint64_t>(4 * piece)};
  const uint32_t box[] = {Transposed<T>::RUN, Transposed<T>::RUN, 1, 1};
  return encode_tiled(map, out, TensorElement::kFloat32, 4, dim, stride, box, TensorSwizzle::k128);
}

template <class T, class E>
cudaError_t wgmma_wgrad(const char* stem, float* dw, float* db, const E* dy, const E* x,
                        const Conv2dShape& shape, void* workspace, cudaStream_t stream) {
  const GemmExtent extent = weights_extent(shape);
  const GemmGrid grid = weights_grid<T>(shape);
  const bool pieces = grid.splits > 1, wide = wide_blocks<T>(shape);
  const std::int64_t piece = wgrad_piece(shape, db != nullptr);
  const int channels = wide ? kWide<T> : 16;
  float* const out = pieces ? static_cast<float*>(workspace) : dw;
  WgmmaArgs args = {};
  args.sums = db != nullptr && pieces ? out + wgrad_piece(shape, false) : db;
  args.piece = piece;
  args.shape = shape;
  args.single = single_pixels(shape);
  args.pieces = pieces;
  args.chunks = static_cast<int>(ceil_div(shape.c / shape.groups, channels)), args.channels = channels;
  args.rows = static_cast<int>(extent.rows);
  args.m_tiles = static_cast<int>(grid.m_tiles), args.n_tiles = static_cast<int>(grid.n_tiles);
  args.steps = static_cast<int>(ceil_div(extent.depth, T::BK));
  args.piece_steps = static_cast<int>(grid.chunk / T::BK);
  args.work = static_cast<int>(grid.tiles * grid.splits);
  cudaError_t status = map_pixels(&args.pixels, x, shape, channels, T::BK, swizzle_of(channels * sizeof(E)));
  if (status == cudaSuccess) status = map_gradient<T>(&args.filters, dy, shape);
  if (status == cudaSuccess) status = map_weights<T>(&args.out, out, extent, grid.splits, piece);
  if (status != cudaSuccess) return status;
  status = launch(
      stem, wide ? ring_kernel<T, WeightsSide<T, kWide<T>>, 4>() : ring_kernel<T, WeightsSide<T, 16>, 4>(),
      dim3(std::min(args.work, kMultiprocessors)), dim3(T::THREADS), T::SHARED_BYTES, stream, args);
  if (status != cudaSuccess) return status;
  return wgrad_finish(stem, dw, db, shape, workspace, grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_WGRAD_WGMMA or _WGMMA_BF16 in tiles.inc: the kernel's launcher and its traits.
#define PCN_WGRAD_WGMMA(stem, THREADS_A_BLOCK, PERCENT, ...)                                         \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                   \
  const Conv2dTraits stem##_traits = {                                                               \
      conv::wgmma_wgrad_supports<conv::__VA_ARGS__>, conv::wgmma_wgrad_workspace<conv::__VA_ARGS__>, \
      conv::wgmma_wgrad_cost<conv::__VA_ARGS__, PERCENT>, always<Conv2dShape>};                      \
  cudaError_t stem(float* dw, float* db, const conv::__VA_ARGS__::Element* dy,                       \
                   const conv::__VA_ARGS__::Element* x, const Conv2dShape& shape, void* workspace,   \
                   cudaStream_t stream) {                                                            \
    return conv::wgmma_wgrad<conv::__VA_ARGS__>(#stem, dw, db, dy, x, shape, workspace, stream);     \
  }
#define PCN_WGRAD_WGMMA_BF16 PCN_WGRAD_WGMMA
