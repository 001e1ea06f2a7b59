// The convolutions as matrix products, seen from the host: how many tiles, how many pieces the reduction is
// cut into, and an estimate of the time. Host code only.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "conv/conv.h"

namespace pcn::conv {

// `batches` independent products (rows x depth) (depth x cols).
struct GemmExtent {
  std::int64_t rows, cols, depth;
  std::int64_t batches;
  int splits;  // pieces of the reduction that are asked for, 0: as many as gemm_grid finds good
};
constexpr int kNoSuchSplit = -1;  // as GemmExtent::splits: what is asked for is impossible

// The part of a tile configuration the host needs.
struct TileInfo {
  int bm, bn, bk;
  int threads, min_ctas;
  double efficiency;  // its inner loop's multiply-adds in units of the FFMA rate; estimated, not measured
  double rate = 0;  // of tensor cores, whatever the device: the grid weighs time against the pieces' traffic
};

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// How a product is laid over the grid: tiles in x, pieces of the reduction in y.
struct GemmGrid {
  std::int64_t m_tiles, n_tiles, tiles;  // tiles = m_tiles * n_tiles * batches
  int splits;
  std::int64_t chunk;  // depth of one piece, a multiple of bk
};

// The grid is sized for this many multiprocessors (H200: 132, A100: 108) whatever the device, so that the
// order of every sum, and with it every bit, depends on the shape alone.
constexpr int kMultiprocessors = 132;
// A piece is at least so many steps of the inner loop: enough to be worth its start.
constexpr int min_steps_per_split(int bk) { return bk >= 64 ? 4 : bk >= 32 ? 8 : 16; }
constexpr std::int64_t kMaxSplitBytes = 64ll << 20;  // of scratch memory
// Where a number of pieces is asked for, only memory and the grid's height bound it.
constexpr std::int64_t kMostWaves = 8;  // beyond what fills the device, pieces that are tried
constexpr std::int64_t kMaxAskedSplitBytes = 1ll << 30, kMaxAskedSplits = 1024;

// Lays pieces of `splits` out over the grid.
inline void cut(GemmGrid& g, const GemmExtent& e, const TileInfo& t, std::int64_t splits) {
  const std::int64_t steps = ceil_div(e.depth, t.bk);
  g.chunk = std::max<std::int64_t>(ceil_div(steps, std::max<std::int64_t>(splits, 1)), 1) * t.bk;
  g.splits = static_cast<int>(std::max<std::int64_t>(ceil_div(e.depth, g.chunk), 1));
}

// Multiply-adds on the busiest multiprocessor. A model, not a measurement: it weighs the padding of ragged
// tiles, the last wave of blocks, and multiprocessors that hold too few threads to hide latency.
inline double busiest(const GemmGrid& g, const GemmExtent& e, const TileInfo& t) {
  const double block =
      static_cast<double>(t.bm) * t.bn * std::min<double>(g.chunk, static_cast<double>(e.depth) + t.bk);
  const double waves = static_cast<double>(ceil_div(g.tiles * g.splits, kMultiprocessors));
  return block * std::max(waves, std::max(1.0, 256.0 / t.threads));
}

// The time of a launch that moves so many bytes, in multiply-adds of FFMA: a multiprocessor of an H200 does 128 in a
// cycle, in which its share of the memory moves 21 bytes.
inline double pass_cost(double bytes) { return 128 * (2500 + bytes / kMultiprocessors / 21); }

// Of writing the pieces, reading them and launching what adds them.
inline double pieces_cost(const GemmGrid& g, const GemmExtent& e) {
  return g.splits == 1 ? 0. : pass_cost(2. * g.splits * e.rows * e.cols * e.batches * 4);
}

inline GemmGrid gemm_grid(const GemmExtent& e, const TileInfo& t) {
  GemmGrid g;
  g.m_tiles = ceil_div(e.rows, t.bm);
  g.n_tiles = ceil_div(e.cols, t.bn);
  g.tiles = g.m_tiles * g.n_tiles * e.batches;
  const std::int64_t steps = ceil_div(e.depth, t.bk);
  const std::int64_t out_bytes = e.rows * e.cols * e.batches * 4;
  std::int64_t splits = kMultiprocessors * t.min_ctas / g.tiles;
  splits = std::min({splits, steps / min_steps_per_split(t.bk), kMaxSplitBytes / out_bytes});
  if (e.splits > 0)
    splits = std::min({std::int64_t{e.splits}, kMaxAskedSplits, kMaxAskedSplitBytes / out_bytes});
  cut(g, e, t, splits);
  if (t.rate == 0 || e.splits > 0) return g;
  // On tensor cores, where a step is short, the number that is estimated to take least: pieces also fill a
  // last wave that tiles, more than the device holds at once, would leave ragged.
  const std::int64_t most =
      std::min({steps / min_steps_per_split(t.bk), kMaxSplitBytes / out_bytes, 2 * splits + kMostWaves});
  double least = std::numeric_limits<double>::infinity();
  GemmGrid best = g;
  for (std::int64_t s = 1; s <= std::max<std::int64_t>(most, 1); ++s) {
    cut(g, e, t, s);
    const double cost = busiest(g, e, t) / t.rate + pieces_cost(g, e);
    if (cost < least) least = cost, best = g;
  }
  return best;
}

inline std::int64_t filter_elements(const Conv2dShape& s) {
  return std::int64_t{s.k} * s.r * s.s * (s.c / s.groups);
}
// Bytes of so many elements, and what is missing to a multiple of 256, so that what follows is aligned, too.
template <class E>
constexpr std::size_t padded_bytes(std::int64_t elements) {
  return static_cast<std::size_t>(ceil_div(elements * static_cast<int>(sizeof(E)), 256) * 256);
}

// Scratch memory of the pieces' partial results.
inline std::size_t split_bytes(const GemmExtent& e, const TileInfo& t) {
  const int splits = gemm_grid(e, t).splits;
  return splits == 1 ? 0 : static_cast<std::size_t>(splits) * e.rows * e.cols * e.batches * sizeof(float);
}

// Multiply-adds on the busiest multiprocessor, over the efficiency of the tile; and the pieces, but in fp32,
// all of whose rows cut alike. Infinite where the pieces asked for cannot be had: whole steps of the inner
// loop are dealt out evenly, so that 10 steps make 5 pieces or 10, but not 7.
inline double gemm_cost(const GemmExtent& e, const TileInfo& t, Precision precision) {
  const GemmGrid g = gemm_grid(e, t);
  if (e.splits != 0 && g.splits != e.splits) return std::numeric_limits<double>::infinity();
  return busiest(g, e, t) / t.efficiency + (precision == Precision::kFp32 ? 0 : pieces_cost(g, e));
}

// Scratch memory and cost of a kernel by its direction's extent and its tile; PERCENT is the tile's
// efficiency.
using ExtentFn = GemmExtent(const Conv2dShape&);
template <ExtentFn* EXTENT, class T>
std::size_t split_workspace(const Conv2dShape& s) {
  return split_bytes(EXTENT(s), T::info(1));
}
template <ExtentFn* EXTENT, class T, int PERCENT>
double tile_cost(const Conv2dShape& s) {
  return gemm_cost(EXTENT(s), T::info(PERCENT / 100.0), s.precision);
}

}  // namespace pcn::conv
