// Gradient with respect to the filters as a matrix product: rows are the filters of a group, columns their
// weights (tap row, tap column, channel), the reduction runs over all output pixels of the batch. It is long
// and the result small, so it is cut into pieces whose results go to scratch memory and are added in order:
// the same bits every time.
//
// On tensor cores the kernels of mma_wgrad.h also make the bias's gradient, db: the sums of dy's columns. The
// blocks of the first column of tiles stage all of dy between them. Where the reduction is cut, each piece's
// sums lie behind its part of dw in scratch memory.
#pragma once
#include "conv/gemm_tile.h"
#include "conv/loaders.h"

namespace pcn::conv {

inline GemmExtent wgrad_extent(const Conv2dShape& s) {
  return {s.k / s.groups, std::int64_t{s.r} * s.s * (s.c / s.groups), std::int64_t{s.n} * s.p * s.q, s.groups,
          s.splits};
}

inline bool wgrad_vectors(const Conv2dShape& s) {
  return s.aligned != 0 && s.c / s.groups % 4 == 0 && s.k / s.groups % 4 == 0;
}

template <class E>
struct WgradArgs {
  float* out;  // dw, or the pieces
  const E *dy, *x;
  Conv2dShape shape;
  int cols, depth, chunk;
  int m_tiles, n_tiles;
  int vectors;
  Digits step;      // of the reduction index, in (output column, output row, image)
  float* bias;      // db, or that of the first piece; null where none is asked for
  long long piece;  // floats from one piece to the next
};

template <class T, int VEC, class E>
__global__ void __launch_bounds__(T::THREADS, T::MIN_CTAS) wgrad_kernel(const WgradArgs<E> args) {
  const Conv2dShape& s = args.shape;
  int tile = blockIdx.x;
  const int n0 = tile % args.n_tiles * T::BN;
  tile /= args.n_tiles;
  const int m0 = tile % args.m_tiles * T::BM, group = tile / args.m_tiles;
  const int k_begin = blockIdx.y * args.chunk;
  const int k_count = min(args.depth - k_begin, args.chunk);
  const int group_channels = s.c / s.groups, group_filters = s.k / s.groups;
  const MicroTile<T> mine;

  const int first_filter = group * group_filters + m0;
  MatrixColumnsLoader<E, T::BM, T::BK, T::THREADS, VEC> gradient(args.dy, s.k, first_filter,
                                                                 group_filters - m0, args.depth, k_begin);
  PatchLoader<E, T::BN, T::BK, T::THREADS, VEC> patches(
      args.x, s, args.step, k_begin, group * group_channels, [&](int col) {
        const int weight = n0 + col;
        const int tap = weight / group_channels;
        return Digits{weight - tap * group_channels, tap % s.s, weight < args.cols ? tap / s.s : -1};
      });
  float acc[T::TM][T::TN];
  multiply<T>(acc, gradient, patches, (k_count + T::BK - 1) / T::BK, mine);

  float* out = args.out + blockIdx.y * args.piece + static_cast<long long>(first_filter) * args.cols + n0;
  store<T>(
      acc, mine, out,
      [&](int row) { return m0 + row < group_filters ? static_cast<long long>(row) * args.cols : -1ll; },
      args.cols - n0, args.vectors != 0, Epilogue<float>{});
}

// Floats of a piece: dw and, if there is a db, that.
inline std::int64_t wgrad_piece(const Conv2dShape& shape, bool with_bias) {
  return shape.k * (wgrad_extent(shape).cols + (with_bias ? 1 : 0));
}

// Everything but the step along the reduction, which depends on how a kernel's threads share it.
template <class E>
WgradArgs<E> wgrad_args(float* dw, float* db, const E* dy, const E* x, const Conv2dShape& shape,
                        void* workspace, const GemmGrid& grid, int step) {
  const GemmExtent extent = wgrad_extent(shape);
  float* const pieces = static_cast<float*>(workspace);
  return {grid.splits > 1 ? pieces : dw,
          dy,
          x,
          shape,
          static_cast<int>(extent.cols),
          static_cast<int>(extent.depth),
          static_cast<int>(grid.chunk),
          static_cast<int>(grid.m_tiles),
          static_cast<int>(grid.n_tiles),
          shape.aligned != 0 && extent.cols % 4 == 0,
          digits_of(step, Radix{shape.q, shape.p}),
          db != nullptr && grid.splits > 1 ? pieces + wgrad_piece(shape, false) : db,
          wgrad_piece(shape, db != nullptr)};
}

// After the product: adds its pieces, where there are several. (A template that hopper/wgrad.h does not instantiate.)
template <class Out>
cudaError_t wgrad_finish(const char* stem, Out* dw, Out* db, const Conv2dShape& shape, void* workspace,
                         const GemmGrid& grid, cudaStream_t stream) {
  if (grid.splits == 1) return cudaSuccess;
  return add_pieces(stem, dw, static_cast<const float*>(workspace), Epilogue<Out>{},
                    static_cast<int>(wgrad_piece(shape, false)), shape.k, grid.splits, shape.aligned != 0,
                    stream, db);
}

template <class T, int VEC, class E>
cudaError_t wgrad(const char* stem, float* dw, float* db, const E* dy, const E* x, const Conv2dShape& shape,
                  void* workspace, cudaStream_t stream) {
  if (db != nullptr) return cudaErrorInvalidValue;  // these kernels do not make it
  const GemmGrid grid = gemm_grid(wgrad_extent(shape), T::info(1));
  const WgradArgs<E> args =
      wgrad_args(dw, db, dy, x, shape, workspace, grid, AcrossK<T::BN, T::BK, T::THREADS, VEC>::STEP);
  const cudaError_t status =
      launch(stem, wgrad_kernel<T, VEC, E>, blocks_of(grid), dim3(T::THREADS), 0, stream, args);
  if (status != cudaSuccess) return status;
  return wgrad_finish(stem, dw, db, shape, workspace, grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_WGRAD_TILE in tiles.inc: the kernel's launcher and its traits.
#define PCN_WGRAD_TILE(stem, THREADS_A_BLOCK, PERCENT, ...)                                             \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                      \
  const Conv2dTraits stem##_traits = {conv::wgrad_vectors,                                              \
                                      conv::split_workspace<conv::wgrad_extent, conv::__VA_ARGS__>,     \
                                      conv::tile_cost<conv::wgrad_extent, conv::__VA_ARGS__, PERCENT>}; \
  cudaError_t stem(float* dw, float* db, const float* dy, const float* x, const Conv2dShape& shape,     \
                   void* workspace, cudaStream_t stream) {                                              \
    return conv::wgrad<conv::__VA_ARGS__, 4>(#stem, dw, db, dy, x, shape, workspace, stream);           \
  }
