// Forward convolution on sm_90a: the matrix product of conv/fprop.h on the tile of wgmma_tile.h. Rows are output
// pixels, brought by an im2col map (a tiled one of 1x1 filters), columns filters. The kernel of every line of
// PCN_FPROP_WGMMA and _WGMMA_BF16 in tiles.inc.
#pragma once
#include "conv/fprop.h"
#include "conv/hopper/wgmma_tile.h"

namespace pcn::conv {

// Not of this unit, which is for 90a alone: what other cards need, they must find (conv2d_fprop_generic.cu has it), and
// of two equal functions the linker keeps either.
extern template cudaError_t fprop_finish(const char* stem, Bf16* y, const float* b, const Conv2dShape& shape,
                                         Activation activation, void* workspace, const GemmGrid& grid,
                                         cudaStream_t stream);

template <class T>
GemmExtent wgmma_fprop_extent(const Conv2dShape& s) {
  const WgmmaSteps steps = wgmma_steps<T>(s.c / s.groups);
  GemmExtent extent = fprop_extent(s);
  extent.depth = std::int64_t{s.r} * s.s * steps.chunks * steps.channels;
  return extent;
}
template <class T>
TileInfo wgmma_fprop_info(const Conv2dShape& s, double efficiency) {
  return wgmma_info<T>(wgmma_steps<T>(s.c / s.groups).channels, efficiency);
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

// What the instructions and maps take: extents of 16 bytes, windows that an im2col map can walk, groups of whole steps.
template <class T>
bool wgmma_fprop_supports(const Conv2dShape& s) {
  using E = typename T::Element;
  const Precision precision = std::is_same<E, Bf16>::value ? Precision::kBf16 : Precision::kTf32;
  if (s.precision != precision || s.aligned == 0 || s.capability != 90) return false;
  const int group_channels = s.c / s.groups, group_filters = s.k / s.groups;
  if (group_channels % PER_ACCESS<E> != 0 || group_filters % PER_ACCESS<E> != 0) return false;
  const WgmmaSteps steps = wgmma_steps<T>(group_channels);
  if (s.groups > 1 && steps.chunks * steps.channels != group_channels) return false;
  if (!single_pixels(s)) {
    const WindowCorners corners = window_corners(s);
    for (int i = 0; i < 2; ++i)
      if (corners.lower[i] < -128 || corners.upper[i] < -128 || corners.upper[i] > 127) return false;
    if (s.stride_w > 8 || s.stride_h > 8 || s.r > 256 || s.s > 256) return false;
  }
  return image_at_least(wgmma_kernel<T, 4>, 90);
}

template <class T>
std::size_t wgmma_fprop_workspace(const Conv2dShape& s) {
  return split_bytes(wgmma_fprop_extent<T>(s), wgmma_fprop_info<T>(s, 1));
}
template <class T, int PERCENT>
double wgmma_fprop_cost(const Conv2dShape& s) {
  return gemm_cost(wgmma_fprop_extent<T>(s), wgmma_fprop_info<T>(s, PERCENT / 100.0), s.precision);
}

template <class E>
constexpr TensorElement kMapElement =
    std::is_same<E, Bf16>::value ? TensorElement::kBf16 : TensorElement::kFloat32;

template <class E>
cudaError_t map_pixels(TensorMap* map, const E* x, const Conv2dShape& s, int channels, int rows) {
  const uint64_t item = sizeof(E), c = s.c, w = s.w, h = s.h, n = s.n;
  const uint32_t channels_ = channels, rows_ = rows;
  if (single_pixels(s)) {
    const uint64_t dim[] = {c, n * h * w}, stride[] = {c * item};
    const uint32_t box[] = {channels_, rows_};
    return encode_tiled(map, x, kMapElement<E>, 2, dim, stride, box, TensorSwizzle::k128);
  }
  const uint64_t dim[] = {c, w, h, n}, stride[] = {c * item, w * c * item, h * w * c * item};
  const WindowCorners corners = window_corners(s);
  const uint32_t steps[] = {1, static_cast<uint32_t>(s.stride_w), static_cast<uint32_t>(s.stride_h), 1};
  return encode_im2col(map, x, kMapElement<E>, dim, stride, corners.lower, corners.upper, channels_, rows_,
                       steps, TensorSwizzle::k128);
}

template <class E>
cudaError_t map_filters(TensorMap* map, const E* w, const Conv2dShape& s, int channels, int columns) {
  const uint64_t c = s.c / s.groups, r = s.r, s_ = s.s, k = s.k, pixel = c * sizeof(E);
  const uint64_t dim[] = {c, s_, r, k}, stride[] = {pixel, s_ * pixel, r * s_ * pixel};
  const uint32_t box[] = {static_cast<uint32_t>(channels), 1, 1, static_cast<uint32_t>(columns)};
  return encode_tiled(map, w, kMapElement<E>, 4, dim, stride, box, TensorSwizzle::k128);
}

// Columns and groups are dimensions of their own, so that a tile ends where its group does.
template <class Out>
cudaError_t map_outputs(TensorMap* map, Out* out, std::int64_t rows, int columns, int groups, int pieces,
                        int store_columns) {
  const uint64_t group = columns / groups, count = groups, m = rows, pieces_ = pieces;
  const uint64_t row = columns * sizeof(Out);
  const uint64_t dim[] = {group, count, m, pieces_}, stride[] = {group * sizeof(Out), row, m * row};
  const uint32_t box[] = {static_cast<uint32_t>(store_columns), 1, 64, 1};
  return encode_tiled(map, out, kMapElement<Out>, 4, dim, stride, box, TensorSwizzle::k128);
}

template <class T, class E>
cudaError_t wgmma_fprop(const char* stem, E* y, const E* x, const E* w, const float* b,
                        const Conv2dShape& shape, Activation activation, void* workspace,
                        cudaStream_t stream) {
  const GemmExtent extent = wgmma_fprop_extent<T>(shape);
  const GemmGrid grid = gemm_grid(extent, wgmma_fprop_info<T>(shape, 1));
  const WgmmaSteps steps = wgmma_steps<T>(shape.c / shape.groups);
  const bool pieces = grid.splits > 1;
  WgmmaArgs args = {};
  args.bias = pieces ? nullptr : b;
  args.shape = shape;
  args.single = single_pixels(shape);
  args.pieces = pieces;
  args.relu = activation == Activation::kRelu && !pieces;
  args.chunks = steps.chunks, args.channels = steps.channels;
  args.rows = static_cast<int>(extent.rows);
  args.m_tiles = static_cast<int>(grid.m_tiles), args.n_tiles = static_cast<int>(grid.n_tiles);
  args.steps = static_cast<int>(extent.depth / steps.channels);
  args.piece_steps = static_cast<int>(grid.chunk / steps.channels);
  args.work = static_cast<int>(grid.tiles * grid.splits);
  cudaError_t status = map_pixels(&args.pixels, x, shape, steps.channels, T::BM);
  if (status == cudaSuccess) status = map_filters(&args.filters, w, shape, steps.channels, T::BN);
  if (status == cudaSuccess)
    status = pieces ? map_outputs(&args.out, static_cast<float*>(workspace), extent.rows, shape.k,
                                  shape.groups, grid.splits, T::template STORE_COLUMNS<float>)
                    : map_outputs(&args.out, y, extent.rows, shape.k, shape.groups, 1,
                                  T::template STORE_COLUMNS<E>);
  if (status != cudaSuccess) return status;
  const auto kernel = steps.ks == 4 ? wgmma_kernel<T, 4> : wgmma_kernel<T, 3>;
  status = launch(stem, kernel, dim3(std::min(args.work, kMultiprocessors)), dim3(T::THREADS),
                  T::SHARED_BYTES, stream, args);
  if (status != cudaSuccess) return status;
  return fprop_finish(stem, y, b, shape, activation, workspace, grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_FPROP_WGMMA or _WGMMA_BF16 in tiles.inc: the kernel's launcher and its traits.
#define PCN_FPROP_WGMMA(stem, THREADS_A_BLOCK, PERCENT, ...)                                              \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                        \
  const Conv2dTraits stem##_traits = {conv::wgmma_fprop_supports<conv::__VA_ARGS__>,                      \
                                      conv::wgmma_fprop_workspace<conv::__VA_ARGS__>,                     \
                                      conv::wgmma_fprop_cost<conv::__VA_ARGS__, PERCENT>};                \
  cudaError_t stem(conv::__VA_ARGS__::Element* y, const conv::__VA_ARGS__::Element* x,                    \
                   const conv::__VA_ARGS__::Element* w, const float* b, const Conv2dShape& shape,         \
                   Activation activation, void* workspace, cudaStream_t stream) {                         \
    return conv::wgmma_fprop<conv::__VA_ARGS__>(#stem, y, x, w, b, shape, activation, workspace, stream); \
  }
#define PCN_FPROP_WGMMA_BF16 PCN_FPROP_WGMMA
