// Gradient with respect to the filters on tensor cores: the matrix product of wgrad.h, rows filters, columns
// their weights, reduced over all output pixels, on the tile of mma_tile.h. Both operands are contiguous
// across the reduction: ldmatrix.trans of Bf16, 32-bit reads of float. The reduction is cut into pieces that
// are added in order. The kernel of every line of PCN_WGRAD_MMA and _MMA_BF16 in tiles.inc. Where db is asked
// for, the blocks of the first column of tiles add up dy, as it is in memory, from their tiles of it.
#pragma once
#include "conv/mma_loaders.h"
#include "conv/wgrad.h"

namespace pcn::conv {

// Sums of the columns of dy's tile over all steps, in float. A thread has 4 neighbouring columns and every
// K_STEP-th row; the threads of a column meet in the end and are added in order. At most 4 sums, so that none
// of what the product needs is spilled.
template <class T>
struct ColumnSums {
  using E = typename T::Element;
  static constexpr int SPAN = T::BM > 64 ? 32 : 16;  // threads set aside for a row
  static constexpr int K_STEP = T::THREADS / SPAN;
  static_assert(T::BM % 4 == 0 && T::BM <= 4 * SPAN && T::BK % K_STEP == 0, "whole passes");
  static_assert(K_STEP * T::BM <= T::STAGES * T::BK * T::BM * sizeof(E) / 4,
                "they meet in the ring's memory");

  bool asked;  // alike in all threads of a block
  float sum[4] = {0.f, 0.f, 0.f, 0.f};

  static __device__ __forceinline__ int column() { return threadIdx.x % SPAN * 4; }
  static __device__ __forceinline__ int k() { return threadIdx.x / SPAN; }
  static __device__ __forceinline__ bool active() { return T::BM == 4 * SPAN || column() < T::BM; }

  __device__ __forceinline__ bool wanted() const { return asked; }
  __device__ __forceinline__ void operator()(const E* tile) {
    if (!active()) return;
    PCN_UNROLL_ON_DEVICE
    for (int row = 0; row < T::BK; row += K_STEP) {
      float v[4];
      load_run(v, tile + AcrossTile<E, T::BM, T::BK>::at(k() + row, column()));
      PCN_UNROLL
      for (int j = 0; j < 4; ++j) sum[j] += v[j];
    }
  }

  // to[column] = its sum, of the columns before `limit`; after the product, all threads.
  __device__ __forceinline__ void store(float* to, int limit) const {
    if (!asked) return;
    float* const part = dynamic_shared<float>();
    __syncthreads();  // the last fragments have been read
    if (active()) store_run(part + k() * T::BM + column(), sum);
    __syncthreads();
    for (int c = threadIdx.x; c < T::BM && c < limit; c += T::THREADS) {
      float total = 0.f;
      PCN_UNROLL
      for (int row = 0; row < K_STEP; ++row) total += part[row * T::BM + c];
      to[c] = total;
    }
  }
};

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
    ColumnSums<T> bias{args.bias != nullptr && n0 == 0};
    float acc[T::MI][T::NI][4];
    mma_multiply<T, PRODUCTS, AcrossTile<E, T::BM, T::BK>, AcrossTile<E, T::BN, T::BK>>(
        acc, gradient, patches, (k_count + T::BK - 1) / T::BK, bias);
    bias.store(args.bias + blockIdx.y * args.piece + first_filter, group_filters - m0);

    float* out = args.out + blockIdx.y * args.piece + static_cast<long long>(first_filter) * args.cols + n0;
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

// Scratch memory of the pieces, db's among them where it is asked for.
template <class T>
std::size_t mma_wgrad_workspace(const Conv2dShape& s) {
  const int splits = gemm_grid(wgrad_extent(s), T::info(1)).splits;
  return splits == 1 ? 0 : splits * wgrad_piece(s, s.bias_grad != 0) * sizeof(float);
}

template <class T, class E>
cudaError_t mma_wgrad(const char* stem, float* dw, float* db, const E* dy, const E* x,
                      const Conv2dShape& shape, void* workspace, cudaStream_t stream) {
  const GemmGrid grid = gemm_grid(wgrad_extent(shape), T::info(1));
  const cudaError_t status = by_products<T, E>(shape, [&](auto products) {
    constexpr int PRODUCTS = decltype(products)::value;
    using For = typename T::template For<PRODUCTS>;
    const WgradArgs<E> args =
        wgrad_args(dw, db, dy, x, shape, workspace, grid, CopyAcrossK<E, T::BN, T::BK, For::THREADS>::K_STEP);
    return launch(stem, mma_wgrad_kernel<For, PRODUCTS>, blocks_of(grid), dim3(For::THREADS),
                  ring_bytes<T, AcrossTile<E, T::BM, T::BK>, AcrossTile<E, T::BN, T::BK>>(), stream, args);
  });
  if (status != cudaSuccess) return status;
  return wgrad_finish(stem, dw, db, shape, workspace, grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_WGRAD_MMA or _MMA_BF16 in tiles.inc: the kernel's launcher and its traits.
#define PCN_WGRAD_MMA(stem, THREADS_A_BLOCK, PERCENT, ...)                                         \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                 \
  const Conv2dTraits stem##_traits = {                                                             \
      conv::mma_wgrad_supports<conv::__VA_ARGS__>, conv::mma_wgrad_workspace<conv::__VA_ARGS__>,   \
      conv::mma_cost<conv::wgrad_extent, conv::__VA_ARGS__, PERCENT>, always<Conv2dShape>};        \
  cudaError_t stem(float* dw, float* db, const conv::__VA_ARGS__::Element* dy,                     \
                   const conv::__VA_ARGS__::Element* x, const Conv2dShape& shape, void* workspace, \
                   cudaStream_t stream) {                                                          \
    return conv::mma_wgrad<conv::__VA_ARGS__>(#stem, dw, db, dy, x, shape, workspace, stream);     \
  }
#define PCN_WGRAD_MMA_BF16 PCN_WGRAD_MMA
