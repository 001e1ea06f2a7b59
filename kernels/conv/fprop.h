// Forward convolution as a matrix product: rows are output pixels, columns the filters of a group, the
// reduction runs over (tap row, tap column, channel). Both operands are contiguous along the reduction. The
// kernel of every conv2d_fprop_* file but the first layer's, which prepares its operands and then calls one
// of them.
#pragma once
#include "conv/gemm_tile.h"
#include "conv/loaders.h"

namespace pcn::conv {

inline GemmExtent fprop_extent(const Conv2dShape& s) {
  return {std::int64_t{s.n} * s.p * s.q, s.k / s.groups, std::int64_t{s.r} * s.s * (s.c / s.groups), s.groups,
          s.splits};
}

// Shapes that can be moved four channels of float at a time.
inline bool fprop_vectors(const Conv2dShape& s) { return s.aligned != 0 && s.c / s.groups % 4 == 0; }

template <class E>
struct FpropArgs {
  void* out;  // y, or the pieces
  const E *x, *w;
  const float* b;
  Conv2dShape shape;
  int rows, depth, chunk;
  int m_tiles, n_tiles;
  int vectors, relu;
  Digits step;  // of the reduction index, in (channel, tap column, tap row)
};

// What a kernel ends with: calls store(out, row offset, columns, vectors, epilogue) for the tile of a group
// that starts at pixel m0 and filter n0.
template <class E, class Store>
__device__ __forceinline__ void fprop_store(const FpropArgs<E>& args, int group, int m0, int n0,
                                            Store store) {
  const int k = args.shape.k, group_filters = k / args.shape.groups;
  const int first_filter = group * group_filters + n0;
  const long long piece = static_cast<long long>(blockIdx.y) * args.rows * k;
  const Epilogue<E> epilogue = {args.b == nullptr ? nullptr : args.b + first_filter, args.relu != 0, nullptr};
  to_memory(args.out, epilogue, [&](auto* out, const auto& chosen) {
    store(
        out + piece + first_filter,
        [&](int row) { return m0 + row < args.rows ? static_cast<long long>(m0 + row) * k : -1ll; },
        group_filters - n0, args.vectors != 0, chosen);
  });
}

template <class T, int VEC, class E>
__global__ void __launch_bounds__(T::THREADS, T::MIN_CTAS) fprop_kernel(const FpropArgs<E> args) {
  const Conv2dShape& s = args.shape;
  // Blocks that share pixels run next to each other: their image rows stay in L2, the filters do so anyway.
  int tile = blockIdx.x;
  const int n0 = tile % args.n_tiles * T::BN;
  tile /= args.n_tiles;
  const int m0 = tile % args.m_tiles * T::BM, group = tile / args.m_tiles;
  const int k_begin = blockIdx.y * args.chunk;
  const int k_count = min(args.depth - k_begin, args.chunk);
  const int group_channels = s.c / s.groups, group_filters = s.k / s.groups;
  const MicroTile<T> mine;

  PixelLoader<E, T::BM, T::BK, T::THREADS, VEC, 1, Digits> pixels(
      args.x, s.h, s.w, s.c, group * group_channels, Radix{group_channels, s.s}, s.r, args.step, k_begin,
      [&](int row) {
        const int m = m0 + row;
        const int q = m % s.q, np = m / s.q;
        return Digits{q * s.stride_w - s.pad_w, np % s.p * s.stride_h - s.pad_h,
                      m < args.rows ? np / s.p : -1};
      });
  const int first_filter = group * group_filters + n0;
  MatrixRowsLoader<E, T::BN, T::BK, T::THREADS, VEC> filters(args.w, first_filter, group_filters - n0,
                                                             args.depth, k_begin);
  float acc[T::TM][T::TN];
  multiply<T>(acc, pixels, filters, (k_count + T::BK - 1) / T::BK, mine);

  fprop_store(args, group, m0, n0, [&](auto* out, auto... rest) { store<T>(acc, mine, out, rest...); });
}

// Everything but the step along the reduction, which depends on how a kernel's threads share it.
template <class E>
FpropArgs<E> fprop_args(E* y, const E* x, const E* w, const float* b, const Conv2dShape& shape,
                        Activation activation, void* workspace, const GemmGrid& grid, int step) {
  const GemmExtent extent = fprop_extent(shape);
  const bool pieces = grid.splits > 1;
  return {pieces ? workspace : y,
          x,
          w,
          pieces ? nullptr : b,
          shape,
          static_cast<int>(extent.rows),
          static_cast<int>(extent.depth),
          static_cast<int>(grid.chunk),
          static_cast<int>(grid.m_tiles),
          static_cast<int>(grid.n_tiles),
          shape.aligned != 0 && shape.k / shape.groups % 4 == 0,
          activation == Activation::kRelu && !pieces,
          digits_of(step, Radix{shape.c / shape.groups, shape.s})};
}

// After the product: adds its pieces, where there are several.
template <class E>
cudaError_t fprop_finish(const char* stem, E* y, const float* b, const Conv2dShape& shape,
                         Activation activation, void* workspace, const GemmGrid& grid, cudaStream_t stream) {
  if (grid.splits == 1) return cudaSuccess;
  return add_pieces(
      stem, y, static_cast<const float*>(workspace), Epilogue<E>{b, activation == Activation::kRelu, nullptr},
      static_cast<int>(fprop_extent(shape).rows) * shape.k, shape.k, grid.splits, shape.aligned != 0, stream);
}

template <class T, int VEC, class E>
cudaError_t fprop(const char* stem, E* y, const E* x, const E* w, const float* b, const Conv2dShape& shape,
                  Activation activation, void* workspace, cudaStream_t stream) {
  const GemmGrid grid = gemm_grid(fprop_extent(shape), T::info(1));
  const FpropArgs<E> args =
      fprop_args(y, x, w, b, shape, activation, workspace, grid, AlongK<T::BM, T::BK, T::THREADS, VEC>::STEP);
  const cudaError_t status =
      launch(stem, fprop_kernel<T, VEC, E>, blocks_of(grid), dim3(T::THREADS), 0, stream, args);
  if (status != cudaSuccess) return status;
  return fprop_finish(stem, y, b, shape, activation, workspace, grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_FPROP_TILE or _ROWS in tiles.inc: the kernel's launcher and its traits.
#define PCN_FPROP_TILE(stem, THREADS_A_BLOCK, PERCENT, ...)                                             \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                      \
  const Conv2dTraits stem##_traits = {conv::fprop_vectors,                                              \
                                      conv::split_workspace<conv::fprop_extent, conv::__VA_ARGS__>,     \
                                      conv::tile_cost<conv::fprop_extent, conv::__VA_ARGS__, PERCENT>}; \
  cudaError_t stem(float* y, const float* x, const float* w, const float* b, const Conv2dShape& shape,  \
                   Activation activation, void* workspace, cudaStream_t stream) {                       \
    return conv::fprop<conv::__VA_ARGS__, 4>(#stem, y, x, w, b, shape, activation, workspace, stream);  \
  }
#define PCN_FPROP_ROWS PCN_FPROP_TILE
