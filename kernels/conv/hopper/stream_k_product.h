// The host's side of stream_k.h: which tiles are shared, and by how many blocks; the pass that adds the parts.
#pragma once
#include <numeric>

#include "conv/gemm_extent.h"
#include "conv/gemm_tile.h"
#include "conv/hopper/halo.h"
#include "conv/hopper/stream_k.h"

namespace pcn::conv {

// Parts that shares of equal length make of tiles: both have ends, of which some coincide.
inline std::int64_t parts_of(const SharedTiles& plan) {
  return plan.shares + plan.tiles - std::gcd(plan.shares, plan.tiles);
}
inline std::size_t shared_bytes(const SharedTiles& plan, const TileInfo& t) {
  return std::size_t{4} * (plan.shares + plan.tiles - 1) * t.bm * t.bn;
}

// As gemm_cost. A share's first operands are waited for, and parts are written, read and launched for.
inline double shared_cost(const SharedTiles& plan, const GemmGrid& g, std::int64_t steps, const TileInfo& t,
                          double rate) {
  const double whole = static_cast<double>((g.tiles - plan.tiles) / kMultiprocessors * steps);
  const double share = static_cast<double>(ceil_div(plan.tiles * steps, plan.shares));
  return static_cast<double>(t.bm) * t.bn * t.bk * (whole + share) / rate + pass_cost(0) +
         pass_cost(8. * parts_of(plan) * t.bm * t.bn);
}

// The last wave's tiles, where that is estimated to take less than `least`: dealt out to as many blocks as there are or,
// which makes fewer parts, to a multiple of the tiles. A share has as many steps as a piece at least.
inline SharedTiles shared_tiles(const GemmGrid& g, std::int64_t steps, const TileInfo& t, double least) {
  constexpr std::int64_t kMostSteps = 100000;  // what StreamK counts in 32 bits
  const int tail = static_cast<int>(g.tiles % kMultiprocessors);
  SharedTiles best;
  if (tail == 0 || steps > kMostSteps) return best;
  const int most =
      static_cast<int>(std::min<std::int64_t>(kMultiprocessors, tail * steps / min_steps_per_split(t.bk)));
  const auto consider = [&](int shares) {
    const SharedTiles plan = {tail, shares};
    if (shares <= tail || shared_bytes(plan, t) > kMaxSplitBytes) return;
    const double cost = shared_cost(plan, g, steps, t, t.rate);
    if (cost < least) least = cost, best = plan;
  };
  for (int shares = 2 * tail; shares <= most; shares += tail) consider(shares);
  consider(most);
  return best;
}

// ---- adding the parts
// Row `row` of the `from`-th tile of a group's columns, as a row of the outputs; -1: there is none.
__device__ __forceinline__ int output_row(const WgmmaArgs& args, int from, int row, int bm) {
  const int m = from * bm + row;
  return m < args.rows ? m : -1;
}
__device__ __forceinline__ int output_row(const HaloArgs& args, int from, int row, int bm) {
  const int positions = bm / 2;
  return Strip(args, from * 2 + row / positions).output(row % positions);
}

// Four neighbouring outputs of a tile a thread.
template <class Args, class E>
__global__ void __launch_bounds__(256)
    add_parts_kernel(const __grid_constant__ Args args, E* __restrict__ out, const Epilogue<E> epilogue,
                     int bm, int bn, int blocks) {
  const StreamK& stream_k = args.stream_k;
  const int tile = blockIdx.x / blocks, i = blockIdx.x % blocks * 256 + threadIdx.x;
  const int first = stream_k.share_of(tile * stream_k.steps),
            last = stream_k.share_of((tile + 1) * stream_k.steps - 1);
  const int row = i / (bn / 4), column = i % (bn / 4) * 4;
  const int columns = args.shape.k / args.shape.groups;
  int index = args.work + tile;
  const int n = index % args.n_tiles * bn + column;
  index /= args.n_tiles;
  const int group = index % args.shape.groups;
  const int output = output_row(args, index / args.shape.groups, row, bm);
  if (n >= columns || output < 0) return;
  const auto part_of = [&](int share) {
    return stream_k.parts + static_cast<std::int64_t>(StreamK::slot(share, tile)) * bm * bn + 4 * i;
  };
  float sum[4], part[4];
  load_constant(sum, part_of(first));
  for (int share = first + 1; share <= last; ++share) {
    load_constant(part, part_of(share));
    PCN_UNROLL
    for (int e = 0; e < 4; ++e) sum[e] += part[e];
  }
  const int of_all = group * columns + n;
  if (epilogue.bias != nullptr) {
    const float* const bias = epilogue.bias + of_all;
    if (reinterpret_cast<std::uintptr_t>(bias) % 16 == 0) {
      load_constant(part, bias);
    } else {
      PCN_UNROLL
      for (int e = 0; e < 4; ++e) part[e] = __ldg(bias + e);
    }
    PCN_UNROLL
    for (int e = 0; e < 4; ++e) sum[e] += part[e];
  }
  if (epilogue.relu) {
    PCN_UNROLL
    for (int e = 0; e < 4; ++e) sum[e] = sum[e] < 0.f ? 0.f : sum[e];  // keeps NaN
  }
  const std::int64_t at = static_cast<std::int64_t>(output) * args.shape.k + of_all;
  if (epilogue.mask != nullptr) mask_part<4>(epilogue.mask + at, sum, 0, 4, true);
  store_run(out + at, sum);
}

template <class T, class Args, class E>
cudaError_t add_parts(const char* stem, E* out, const Args& args, const Epilogue<E>& epilogue,
                      cudaStream_t stream) {
  if (args.stream_k.tiles == 0) return cudaSuccess;
  constexpr int THREADS = 256, blocks = T::BM * T::BN / (4 * THREADS);
  static_assert(blocks * 4 * THREADS == T::BM * T::BN, "a thread for every four outputs");
  return launch(stem, add_parts_kernel<Args, E>, dim3(args.stream_k.tiles * blocks), dim3(256), 0, stream,
                args, out, epilogue, T::BM, T::BN, blocks);
}

}  // namespace pcn::conv
