// What the march kernels of lrn_max_pool2d share: which channels and columns a thread has, and the response.
//
// A thread has 4 channels of 2 neighbouring columns and walks down the rows of its strip. The threads of a
// block go through the channels first: a warp reads 512 bytes in a row, 256 in bfloat16, and the channels
// that a window of channels needs of other threads are in the lanes left and right (shuffle.h). Only lanes 0
// and 31 lack a neighbour.
#pragma once
#include "norm/pooled.h"
#include "norm/shuffle.h"

namespace pcn::norm {

// PAPER kernels are compiled for windows of 5 channels and beta = 3/4, the others for any size that
// shuffle_supports takes, and any beta.
inline bool is_papers(const LrnMaxPool2dShape& shape, float beta) {
  return shape.lrn_size == 5 && beta == 0.75f;
}
template <bool PAPER>
PCN_FN void window_sums(float (&sums)[4], const Float4& own, const Float4& edge, bool has_left,
                        bool has_right, Reach reach) {
  constexpr int FAR = PAPER ? 2 : REACH;
  float values[4 + 2 * FAR];
  with_neighbours<FAR>(values, own.v, edge.v, has_left, has_right);
  if constexpr (PAPER) {
    sums_of_five(sums, values);
  } else {
    sums_within<FAR>(sums, values, reach);
  }
}

// 3x3 windows every 2, groups of whole packs, and no more channels than a block of `threads` holds twice.
inline bool pooled_march_supports(const LrnMaxPool2dShape& shape, int threads) {
  return shape.r == 3 && shape.s == 3 && shape.stride_h == 2 && shape.stride_w == 2 &&
         shuffle_supports({1, shape.c, shape.lrn_size, shape.groups}) && shape.c / 4 * 2 <= threads;
}

// The blocks' share of the work: tiles of columns x strips of rows, as even as can be.
struct March {
  int tiles, columns;
  int strips, rows;
  int threads;
};
constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }
// `columns` pairs of columns and `rows` rows in all; a block has at most `threads` threads and `longest`
// rows, and takes `halo` pairs more than its share.
inline March march_over(int columns, int rows, int packs, int threads, int longest, int halo) {
  March march;
  march.tiles = divide_up(columns, threads / packs - halo);
  march.columns = divide_up(columns, march.tiles);
  march.strips = divide_up(rows, longest);
  march.rows = divide_up(rows, march.strips);
  march.threads = divide_up((march.columns + halo) * packs, 32) * 32;
  return march;
}

struct Block {
  int n, first_row, first_column;
};
PCN_FN Block block_of(unsigned number, const March& march) {
  const unsigned strip = number / march.tiles;
  return {static_cast<int>(strip / march.strips), static_cast<int>(strip % march.strips) * march.rows,
          static_cast<int>(number % march.tiles) * march.columns};
}

struct Lane {
  int pair, pack;            // which pair of columns of the block, which pack of channels
  bool has_left, has_right;  // whether there are packs of the same group beside this one
  int edge;                  // -1, 1: of those, the one that is in another warp; else 0
};
// `pairs`: of how many pairs of columns the block needs values.
PCN_FN Lane lane_of(int packs, int per_group, int pairs) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  Lane mine;
  mine.pair = thread / packs;
  mine.pack = thread % packs;
  mine.has_left = mine.pack % per_group > 0;
  mine.has_right = mine.pack % per_group + 1 < per_group;
  mine.edge = 0;
  if (mine.pair < pairs && lane == 0 && mine.has_left) mine.edge = -1;
  if (mine.pair < pairs && lane == 31 && mine.has_right) mine.edge = 1;
  return mine;
}

// A thread's channels of one pixel, and those beyond the warp's edge. A pixel outside the image is read as
// the first of the array, which no result depends on: cheaper than to branch around the load.
struct Pixel {
  Float4 own, edge;
};
template <class T>
PCN_FN Pixel load_pixel(const Pack<T, 4>* x, int at, bool inside, int edge) {
  Pixel pixel = {};
  pixel.own = load(x + (inside ? at : 0));
  if (edge != 0) pixel.edge = load(x + (inside ? at + edge : 0));
  return pixel;
}

struct Response {
  Float4 power;    // scale^-beta
  Float4 inverse;  // 1 / scale, where asked for
};

// The paper's 3/4 from two reciprocal square roots: a fraction of the instructions of negative_power(), which
// would take longer than memory does; off by 4 * 2^-23 of its value at most. scale is at least k, hence
// normal; an infinite one gives 0 as there.
template <bool PAPER>
PCN_FN Response response_of(const Pixel& x, const Lane& mine, float alpha, float beta, float k, Reach reach) {
  Float4 squares, edge;
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) {
    squares.v[j] = x.own.v[j] * x.own.v[j];
    edge.v[j] = x.edge.v[j] * x.edge.v[j];
  }
  float sums[4];
  window_sums<PAPER>(sums, squares, edge, mine.has_left, mine.has_right, reach);
  Response response;
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) {
    const float scale = k + alpha * sums[j];
    if (PAPER) {
      const float root = rsqrt_normal(scale);
      response.power.v[j] = root * (root * rsqrt_normal(fmaxf(root, 1e-30f)));
      response.inverse.v[j] = root * root;
    } else {
      response.power.v[j] = negative_power(scale, beta);
      response.inverse.v[j] = 1.f / scale;
    }
  }
  return response;
}

}  // namespace pcn::norm
