// Gradient with respect to the input on tensor cores: the matrix product of dgrad.h, rows input pixels of a
// stride's phase, columns channels, on the tile of mma_tile.h. dy is contiguous along the reduction:
// ldmatrix; the filters are so across it: ldmatrix.trans of Bf16, 32-bit reads of float. The kernel of every
// line of PCN_DGRAD_MMA and _MMA_BF16 in tiles.inc.
#pragma once
#include "conv/dgrad.h"
#include "conv/mma_loaders.h"

namespace pcn::conv {

template <class T, int PRODUCTS>
__global__ void __launch_bounds__(T::THREADS, T::MIN_CTAS)
    mma_dgrad_kernel(const DgradArgs<typename T::Element> args) {
  if constexpr (kTensorCores) {
    using E = typename T::Element;
    const Conv2dShape& s = args.shape;
    int tile = blockIdx.x;
    const int n0 = tile % args.n_tiles * T::BN;
    tile /= args.n_tiles;
    const int m0 = tile % args.m_tiles * T::BM;
    tile /= args.m_tiles;
    const int group = tile % s.groups, phase = tile / s.groups;
    const Phase ph = phase_of(phase / args.phases_w, s.h, s.stride_h, s.pad_h, s.r);
    const Phase pw = phase_of(phase % args.phases_w, s.w, s.stride_w, s.pad_w, s.s);
    const int rows = s.n * ph.count * pw.count;
    if (m0 >= rows) return;  // the whole block: a phase smaller than the largest

    const int group_channels = s.c / s.groups, group_filters = s.k / s.groups;
    const bool taps = ph.taps > 0 && pw.taps > 0;
    const int taps_r = taps ? ph.taps : 0, taps_s = taps ? pw.taps : 1;
    const Radix radix = {group_filters, taps_s};
    const int k_begin = blockIdx.y * args.chunk;
    const int k_count = min(taps_r * taps_s * group_filters - k_begin, args.chunk);

    auto& start = shared<DgradRows<T::BM>>().start;
    for (int row = threadIdx.x; row < T::BM; row += T::THREADS) {
      const int m = m0 + row, j = m % pw.count, ni = m / pw.count;
      const int h = ph.first + ni % ph.count * s.stride_h, w = pw.first + j * s.stride_w;
      start[row] = m < rows ? ((ni / ph.count * s.h + h) * s.w + w) * s.c + group * group_channels + n0 : -1;
    }
    __syncthreads();
    PixelCopies<E, T::BM, T::BK, T::THREADS, -1, int> pixels(
        args.dy, s.p, s.q, s.k, group * group_filters, radix, taps_r, T::BK, k_begin, [&](int row) {
          const int m = m0 + row, j = m % pw.count, ni = m / pw.count;
          return Digits{pw.first_out + j, ph.first_out + ni % ph.count, m < rows ? ni / ph.count : -1};
        });
    FilterTapCopies<E, T::BN, T::BK, T::THREADS> filters(
        args.w, group * group_filters * args.filter_stride + (ph.tap0 * s.s + pw.tap0) * group_channels + n0,
        args.filter_stride, args.row_stride, args.column_stride, group_channels - n0, radix, taps_r, k_begin);
    float acc[T::MI][T::NI][4];
    mma_multiply<T, PRODUCTS, AlongTile<E, T::BM, T::BK>, AcrossTile<E, T::BN, T::BK>>(
        acc, pixels, filters, k_count > 0 ? (k_count + T::BK - 1) / T::BK : 0);

    dgrad_store(args, start, n0, [&](auto* out, auto... rest) { mma_store<T>(acc, out, rest...); });
  } else {
    trap();
  }
}

template <class T>
bool mma_dgrad_supports(const Conv2dShape& s) {
  return whole_chunks<T>(s.c, s.groups) && whole_chunks<T>(s.k, s.groups) &&
         mma_supports<T>(s, mma_dgrad_kernel<T, 1>);
}

template <class T, class E>
cudaError_t mma_dgrad(const char* stem, E* dx, const E* dy, const E* w, const E* mask,
                      const Conv2dShape& shape, void* workspace, cudaStream_t stream) {
  const GemmGrid grid = dgrad_grid<T>(shape);
  const DgradArgs<E> args = dgrad_args(dx, dy, w, mask, shape, workspace, grid);
  static_assert(std::is_same<E, typename T::Element>::value, "the tile is made for the arrays' type");
  auto* kernel = mma_dgrad_kernel<T, 1>;
  if constexpr (std::is_same<E, float>::value)
    if (shape.precision == Precision::kFp32x3) kernel = mma_dgrad_kernel<T, 3>;
  const cudaError_t status =
      launch(stem, kernel, blocks_of(grid), dim3(T::THREADS),
             ring_bytes<T, AlongTile<E, T::BM, T::BK>, AcrossTile<E, T::BN, T::BK>>(), stream, args);
  if (status != cudaSuccess) return status;
  return dgrad_finish(stem, dx, mask, shape, workspace, grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_DGRAD_MMA or _MMA_BF16 in tiles.inc: the kernel's launcher and its traits.
#define PCN_DGRAD_MMA(stem, THREADS_A_BLOCK, PERCENT, ...)                                             \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                     \
  const Conv2dTraits stem##_traits = {conv::mma_dgrad_supports<conv::__VA_ARGS__>,                     \
                                      conv::dgrad_workspace<conv::__VA_ARGS__>,                        \
                                      conv::mma_cost<conv::dgrad_extent, conv::__VA_ARGS__, PERCENT>}; \
  cudaError_t stem(conv::__VA_ARGS__::Element* dx, const conv::__VA_ARGS__::Element* dy,               \
                   const conv::__VA_ARGS__::Element* w, const conv::__VA_ARGS__::Element* mask,        \
                   const Conv2dShape& shape, void* workspace, cudaStream_t stream) {                   \
    return conv::mma_dgrad<conv::__VA_ARGS__>(#stem, dx, dy, w, mask, shape, workspace, stream);       \
  }
#define PCN_DGRAD_MMA_BF16 PCN_DGRAD_MMA
