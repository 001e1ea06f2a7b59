// The body of the march kernels: windowed sums over SIZE x SIZE pixels, SIZE odd, 4 channels a thread.
//
// A block makes COLS - SIZE + 1 columns x STRIP rows of 32 channels and walks down the rows. In each it puts
// one value a thread in shared memory, adds SIZE neighbouring columns, and keeps the last SIZE of these sums
// in registers; their sum is the window's. A pixel's value is thus worked out once in a strip (but for the
// halo: (STRIP + SIZE - 1) / STRIP times down, COLS / (COLS - SIZE + 1) across), and a window costs 2 * SIZE
// additions instead of SIZE^2.
#pragma once
#include "norm/response.h"

namespace pcn::norm {

constexpr int LANES = 8;   // quadruples: 32 channels, 128 bytes of one pixel, 64 in bfloat16
constexpr int COLS = 32;   // columns of pixels, the halo included
constexpr int STRIP = 16;  // rows of outputs
static_assert(LANES * COLS == THREADS, "one thread for each place");

struct MarchSmem {
  float4 line[2][COLS][LANES];
};

inline bool march_supports(const LrnSpatialShape& shape) {
  return shape.c % 4 == 0 && (shape.size == 3 || shape.size == 5);
}

inline long long march_blocks(const LrnSpatialShape& shape) {
  const long long cols = COLS - shape.size + 1;
  return static_cast<long long>(shape.n) * ((shape.h + STRIP - 1) / STRIP) * ((shape.w + cols - 1) / cols) *
         ((shape.c / 4 + LANES - 1) / LANES);
}

PCN_FN float4 add4(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// term(i) gives the value of quadruple number i of the arrays, finish(i, sums) takes the sums over the window
// around it. The whole block must call it.
template <int SIZE, class Term, class Finish>
PCN_FN void march(const LrnSpatialShape& shape, const Term& term, const Finish& finish) {
  static_assert(SIZE % 2 == 1, "the window must look the same from both sides");
  constexpr int REACH = SIZE / 2, OUT = COLS - SIZE + 1;
  MarchSmem& smem = shared<MarchSmem>();
  const int packs = shape.c / 4;
  const unsigned chunks = (packs + LANES - 1) / LANES, tiles = (shape.w + OUT - 1) / OUT;
  const unsigned strips = (shape.h + STRIP - 1) / STRIP;
  unsigned block = blockIdx.x;
  const int pack = static_cast<int>(block % chunks) * LANES + threadIdx.x % LANES;
  block /= chunks;
  const int column = threadIdx.x / LANES, col0 = static_cast<int>(block % tiles) * OUT;
  block /= tiles;
  const int row0 = static_cast<int>(block % strips) * STRIP, n = static_cast<int>(block / strips);

  const int read_col = col0 + column - REACH, write_col = col0 + column;
  const bool reads = pack < packs && read_col >= 0 && read_col < shape.w;
  const bool writes = pack < packs && column < OUT && write_col < shape.w;
  const int rows = min(STRIP, shape.h - row0);

  float4 recent[SIZE];  // sums over columns of the last SIZE rows
  PCN_UNROLL
  for (int i = 0; i < SIZE; ++i) recent[i] = zero4();
  for (int step = 0; step < rows + 2 * REACH; ++step) {
    const int row = row0 + step - REACH;
    const bool inside = reads && row >= 0 && row < shape.h;
    float4(&line)[COLS][LANES] = smem.line[step % 2];  // two lines, so that one barrier a row is enough
    line[column][threadIdx.x % LANES] =
        inside ? term(((n * shape.h + row) * shape.w + read_col) * packs + pack) : zero4();
    __syncthreads();
    PCN_UNROLL
    for (int i = 0; i + 1 < SIZE; ++i) recent[i] = recent[i + 1];
    if (writes) {
      float4 sum = line[column][threadIdx.x % LANES];
      PCN_UNROLL
      for (int d = 1; d < SIZE; ++d) sum = add4(sum, line[column + d][threadIdx.x % LANES]);
      recent[SIZE - 1] = sum;
      if (step >= 2 * REACH) {
        PCN_UNROLL
        for (int i = SIZE - 2; i >= 0; --i) sum = add4(sum, recent[i]);
        finish(((n * shape.h + row - REACH) * shape.w + write_col) * packs + pack, sum);
      }
    }
  }
}

}  // namespace pcn::norm
