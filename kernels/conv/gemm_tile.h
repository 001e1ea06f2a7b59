// The tile of a matrix product out[m, n] = sum_k a[k, m] b[k, n] that all convolution kernels share.
//
// A block computes BM x BN outputs in steps of BK along the reduction. Both operands pass through shared
// memory, k first, so that a thread reads what it multiplies as float4. Two buffers: while a step is
// multiplied, the next one travels from global memory into registers and then into the other buffer, so one
// barrier a step is enough.
//
// A thread owns TM x TN outputs, a warp 4 x 8 threads: it reads 8 neighbouring float4 of b (all 32 banks
// once) and 4 of a, each shared by several lanes. Rows are padded by 4 floats: see loaders.h for why. Device
// code; kernels include it through fprop.h, dgrad.h or wgrad.h.
#pragma once
#include "common/device.h"
#include "conv/elements.h"
#include "conv/gemm_extent.h"

namespace pcn::conv {

template <int BM_, int BN_, int BK_, int TM_, int TN_, int UNROLL_, int MIN_CTAS_>
struct Tile {
  static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = TM_, TN = TN_;
  static constexpr int UNROLL = UNROLL_;  // steps along k read ahead of their use, as registers allow
  static constexpr int MIN_CTAS =
      MIN_CTAS_;  // blocks a multiprocessor is to hold, which limits the registers
  static constexpr int TX = BN / TN, TY = BM / TM;
  static constexpr int THREADS = TX * TY;
  static_assert(BM % TM == 0 && BN % TN == 0, "threads must cover the tile");
  static_assert(TX % 8 == 0 && TY % 4 == 0, "a warp covers 4 x 8 threads");
  static_assert(BK % UNROLL == 0, "whole unrolled steps");
  static_assert((TM == 4 || TM == 6 || TM == 8) && (TN == 4 || TN == 6 || TN == 8),
                "a float4, and 0, 2 or 4 more");
  struct Shared {
    alignas(16) float a[2][BK][BM + 4];
    alignas(16) float b[2][BK][BN + 4];
  };
  static_assert(sizeof(Shared) <= 48 * 1024, "static shared memory");
  static constexpr TileInfo info(double efficiency) { return {BM, BN, BK, THREADS, MIN_CTAS, efficiency}; }
};

// Where a thread's outputs lie along one axis: 4 neighbours, and T - 4 more in the second part of the tile.
template <int T, int SIDE>
struct MicroAxis {
  static constexpr int REST = T - 4;
  int first, second;
  __device__ __forceinline__ explicit MicroAxis(int thread)
      : first(4 * thread), second(4 * SIDE + REST * thread) {}
  __device__ __forceinline__ int operator[](int i) const { return i < 4 ? first + i : second + i - 4; }
};

template <class T>
struct MicroTile {
  MicroAxis<T::TM, T::TY> rows;
  MicroAxis<T::TN, T::TX> cols;
  // In a warp's 4 x 8 threads, lanes i and i^1 share their columns, lanes i and i^2 their rows: the two
  // patterns for which a 128-bit read of shared memory is known to need two passes in place of four.
  static __device__ __forceinline__ int ty() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return warp / (T::TX / 8) * 4 + lane / 16 * 2 + lane % 2;
  }
  static __device__ __forceinline__ int tx() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return warp % (T::TX / 8) * 8 + lane / 2 % 8;
  }
  __device__ __forceinline__ MicroTile() : rows(ty()), cols(tx()) {}
};

template <int N>
__device__ __forceinline__ void read_fragment(float (&v)[N], const float* row, int first, int second) {
  const float4 p = *reinterpret_cast<const float4*>(row + first);
  v[0] = p.x, v[1] = p.y, v[2] = p.z, v[3] = p.w;
  if constexpr (N == 6) {
    const float2 r = *reinterpret_cast<const float2*>(row + second);
    v[4] = r.x, v[5] = r.y;
  } else if constexpr (N == 8) {
    const float4 r = *reinterpret_cast<const float4*>(row + second);
    v[4] = r.x, v[5] = r.y, v[6] = r.z, v[7] = r.w;
  }
}

// acc = sum over `steps` steps. A loader's fetch() brings the next step into registers, zeros where there is
// nothing; store() puts it into shared memory.
template <class T, class LoadA, class LoadB>
__device__ __forceinline__ void multiply(float (&acc)[T::TM][T::TN], LoadA& load_a, LoadB& load_b, int steps,
                                         const MicroTile<T>& mine) {
  PCN_UNROLL
  for (int i = 0; i < T::TM; ++i) PCN_UNROLL
  for (int j = 0; j < T::TN; ++j) acc[i][j] = 0.f;
  if (steps == 0) return;  // the whole block: a stride's phase that no filter tap meets

  auto& buffer = shared<typename T::Shared>();
  load_a.fetch();
  load_b.fetch();
  load_a.store(buffer.a[0]);
  load_b.store(buffer.b[0]);
  __syncthreads();
  for (int step = 0; step < steps; ++step) {
    const int now = step & 1;
    const bool more = step + 1 < steps;
    if (more) {
      load_a.fetch();
      load_b.fetch();
    }
    PCN_NO_UNROLL
    for (int k0 = 0; k0 < T::BK; k0 += T::UNROLL) {
      PCN_UNROLL_ON_DEVICE
      for (int k = k0; k < k0 + T::UNROLL; ++k) {
        float a[T::TM], b[T::TN];
        read_fragment(a, buffer.a[now][k], mine.rows.first, mine.rows.second);
        read_fragment(b, buffer.b[now][k], mine.cols.first, mine.cols.second);
        PCN_UNROLL
        for (int i = 0; i < T::TM; ++i) PCN_UNROLL
        for (int j = 0; j < T::TN; ++j) acc[i][j] += a[i] * b[j];
      }
    }
    if (more) {
      load_a.store(buffer.a[now ^ 1]);
      load_b.store(buffer.b[now ^ 1]);
    }
    __syncthreads();
  }
}

// What is done to the sums on their way to memory, where elements are of type E.
template <class E>
struct Epilogue {
  const float* bias;  // added, of the tile's first column; or null
  bool relu;
  // Laid out as `out`, or null: an output is 0 where this is not positive (NaN is), as relu_backward has it.
  const E* mask;
};

__device__ __forceinline__ float masked(float value, float mask) { return mask <= 0.f ? 0.f : value; }

// Masks N neighbouring outputs of one row; col, limit and vectors as for store_part.
template <int N, class E>
__device__ __forceinline__ void mask_part(const E* row, float* v, int col, int limit, bool vectors) {
  if (vectors) {
    if (col < limit) {
      float m[N];
      load_constant(m, row + col);
      PCN_UNROLL
      for (int j = 0; j < N; ++j) v[j] = masked(v[j], m[j]);
    }
    return;
  }
  PCN_UNROLL
  for (int j = 0; j < N; ++j) {
    if (col + j < limit) {
      float m[1];
      load_constant(m, row + col + j);
      v[j] = masked(v[j], m[0]);
    }
  }
}

// Stores N neighbouring outputs of one row, of which those before `limit` exist. `vectors`: the row starts at
// a multiple of 4 elements' bytes and limit is a multiple of 4, so the N exist all or none.
template <int N, class E>
__device__ __forceinline__ void store_part(E* row, const float* v, int col, int limit, bool vectors) {
  if (vectors) {
    if (col < limit) {
      float part[N];
      PCN_UNROLL
      for (int j = 0; j < N; ++j) part[j] = v[j];
      store_run(row + col, part);
    }
    return;
  }
  PCN_UNROLL
  for (int j = 0; j < N; ++j)
    if (col + j < limit) row[col + j] = narrow<E>(v[j]);
}

// Stores a thread's outputs. offset(m): where row m of the tile starts in `out`, negative if it does not
// exist, in `out` and in the mask alike; columns [0, limit) of the tile exist.
template <class T, class E, class RowOffset>
__device__ __forceinline__ void store(float (&acc)[T::TM][T::TN], const MicroTile<T>& mine, E* out,
                                      RowOffset offset, int limit, bool vectors,
                                      const Epilogue<E>& epilogue) {
  if (epilogue.bias != nullptr) {
    PCN_UNROLL
    for (int j = 0; j < T::TN; ++j) {
      const int col = mine.cols[j];
      const float b = col < limit ? __ldg(epilogue.bias + col) : 0.f;
      PCN_UNROLL
      for (int i = 0; i < T::TM; ++i) acc[i][j] += b;
    }
  }
  if (epilogue.relu) {
    PCN_UNROLL
    for (int i = 0; i < T::TM; ++i) PCN_UNROLL
    for (int j = 0; j < T::TN; ++j) acc[i][j] = acc[i][j] < 0.f ? 0.f : acc[i][j];  // keeps NaN
  }
  if (epilogue.mask != nullptr) {
    PCN_UNROLL
    for (int i = 0; i < T::TM; ++i) {
      const long long start = offset(mine.rows[i]);
      if (start < 0) continue;
      const E* row = epilogue.mask + start;
      mask_part<4>(row, acc[i], mine.cols.first, limit, vectors);
      if constexpr (T::TN > 4) mask_part<T::TN - 4>(row, acc[i] + 4, mine.cols.second, limit, vectors);
    }
  }
  PCN_UNROLL
  for (int i = 0; i < T::TM; ++i) {
    const long long start = offset(mine.rows[i]);
    if (start < 0) continue;
    E* row = out + start;
    store_part<4>(row, acc[i], mine.cols.first, limit, vectors);
    if constexpr (T::TN > 4) store_part<T::TN - 4>(row, acc[i] + 4, mine.cols.second, limit, vectors);
  }
}

// Calls store(out, epilogue) with where a block's results go: into the output, or, where the reduction is
// cut, into scratch memory, as float and with nothing done to them. (Of float outputs the host has seen to
// it.)
template <class E, class Store>
__device__ __forceinline__ void to_memory(void* out, const Epilogue<E>& epilogue, Store store) {
  if constexpr (std::is_same<E, float>::value) {
    store(static_cast<float*>(out), epilogue);
  } else if (gridDim.y > 1) {
    store(static_cast<float*>(out), Epilogue<float>{nullptr, false, nullptr});
  } else {
    store(static_cast<E*>(out), epilogue);
  }
}

inline dim3 blocks_of(const GemmGrid& grid) {
  return dim3(static_cast<unsigned>(grid.tiles), static_cast<unsigned>(grid.splits));
}

// ---- adding the pieces of a split reduction: out[i] = act(bias[i % cols] + sum_s partial[s][i]), s in
// order, masked. Bound by memory: splits floats and one element an output, and one more for the mask.
// more, or null: the sums of the `cols` numbers that follow the `count` of each piece.
template <class E, int VEC>
__global__ void __launch_bounds__(256)
    add_pieces_kernel(E* __restrict__ out, const float* __restrict__ partial, const Epilogue<E> epilogue,
                      int count, int cols, int splits, float* __restrict__ more) {
  const long long at = (static_cast<long long>(blockIdx.x) * 256 + threadIdx.x) * VEC;
  const int length = count + (more != nullptr ? cols : 0);  // of a piece
  if (at >= length) return;
  const int i = static_cast<int>(at);
  float sum[VEC];
  PCN_UNROLL
  for (int v = 0; v < VEC; ++v)
    sum[v] = epilogue.bias != nullptr ? __ldg(epilogue.bias + (i + v) % cols) : 0.f;
  for (int s = 0; s < splits; ++s) {
    float piece[VEC];
    load_constant(piece, partial + static_cast<long long>(s) * length + i);
    PCN_UNROLL
    for (int v = 0; v < VEC; ++v) sum[v] += piece[v];
  }
  if (i >= count) {
    store_run(more + (i - count), sum);
    return;
  }
  if (epilogue.relu) {
    PCN_UNROLL
    for (int v = 0; v < VEC; ++v) sum[v] = sum[v] < 0.f ? 0.f : sum[v];
  }
  if (epilogue.mask != nullptr) mask_part<VEC>(epilogue.mask, sum, i, count, true);
  store_run(out + i, sum);
}

template <class E>
cudaError_t add_pieces(const char* stem, E* out, const float* partial, const Epilogue<E>& epilogue, int count,
                       int cols, int splits, bool aligned, cudaStream_t stream, float* more = nullptr) {
  const bool four_more =
      more == nullptr || (cols % 4 == 0 && reinterpret_cast<std::uintptr_t>(more) % 16 == 0);
  const bool vectors = aligned && count % 4 == 0 && four_more;
  const std::int64_t length = std::int64_t{count} + (more != nullptr ? cols : 0);
  return launch(stem, vectors ? add_pieces_kernel<E, 4> : add_pieces_kernel<E, 1>,
                dim3(static_cast<unsigned>(ceil_div(vectors ? length / 4 : length, 256))), dim3(256), 0,
                stream, out, partial, epilogue, count, cols, splits, more);
}

}  // namespace pcn::conv
