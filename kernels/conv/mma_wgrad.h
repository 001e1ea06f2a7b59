// Gradient with respect to the filters on tensor cores: the matrix product of wgrad.h, rows filters, columns
// their weights, reduced over all output pixels, on the tile of mma_tile.h. Both operands are contiguous
// across the reduction: ldmatrix.trans of Bf16, 32-bit reads of float. The reduction is cut into pieces that
// are added in order. The kernel of every line of PCN_WGRAD_MMA
// and _MMA_BF16 in tiles.inc.
#pragma once
#include "conv/mma_loaders.h"
#include "conv/wgrad.h"

namespace pcn::conv {

template <class T, int PRODUCTS>
__global__ void __launch_bounds__(T::THREADS, T::MIN_CTAS)
    mma_wgrad_kernel(const WgradArgs<typename T::Element> args) {
  if constexpr (kTensorCores) {
    using E = typename T::Element;
    const Conv2dShape& s = args.shape;
    int tile = blockIdx.x;
    const int n0 = tile % args.n_tiles * T::BN;
    tile /= args.n_tiles;
    const int m0 = tile % args.m_tiles * T::BM, group = tile / args.m_tiles;
    const int k_begin = blockIdx.y * args.chunk;
    const int k_count = min(args.depth - k_begin, args.chunk);
    const int group_channels = s.c / s.groups, group_filters = s.k / s.groups;
    const int first_filter = group * group_filters + m0;

    MatrixColumnCopies<E, T::BM, T::BK, T::THREADS> gradient(args.dy, s.k, first_filter, group_filters - m0,
                                                             args.depth, k_begin);
    PatchCopies<E, T::BN, T::BK, T::THREADS> patches(
        args.x, s, args.step, k_begin, group * group_channels, [&](int col) {
          const int weight = n0 + col;
          const int tap = weight / group_channels;
          return Digits{weight - tap * group_channels, tap % s.s, weight < args.cols ? tap / s.s : -1};
        });
    float acc[T::MI][T::NI][4];
    mma_multiply<T, PRODUCTS, AcrossTile<E, T::BM, T::BK>, AcrossTile<E, T::BN, T::BK>>(
        acc, gradient, patches, (k_count + T::BK - 1) / T::BK);

    float* out = args.out + (static_cast<long long>(blockIdx.y) * s.k + first_filter) * args.cols + n0;
    mma_store<T>(
        acc, out,
        [&](int row) { return m0 + row < group_filters ? static_cast<long long>(row) * args.cols : -1ll; },
        args.cols - n0, args.vectors != 0, Epilogue<float>{});
  } else {
    trap();
  }
}

template <class T>
bool mma_wgrad_supports(const Conv2dShape& s) {
  return whole_chunks<T>(s.c, s.groups) && whole_chunks<T>(s.k, s.groups) &&
         mma_supports<T>(s, mma_wgrad_kernel<T, 1>);
}

template <class T, class E>
cudaError_t mma_wgrad(const char* stem, float* dw, const E* dy, const E* x, const Conv2dShape& shape,
                      void* workspace, cudaStream_t stream) {
  const GemmGrid grid = gemm_grid(wgrad_extent(shape), T::info(1));
  const WgradArgs<E> args =
      wgrad_args(dw, dy, x, shape, workspace, grid, CopyAcrossK<E, T::BN, T::BK, T::THREADS>::K_STEP);
  static_assert(std::is_same<E, typename T::Element>::value, "the tile is made for the arrays' type");
  auto* kernel = mma_wgrad_kernel<T, 1>;
  if constexpr (std::is_same<E, float>::value)
    if (shape.precision == Precision::kFp32x3) kernel = mma_wgrad_kernel<T, 3>;
  const cudaError_t status =
      launch(stem, kernel, blocks_of(grid), dim3(T::THREADS),
             ring_bytes<T, AcrossTile<E, T::BM, T::BK>, AcrossTile<E, T::BN, T::BK>>(), stream, args);
  if (status != cudaSuccess) return status;
  return wgrad_finish(stem, dw, shape, workspace, grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_WGRAD_MMA or _MMA_BF16 in tiles.inc: the kernel's launcher and its traits.
#define PCN_WGRAD_MMA(stem, THREADS_A_BLOCK, PERCENT, ...)                                               \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                       \
  const Conv2dTraits stem##_traits = {conv::mma_wgrad_supports<conv::__VA_ARGS__>,                       \
                                      conv::split_workspace<conv::wgrad_extent, conv::__VA_ARGS__>,      \
                                      conv::mma_cost<conv::wgrad_extent, conv::__VA_ARGS__, PERCENT>};   \
  cudaError_t stem(float* dw, const conv::__VA_ARGS__::Element* dy, const conv::__VA_ARGS__::Element* x, \
                   const Conv2dShape& shape, void* workspace, cudaStream_t stream) {                     \
    return conv::mma_wgrad<conv::__VA_ARGS__>(#stem, dw, dy, x, shape, workspace, stream);               \
  }
#define PCN_WGRAD_MMA_BF16 PCN_WGRAD_MMA
