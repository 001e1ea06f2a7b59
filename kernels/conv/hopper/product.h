// The host's side of a product on the tile of wgmma_tile.h: what instructions and maps take, the maps, the launch.
// Shapes are those of the convolution that is computed, which of dgrad is not the layer's (Backward).
#pragma once
#include "conv/hopper/stream_k_product.h"
#include "conv/hopper/weights_tf32.h"
#include "conv/hopper/wgmma_kernel.h"

namespace pcn::conv {

// How a group's channels are cut into steps: by 128 bytes or, where that pads less, by 96.
struct WgmmaSteps {
  int ks, channels, chunks;  // products and channels a step, steps a filter tap
};
template <class T, class Side>
WgmmaSteps wgmma_steps(int group_channels) {
  const int parts[] = {T::BK / 4 * 4, T::BK / 4 * 3};
  const auto padded = [&](int part) { return ceil_div(group_channels, part) * part; };
  const bool narrow = Side::NARROW && padded(parts[1]) < padded(parts[0]);
  const int channels = parts[narrow];
  const int ks = channels * static_cast<int>(sizeof(typename T::Element)) / 32;
  return {ks, channels, static_cast<int>(ceil_div(group_channels, channels))};
}

template <class T, class Side>
GemmExtent wgmma_extent(const Conv2dShape& s) {
  const WgmmaSteps steps = wgmma_steps<T, Side>(s.c / s.groups);
  return {std::int64_t{s.n} * s.p * s.q, s.k / s.groups,
          std::int64_t{s.r} * s.s * steps.chunks * steps.channels, s.groups, s.splits};
}
// The rate of the fastest of these tiles, one of halo.h, in multiply-adds of FFMA: by the cycle model 1.65 times that of the
// fastest mma.sync tile, which is 4.5 and, of Bf16, 9 (mma_tile.h). Pieces, and parts of shared tiles, are weighed by that of the
// fastest tile of its kind.
template <class T, class Side>
TileInfo wgmma_info(const Conv2dShape& s, double efficiency) {
  constexpr double fold = std::is_same<typename T::Element, Bf16>::value ? 2 : 1, rate = 7.4 * fold,
                   own = (T::HALO ? 7.4 : 6) * fold;
  const int channels = wgmma_steps<T, Side>(s.c / s.groups).channels;
  return {T::BM, T::BN, channels, T::THREADS, 1, efficiency * rate, own};
}
// Filters of one pixel that meet each pixel once.
inline bool single_pixels(const Conv2dShape& s) {
  return s.r == 1 && s.s == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0 &&
         s.p == s.h && s.q == s.w;
}

// The corners of the bounding box, {w, h}, in which a window's first pixel lies: the least, and the greatest seen from
// the image's last pixel.
struct WindowCorners {
  int lower[2], upper[2];
};
inline WindowCorners window_corners(const Conv2dShape& s) {
  return {{-s.pad_w, -s.pad_h},
          {(s.q - 1) * s.stride_w - s.pad_w - (s.w - 1), (s.p - 1) * s.stride_h - s.pad_h - (s.h - 1)}};
}

// Whether a map can walk the windows.
inline bool windows_fit(const Conv2dShape& s) {
  if (single_pixels(s)) return true;
  const WindowCorners corners = window_corners(s);
  for (const int* corner : {corners.lower, corners.upper})
    for (int i = 0; i < 2; ++i)
      if (corner[i] < -128 || corner[i] > 127) return false;
  return s.stride_w <= 8 && s.stride_h <= 8 && s.r <= 256 && s.s <= 256;
}

// What the instructions take: extents of 16 bytes.
template <class T>
bool wgmma_takes(const Conv2dShape& s) {
  using E = typename T::Element;
  const Precision precision = std::is_same<E, Bf16>::value ? Precision::kBf16 : Precision::kTf32;
  if (s.precision != precision || s.aligned == 0 || s.capability != 90) return false;
  const int group_channels = s.c / s.groups, group_columns = s.k / s.groups;
  return group_channels % PER_ACCESS<E> == 0 && group_columns % PER_ACCESS<E> == 0;
}
// And maps: windows that an im2col map can walk.
template <class T>
bool maps_take(const Conv2dShape& s) {
  if (T::BM > 256 && single_pixels(s)) return false;  // rows of a tiled map's box
  return wgmma_takes<T>(s) && windows_fit(s);
}
// And of groups whole steps.
template <class T, class Side>
bool whole_steps(const Conv2dShape& s) {
  const int group_channels = s.c / s.groups;
  const WgmmaSteps steps = wgmma_steps<T, Side>(group_channels);
  return s.groups == 1 || steps.chunks * steps.channels == group_channels;
}
template <class T, class Side, int KS>
auto ring_kernel() {
  if constexpr (T::TRANSPOSES)
    return transposing_kernel<T, Side>;
  else
    return wgmma_kernel<T, Side, KS>;
}
template <class T, class Side>
bool ring_supports(const Conv2dShape& s) {
  return whole_steps<T, Side>(s) && maps_take<T>(s) && image_at_least(ring_kernel<T, Side, 4>(), 90);
}

// How a product is laid over the blocks, where extent and tile are known: whole tiles, even pieces, or tiles that are shared.
struct WgmmaLayout {
  GemmExtent extent;
  TileInfo tile;
  GemmGrid grid;
  std::int64_t steps;  // of a tile
  SharedTiles shared;
};
// Where `splits` of the shape leaves the choice, tiles are shared if that is estimated to take less time.
inline WgmmaLayout layout_of(const GemmExtent& e, const TileInfo& t, int splits) {
  WgmmaLayout layout = {e, t, gemm_grid(e, t), ceil_div(e.depth, t.bk), {}};
  GemmGrid& g = layout.grid;
  const double without = splits == kShareTiles ? std::numeric_limits<double>::infinity()
                                               : busiest(g, e, t) / t.rate + pieces_cost(g, e);
  if (splits <= 0) layout.shared = shared_tiles(g, layout.steps, t, without);
  if (layout.shared.tiles > 0) cut(g, e, t, 1);
  return layout;
}
inline std::size_t layout_bytes(const WgmmaLayout& l) {
  return l.shared.tiles > 0 ? shared_bytes(l.shared, l.tile) : split_bytes(l.extent, l.tile);
}
inline double layout_cost(const WgmmaLayout& l, Precision precision) {
  if (l.shared.tiles > 0) return shared_cost(l.shared, l.grid, l.steps, l.tile, l.tile.efficiency);
  return gemm_cost(l.extent, l.tile, precision);
}
// What a launch is told of it; the maps aside.
inline void lay_out(WgmmaOperands& args, const WgmmaLayout& l, void* workspace) {
  args.n_tiles = static_cast<int>(l.grid.n_tiles);
  args.work = static_cast<int>(l.grid.tiles * l.grid.splits) - l.shared.tiles;
  args.stream_k = {static_cast<float*>(workspace), l.shared.tiles, l.shared.shares,
                   static_cast<int>(l.steps)};
}
inline dim3 blocks_of(const WgmmaOperands& args) {
  return dim3(std::max(std::min(args.work, kMultiprocessors), args.stream_k.shares));
}

// ---- maps
// float becomes TF32 as it is loaded. wgmma reads the high 19 bits of what it finds: cut off, operands would err by 0.85
// of 2^-11 (rms), all in one direction (-0.72), and results by more than the 2^-11 that precision tf32 has promised (see
// raised() in elements.h). A map of TF32 rounds instead: CUTLASS's tensors for wgmma are such maps ("TMA converts f32 input
// to tf32"), and it takes maps of integers where it does not want TMA to round. To nearest, operands err by 0.42 of 2^-11
// and have no bias, so that results keep the bound. No document says how TMA rounds; `tma_tf32` asks a card.
template <class E>
constexpr TensorElement kOperand = std::is_same<E, Bf16>::value ? TensorElement::kBf16 : TensorElement::kTf32;
template <class Out>
constexpr TensorElement kResult =
    std::is_same<Out, Bf16>::value ? TensorElement::kBf16 : TensorElement::kFloat32;

// Of rows of so many bytes.
constexpr TensorSwizzle swizzle_of(int span) {
  return span == 128 ? TensorSwizzle::k128 : span == 64 ? TensorSwizzle::k64 : TensorSwizzle::k32;
}

template <class E>
cudaError_t map_pixels(TensorMap* map, const E* x, const Conv2dShape& s, int channels, int rows,
                       TensorSwizzle swizzle) {
  const uint64_t item = sizeof(E), c = s.c, w = s.w, h = s.h, n = s.n;
  const uint32_t channels_ = channels, rows_ = rows;
  if (single_pixels(s)) {
    const uint64_t dim[] = {c, n * h * w}, stride[] = {c * item};
    const uint32_t box[] = {channels_, rows_};
    return encode_tiled(map, x, kOperand<E>, 2, dim, stride, box, swizzle);
  }
  const uint64_t dim[] = {c, w, h, n}, stride[] = {c * item, w * c * item, h * w * c * item};
  const WindowCorners corners = window_corners(s);
  const uint32_t steps[] = {1, static_cast<uint32_t>(s.stride_w), static_cast<uint32_t>(s.stride_h), 1};
  return encode_im2col(map, x, kOperand<E>, dim, stride, corners.lower, corners.upper, channels_, rows_,
                       steps, swizzle);
}

// The layer's w[filters][R][S][channels], of which a load takes one tap. Backward, the layer's filters are the channels
// of the convolution.
template <class T, class Side, class E>
cudaError_t map_filters(TensorMap* map, const E* w, const Conv2dShape& s, int channels) {
  constexpr bool FORWARD = Side::MAJOR == Major::kK;
  constexpr int SPAN = Side::template SPAN<T>;
  const uint64_t c = (FORWARD ? s.c : s.k) / s.groups, r = s.r, s_ = s.s, k = FORWARD ? s.k : s.c;
  const uint64_t pixel = c * sizeof(E);
  const uint64_t dim[] = {c, s_, r, k}, stride[] = {pixel, s_ * pixel, r * s_ * pixel};
  const uint32_t step = channels, row = SPAN / sizeof(E);
  const uint32_t box[] = {FORWARD ? step : row, 1, 1, FORWARD ? T::BN : step};
  return encode_tiled(map, w, kOperand<E>, 4, dim, stride, box,
                      Side::PLAIN ? TensorSwizzle::kNone : swizzle_of(SPAN));
}

// Columns and groups are dimensions of their own, so that a tile ends where its group does.
template <class Out>
cudaError_t map_outputs(TensorMap* map, Out* out, std::int64_t rows, int columns, int groups, int pieces,
                        int store_columns) {
  const uint64_t group = columns / groups, count = groups, m = rows, pieces_ = pieces;
  const uint64_t row = columns * sizeof(Out);
  const uint64_t dim[] = {group, count, m, pieces_}, stride[] = {group * sizeof(Out), row, m * row};
  const uint32_t box[] = {static_cast<uint32_t>(store_columns), 1, 64, 1};
  return encode_tiled(map, out, kResult<Out>, 4, dim, stride, box, TensorSwizzle::k128);
}

// ---- the launch: out, or even pieces in workspace, which the caller adds, with bias, ReLU and mask
template <class T, class Side, class E>
cudaError_t ring_product(const char* stem, E* out, const E* pixels, const E* filters,
                         const Epilogue<E>& epilogue, const Conv2dShape& shape, const WgmmaLayout& layout,
                         void* workspace, cudaStream_t stream) {
  const GemmGrid& grid = layout.grid;
  const WgmmaSteps steps = wgmma_steps<T, Side>(shape.c / shape.groups);
  const bool pieces = grid.splits > 1;
  WgmmaArgs args = {};
  args.bias = pieces ? nullptr : epilogue.bias;
  args.mask = pieces ? nullptr : epilogue.mask;
  args.shape = shape;
  args.single = single_pixels(shape);
  args.pieces = pieces;
  args.relu = epilogue.relu && !pieces;
  args.chunks = steps.chunks, args.channels = steps.channels;
  args.rows = static_cast<int>(layout.extent.rows);
  args.m_tiles = static_cast<int>(grid.m_tiles);
  args.steps = static_cast<int>(layout.steps);
  args.piece_steps = static_cast<int>(grid.chunk / steps.channels);
  lay_out(args, layout, workspace);
  cudaError_t status = map_pixels(&args.pixels, pixels, shape, steps.channels, T::BM, TensorSwizzle::k128);
  if (status == cudaSuccess) status = map_filters<T, Side>(&args.filters, filters, shape, steps.channels);
  if (status == cudaSuccess)
    status = pieces ? map_outputs(&args.out, static_cast<float*>(workspace), args.rows, shape.k, shape.groups,
                                  grid.splits, T::template STORE_COLUMNS<float>)
                    : map_outputs(&args.out, out, args.rows, shape.k, shape.groups, 1,
                                  T::template STORE_COLUMNS<E>);
  if (status != cudaSuccess) return status;
  auto kernel = ring_kernel<T, Side, 4>();
  if constexpr (Side::NARROW)
    if (steps.ks == 3) kernel = ring_kernel<T, Side, 3>();
  status = launch(stem, kernel, blocks_of(args), dim3(T::THREADS), T::SHARED_BYTES, stream, args);
  return status == cudaSuccess ? add_parts<T>(stem, out, args, epilogue, stream) : status;
}

}  // namespace pcn::conv
