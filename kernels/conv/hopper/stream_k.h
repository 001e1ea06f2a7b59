// Tiles that several blocks share: stream-K (Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-
// Matrix Multiplication", 2023). Tiles come in waves of a block a multiprocessor. Of the last wave, which is seldom full,
// the steps of all tiles are laid end to end and dealt out evenly: a share may end within a tile, and the next one begins there.
//
// Who has part of a tile writes its sums to scratch memory, as float, and a pass adds them, in the order of the steps, with what
// becomes of a sum. So nothing waits for another block, and the same shape has the same bits, whichever block comes first.
// Which tiles are shared, and by how many blocks, stream_k_product.h decides, from the shape alone.
//
// Of the pass, memory is what bounds it: 4 bytes a part and an element an output, and one more for a mask.
#pragma once
#include "common/device.h"

namespace pcn::conv {

struct StreamK {
  float* parts;  // of BM x BN sums each
  int tiles, shares;
  int steps;  // of a tile
  // The first step of a share, of all that are dealt out.
  __device__ __forceinline__ int first(int share) const {
    return static_cast<int>(static_cast<uint32_t>(tiles * steps) * share / shares);
  }
  // The share that has a step.
  __device__ __forceinline__ int share_of(int step) const {
    return static_cast<int>((static_cast<uint32_t>(step + 1) * shares - 1) /
                            static_cast<uint32_t>(tiles * steps));
  }
  // Where a share's part of a tile lies. From part to part, along the steps, the share changes or the tile or both.
  static __device__ __forceinline__ int slot(int share, int tile) { return share + tile; }
};

// Where a block begins, which one thread finds out for all roles: in a tile that is shared, or in one of the others.
struct BlockStart {
  int tile, from, left;  // of the share the first step within the tile, and how many steps
  __device__ __forceinline__ void find(const StreamK& stream_k, int work) {
    tile = blockIdx.x, from = 0, left = 0;
    if (tile >= stream_k.shares) return;
    const int first = stream_k.first(tile);
    left = stream_k.first(tile + 1) - first;
    tile = work + first / stream_k.steps, from = first % stream_k.steps;
  }
};

// What a block multiplies: its share of the tiles that are shared, then others, `work` of them in all blocks (tiles or, where
// every reduction is cut evenly, pieces). SHARES: whether there may be such tiles.
template <bool SHARES>
struct BlockWork {
  const StreamK& stream_k;
  const int work;
  int tile;        // or piece of one, in the order of both kinds
  int from, left;  // as of BlockStart; 0 behind the share
  __device__ __forceinline__ BlockWork(const StreamK& stream, int work_, const BlockStart& start)
      : stream_k(stream),
        work(work_),
        tile(SHARES ? start.tile : static_cast<int>(blockIdx.x)),
        from(SHARES ? start.from : 0),
        left(SHARES ? start.left : 0) {}
  // Whether the tile is shared, so that other blocks have parts of it, too.
  __device__ __forceinline__ bool sharing() const { return SHARES && left > 0; }
  __device__ __forceinline__ bool more() const { return sharing() || tile < work; }
  __device__ __forceinline__ void advance() {
    if (!sharing()) {
      tile += gridDim.x;
      return;
    }
    left -= stream_k.steps - from, from = 0;
    tile = left > 0 ? tile + 1 : blockIdx.x;
  }
  // Narrows a tile's steps to the block's.
  __device__ __forceinline__ void narrow(int& begin, int& end) const {
    if (sharing()) begin = from, end = min(from + left, stream_k.steps);
  }
  // Where the sums of this block's part lie.
  __device__ __forceinline__ float* sums(int outputs) const {
    return stream_k.parts + static_cast<std::int64_t>(StreamK::slot(blockIdx.x, tile - work)) * outputs;
  }
};

}  // namespace pcn::conv
