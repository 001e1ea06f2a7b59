// Gradient with respect to the input as a matrix product: rows are input pixels, columns the channels of a
// group, the reduction runs over (tap row, tap column, filter).
//
// With a stride, input row h meets output row p at tap r = h + pad_h - p * stride_h: only every stride_h-th
// tap. The rows with the same (h + pad_h) % stride_h = a, a *phase*, share the taps a, a + stride_h, ... ,
// and among them the convolution has stride 1: h = first_h + stride_h * i sees p = p0 + i - r' at tap a +
// stride_h * r'. Each phase is a product of its own, and no multiplication is wasted. Stride 1 is the case of
// one phase.
#pragma once
#include "conv/gemm_tile.h"
#include "conv/loaders.h"

namespace pcn::conv {

// The phases along one axis: there are min(stride, extent).
struct Phase {
  int first;      // smallest coordinate of the phase
  int count;      // coordinates in the phase
  int tap0;       // its first tap
  int taps;       // number of its taps, possibly 0
  int first_out;  // output coordinate that `first` meets at tap0; may lie outside
};
__host__ __device__ inline Phase phase_of(int index, int extent, int stride, int pad, int filter) {
  const int tap0 = (index + pad) % stride;
  return {index, (extent - index + stride - 1) / stride, tap0,
          tap0 < filter ? (filter - tap0 + stride - 1) / stride : 0, (index + pad - tap0) / stride};
}

// All phases together; exact for stride 1, else the average phase with its size rounded up. Only stride 1 is
// cut into pieces: elsewhere the phases already make many blocks.
inline GemmExtent dgrad_extent(const Conv2dShape& s) {
  const std::int64_t phases_h = std::min(s.stride_h, s.h), phases_w = std::min(s.stride_w, s.w);
  return {s.n * ceil_div(s.h, s.stride_h) * ceil_div(s.w, s.stride_w), s.c / s.groups,
          ceil_div(s.r, s.stride_h) * ceil_div(s.s, s.stride_w) * (s.k / s.groups),
          s.groups * phases_h * phases_w,
          s.stride_h == 1 && s.stride_w == 1 ? s.splits : (s.splits > 1 ? kNoSuchSplit : 1)};
}

inline bool dgrad_vectors(const Conv2dShape& s) {
  return s.aligned != 0 && s.c / s.groups % 4 == 0 && s.k / s.groups % 4 == 0;
}

template <class T>
GemmGrid dgrad_grid(const Conv2dShape& s) {
  return gemm_grid(dgrad_extent(s), T::info(1));
}

template <class E>
struct DgradArgs {
  void* out;  // dx, or the pieces
  const E *dy, *w;
  const E* mask;  // like dx, or null
  Conv2dShape shape;
  int chunk;
  int m_tiles, n_tiles, phases_w;
  int filter_stride, row_stride, column_stride;  // of w, from tap to tap within a phase
  int vectors;
};

// Where each row of the tile starts in dx, -1 if it does not exist. Kept in shared memory: computed once per
// row, and the phase need not stay in registers during the product.
template <int BM>
struct DgradRows {
  int start[BM];
};

// What a kernel ends with: calls store(out, row offset, columns, vectors, epilogue) for the tile whose rows
// start at `start` and whose first channel is n0.
template <class E, int BM, class Store>
__device__ __forceinline__ void dgrad_store(const DgradArgs<E>& args, const int (&start)[BM], int n0,
                                            Store store) {
  const Conv2dShape& s = args.shape;
  const long long piece = static_cast<long long>(blockIdx.y) * s.n * s.h * s.w * s.c;
  to_memory(args.out, Epilogue<E>{nullptr, false, args.mask}, [&](auto* out, const auto& chosen) {
    store(
        out + piece, [&](int row) { return static_cast<long long>(start[row]); }, s.c / s.groups - n0,
        args.vectors != 0, chosen);
  });
}

template <class T, int VEC, class E>
__global__ void __launch_bounds__(T::THREADS, T::MIN_CTAS) dgrad_kernel(const DgradArgs<E> args) {
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
  const MicroTile<T> mine;

  auto& start = shared<DgradRows<T::BM>>().start;
  for (int row = threadIdx.x; row < T::BM; row += T::THREADS) {
    const int m = m0 + row, j = m % pw.count, ni = m / pw.count;
    const int h = ph.first + ni % ph.count * s.stride_h, w = pw.first + j * s.stride_w;
    start[row] = m < rows ? ((ni / ph.count * s.h + h) * s.w + w) * s.c + group * group_channels + n0 : -1;
  }
  __syncthreads();
  PixelLoader<E, T::BM, T::BK, T::THREADS, VEC, -1, int> pixels(
      args.dy, s.p, s.q, s.k, group * group_filters, radix, taps_r,
      AlongK<T::BM, T::BK, T::THREADS, VEC>::STEP, k_begin, [&](int row) {
        const int m = m0 + row, j = m % pw.count, ni = m / pw.count;
        return Digits{pw.first_out + j, ph.first_out + ni % ph.count, m < rows ? ni / ph.count : -1};
      });
  FilterTapsLoader<E, T::BN, T::BK, T::THREADS, VEC> filters(
      args.w, group * group_filters * args.filter_stride + (ph.tap0 * s.s + pw.tap0) * group_channels + n0,
      args.filter_stride, args.row_stride, args.column_stride, group_channels - n0, radix, taps_r, k_begin);
  float acc[T::TM][T::TN];
  multiply<T>(acc, pixels, filters, k_count > 0 ? (k_count + T::BK - 1) / T::BK : 0, mine);

  dgrad_store(args, start, n0, [&](auto* out, auto... rest) { store<T>(acc, mine, out, rest...); });
}

template <class E>
DgradArgs<E> dgrad_args(E* dx, const E* dy, const E* w, const E* mask, const Conv2dShape& shape,
                        void* workspace, const GemmGrid& grid) {
  const int group_channels = shape.c / shape.groups;
  return {grid.splits > 1 ? workspace : dx,
          dy,
          w,
          grid.splits > 1 ? nullptr : mask,
          shape,
          static_cast<int>(grid.chunk),
          static_cast<int>(grid.m_tiles),
          static_cast<int>(grid.n_tiles),
          std::min(shape.stride_w, shape.w),
          shape.r * shape.s * group_channels,
          shape.stride_h * shape.s * group_channels,
          shape.stride_w * group_channels,
          shape.aligned != 0 && shape.c / shape.groups % 4 == 0};
}

// After the product: adds its pieces, where there are several.
template <class E>
cudaError_t dgrad_finish(const char* stem, E* dx, const E* mask, const Conv2dShape& shape, void* workspace,
                         const GemmGrid& grid, cudaStream_t stream) {
  if (grid.splits == 1) return cudaSuccess;
  return add_pieces(stem, dx, static_cast<const float*>(workspace), Epilogue<E>{nullptr, false, mask},
                    shape.n * shape.h * shape.w * shape.c, shape.c, grid.splits, shape.aligned != 0, stream);
}

template <class T, int VEC, class E>
cudaError_t dgrad(const char* stem, E* dx, const E* dy, const E* w, const E* mask, const Conv2dShape& shape,
                  void* workspace, cudaStream_t stream) {
  const GemmGrid grid = dgrad_grid<T>(shape);
  const DgradArgs<E> args = dgrad_args(dx, dy, w, mask, shape, workspace, grid);
  const cudaError_t status =
      launch(stem, dgrad_kernel<T, VEC, E>, blocks_of(grid), dim3(T::THREADS), 0, stream, args);
  if (status != cudaSuccess) return status;
  return dgrad_finish(stem, dx, mask, shape, workspace, grid, stream);
}

template <class T>
std::size_t dgrad_workspace(const Conv2dShape& s) {
  const int splits = dgrad_grid<T>(s).splits;
  return splits == 1 ? 0 : static_cast<std::size_t>(splits) * s.n * s.h * s.w * s.c * sizeof(float);
}

}  // namespace pcn::conv

// A line of PCN_DGRAD_TILE or _ROWS in tiles.inc: the kernel's launcher and its traits.
#define PCN_DGRAD_TILE(stem, THREADS_A_BLOCK, PERCENT, ...)                                                 \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                          \
  const Conv2dTraits stem##_traits = {conv::dgrad_vectors, conv::dgrad_workspace<conv::__VA_ARGS__>,        \
                                      conv::tile_cost<conv::dgrad_extent, conv::__VA_ARGS__, PERCENT>};     \
  cudaError_t stem(float* dx, const float* dy, const float* w, const float* mask, const Conv2dShape& shape, \
                   void* workspace, cudaStream_t stream) {                                                  \
    return conv::dgrad<conv::__VA_ARGS__, 4>(#stem, dx, dy, w, mask, shape, workspace, stream);             \
  }
#define PCN_DGRAD_ROWS PCN_DGRAD_TILE
