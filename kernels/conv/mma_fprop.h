// Forward convolution on tensor cores: the matrix product of fprop.h, rows output pixels, columns filters, on
// the tile of mma_tile.h. Both operands are contiguous along the reduction: ldmatrix. The kernel of every
// line of PCN_FPROP_MMA and _MMA_BF16 in tiles.inc.
#pragma once
#include "conv/fprop.h"
#include "conv/mma_loaders.h"

namespace pcn::conv {

template <class T, int PRODUCTS>
__global__ void __launch_bounds__(T::THREADS, T::MIN_CTAS)
    mma_fprop_kernel(const FpropArgs<typename T::Element> args) {
  if constexpr (kTensorCores) {
    using E = typename T::Element;
    const Conv2dShape& s = args.shape;
    // Blocks that share pixels run next to each other: their image rows stay in L2, the filters do so anyway.
    int tile = blockIdx.x;
    const int n0 = tile % args.n_tiles * T::BN;
    tile /= args.n_tiles;
    const int m0 = tile % args.m_tiles * T::BM, group = tile / args.m_tiles;
    const int k_begin = blockIdx.y * args.chunk;
    const int k_count = min(args.depth - k_begin, args.chunk);
    const int group_channels = s.c / s.groups, group_filters = s.k / s.groups;
    const int first_filter = group * group_filters + n0;

    PixelCopies<E, T::BM, T::BK, T::THREADS, 1, Digits> pixels(
        args.x, s.h, s.w, s.c, group * group_channels, Radix{group_channels, s.s}, s.r, args.step, k_begin,
        [&](int row) {
          const int m = m0 + row;
          const int q = m % s.q, np = m / s.q;
          return Digits{q * s.stride_w - s.pad_w, np % s.p * s.stride_h - s.pad_h,
                        m < args.rows ? np / s.p : -1};
        });
    MatrixRowCopies<E, T::BN, T::BK, T::THREADS> filters(args.w, first_filter, group_filters - n0, args.depth,
                                                         k_begin);
    float acc[T::MI][T::NI][4];
    mma_multiply<T, PRODUCTS, AlongTile<E, T::BM, T::BK>, AlongTile<E, T::BN, T::BK>>(
        acc, pixels, filters, (k_count + T::BK - 1) / T::BK);

    fprop_store(args, group, m0, n0, [&](auto* out, auto... rest) { mma_store<T>(acc, out, rest...); });
  } else {
    trap();
  }
}

template <class T>
bool mma_fprop_supports(const Conv2dShape& s) {
  return whole_chunks<T>(s.c, s.groups) && mma_supports<T>(s, mma_fprop_kernel<T, 1>);
}

template <class T, class E>
cudaError_t mma_fprop(const char* stem, E* y, const E* x, const E* w, const float* b,
                      const Conv2dShape& shape, Activation activation, void* workspace, cudaStream_t stream) {
  const GemmGrid grid = gemm_grid(fprop_extent(shape), T::info(1));
  const FpropArgs<E> args = fprop_args(y, x, w, b, shape, activation, workspace, grid, T::BK);
  static_assert(std::is_same<E, typename T::Element>::value, "the tile is made for the arrays' type");
  auto* kernel = mma_fprop_kernel<T, 1>;
  if constexpr (std::is_same<E, float>::value)
    if (shape.precision == Precision::kFp32x3) kernel = mma_fprop_kernel<T, 3>;
  const cudaError_t status =
      launch(stem, kernel, blocks_of(grid), dim3(T::THREADS),
             ring_bytes<T, AlongTile<E, T::BM, T::BK>, AlongTile<E, T::BN, T::BK>>(), stream, args);
  if (status != cudaSuccess) return status;
  return fprop_finish(stem, y, b, shape, activation, workspace, grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_FPROP_MMA or _MMA_BF16 in tiles.inc: the kernel's launcher and its traits.
#define PCN_FPROP_MMA(stem, THREADS_A_BLOCK, PERCENT, ...)                                              \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                      \
  const Conv2dTraits stem##_traits = {conv::mma_fprop_supports<conv::__VA_ARGS__>,                      \
                                      conv::split_workspace<conv::fprop_extent, conv::__VA_ARGS__>,     \
                                      conv::mma_cost<conv::fprop_extent, conv::__VA_ARGS__, PERCENT>};  \
  cudaError_t stem(conv::__VA_ARGS__::Element* y, const conv::__VA_ARGS__::Element* x,                  \
                   const conv::__VA_ARGS__::Element* w, const float* b, const Conv2dShape& shape,       \
                   Activation activation, void* workspace, cudaStream_t stream) {                       \
    return conv::mma_fprop<conv::__VA_ARGS__>(#stem, y, x, w, b, shape, activation, workspace, stream); \
  }
#define PCN_FPROP_MMA_BF16 PCN_FPROP_MMA
