// What the kernels share that draw dropout's random bits: a thread owns one Philox block, the four elements
// 4b … 4b+3 of the whole matrix, as far as they lie inside the rectangle that is computed.
#pragma once
#include "common/philox.h"
#include "pointwise/elementwise.h"

namespace pcn::dropout {

__device__ __forceinline__ bool aligned_to(const void* pointer, unsigned bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

// How the rectangle is laid over threads.
struct Blocks {
  DropoutShape shape;  // one long row where the rectangle is whole rows
  unsigned per_row, count;
};

inline cudaError_t blocks_of(const DropoutShape& shape, Blocks& blocks) {
  blocks.shape = shape;
  if (shape.col0 == 0 && shape.cols == shape.total_cols)
    blocks.shape = {1, shape.rows * shape.cols, 0, shape.row0 * shape.total_cols, 0};
  const DropoutShape& flat = blocks.shape;
  // A row of any alignment touches at most one block more than its length fills.
  const bool whole_blocks = flat.total_cols % 4 == 0 && flat.col0 % 4 == 0;
  blocks.per_row = (static_cast<unsigned>(flat.cols) + 3) / 4 + (whole_blocks ? 0 : 1);
  const unsigned long long count = static_cast<unsigned long long>(blocks.per_row) * flat.rows;
  if (count > 0xffffffffull) return cudaErrorInvalidValue;
  blocks.count = static_cast<unsigned>(count);
  return cudaSuccess;
}

// The block of thread i < blocks.count.
struct Block {
  long long index;   // in the whole matrix
  long long column;  // of its first element within the rectangle's row; -3 … cols + 3
  long long at;      // the first element's place in the arrays
  __device__ __forceinline__ Block(const Blocks& blocks, unsigned i) {
    const DropoutShape& shape = blocks.shape;
    const unsigned r = i / blocks.per_row;
    const long long row_start = (shape.row0 + r) * shape.total_cols + shape.col0;
    index = row_start / 4 + (i - r * blocks.per_row);
    column = 4 * index - row_start;
    at = static_cast<long long>(r) * shape.cols + column;
  }
  __device__ __forceinline__ bool inside(const DropoutShape& shape, int w) const {
    return column + w >= 0 && column + w < shape.cols;
  }
  __device__ __forceinline__ bool whole(const DropoutShape& shape) const {
    return inside(shape, 0) && inside(shape, 3);
  }
  // Which of the four are kept.
  __device__ __forceinline__ void draw(const DropoutStream& random, unsigned threshold,
                                       bool (&keep)[4]) const {
    const std::int64_t step = random.step_on_device ? *random.step_on_device : random.step;
    const uint4 words = philox_block(random.seed, static_cast<std::uint64_t>(step), random.layer, index);
    keep[0] = (words.x >> 8) >= threshold, keep[1] = (words.y >> 8) >= threshold;
    keep[2] = (words.z >> 8) >= threshold, keep[3] = (words.w >> 8) >= threshold;
  }
};

}  // namespace pcn::dropout
