// How the operands of a convolution's matrix product reach shared memory without the product's left side
// ("im2col") ever existing in global memory. VEC = 4: four elements a load, for channel counts divisible by 4
// and aligned pointers; VEC = 1: any shape. In shared memory every element is a float.
//
// Offsets are unsigned 32-bit: sums on the way may wrap around, but every offset that is used is one of an
// element, and tensors have fewer than 2^31 elements.
#pragma once
#include "common/device.h"
#include "conv/conv.h"
#include "conv/elements.h"

namespace pcn::conv {

template <int VEC, class E>
__device__ __forceinline__ void load_vector(float (&v)[VEC], const E* base, unsigned offset, bool exists) {
  PCN_UNROLL
  for (int j = 0; j < VEC; ++j) v[j] = 0.f;
  if (exists) load_constant(v, base + offset);
}

// A mixed-radix counter: an index along a reduction taken apart, `inner` fastest. For fprop and dgrad
// (channel, tap column, tap row), for wgrad (pixel column, pixel row, image).
struct Radix {
  int inner, middle;  // extents of the two fast digits
};
struct Digits {
  int inner, middle, outer;
};
__host__ __device__ constexpr Digits digits_of(int index, Radix radix) {
  return {index % radix.inner, index / radix.inner % radix.middle, index / radix.inner / radix.middle};
}
// index += step in constant time; the digits of the step are computed on the host.
__device__ __forceinline__ void advance(Digits& at, Digits step, Radix radix) {
  at.inner += step.inner;
  int carry = at.inner >= radix.inner;
  at.inner -= carry ? radix.inner : 0;
  at.middle += step.middle + carry;
  carry = at.middle >= radix.middle;
  at.middle -= carry ? radix.middle : 0;
  at.outer += step.outer + carry;
}

// The same where the radix is known only to the block, so that no digits can be prepared: for steps that
// rarely carry more than once.
__device__ __forceinline__ void advance(Digits& at, int step, Radix radix) {
  at.inner += step;
  while (at.inner >= radix.inner) {
    at.inner -= radix.inner;
    if (++at.middle == radix.middle) at.middle = 0, ++at.outer;
  }
}

// ---- operands that are contiguous along the reduction (images in fprop and dgrad, filters in fprop)
//
// Which rows (pixels or filters) and which k a thread loads. With float4, two neighbouring threads share a
// row, so each row costs one 32-byte sector a warp; the transposed store then hits each bank once: with rows
// of ROWS + 4 floats (ROWS divisible by 16), 4 steps along k are 16 banks, next to the 16 rows of the other
// thread. With single floats, BK = 8 threads share a row, and a step along k is 4 banks.
template <int ROWS, int BK, int THREADS, int VEC>
struct AlongK {
  static constexpr int LANES = VEC == 4 ? 2 : BK;
  static constexpr int SPAN = LANES * ROWS;  // threads that cover all rows once
  static constexpr int ROW_PASSES = SPAN > THREADS ? SPAN / THREADS : 1;
  static constexpr int ROW_STEP = THREADS / LANES;
  static constexpr int GROUPS = SPAN > THREADS ? 1 : THREADS / SPAN;
  static constexpr int STEP = LANES * GROUPS * VEC < BK ? LANES * GROUPS * VEC : BK;  // k covered by a pass
  static constexpr int K_PASSES = BK / STEP;
  static constexpr bool ALL_ACTIVE = THREADS * VEC * ROW_PASSES == ROWS * STEP;
  static_assert(SPAN <= THREADS || SPAN % THREADS == 0, "whole passes over the rows");
  static_assert(BK % STEP == 0, "whole passes along k");
  static_assert(VEC == 1 || ROWS % 16 == 0, "bank-conflict-free stores");

  int row, k;
  bool active;
  float value[K_PASSES][ROW_PASSES][VEC];

  __device__ __forceinline__ AlongK() {
    const int thread = threadIdx.x;
    row = thread / LANES % ROWS;
    k = (thread % LANES + thread / SPAN * LANES) * VEC;
    if (SPAN > THREADS) k = thread % LANES * VEC;
    active = ALL_ACTIVE || k < STEP;
  }

  __device__ __forceinline__ void store(float (*to)[ROWS + 4]) const {
    if (!active) return;
    PCN_UNROLL
    for (int kp = 0; kp < K_PASSES; ++kp) PCN_UNROLL
    for (int rp = 0; rp < ROW_PASSES; ++rp) PCN_UNROLL
    for (int j = 0; j < VEC; ++j) to[k + kp * STEP + j][row + rp * ROW_STEP] = value[kp][rp][j];
  }
};

// Pixels under a moving filter tap. Row m of the operand sees pixel (h0 + SIGN * r, w0 + SIGN * s) of its
// image at tap (r, s), zero outside. Step: Digits, or int where the radix is not known on the host.
template <class E, int ROWS, int BK, int THREADS, int VEC, int SIGN, class Step>
struct PixelLoader : AlongK<ROWS, BK, THREADS, VEC> {
  using Map = AlongK<ROWS, BK, THREADS, VEC>;
  const E* image;
  int height, width, channels;  // of the whole tensor
  Radix radix;                  // channels of the group, tap columns
  int taps_r;
  Step step;
  Digits at;
  unsigned base[Map::ROW_PASSES];
  int h0[Map::ROW_PASSES], w0[Map::ROW_PASSES];

  // first(m): the digits (w0, h0, image) of row m; an image index < 0 where there is no such row.
  template <class First>
  __device__ __forceinline__ PixelLoader(const E* image_, int height_, int width_, int channels_,
                                         int channel0, Radix radix_, int taps_r_, Step step_, int k_begin,
                                         First first)
      : image(image_),
        height(height_),
        width(width_),
        channels(channels_),
        radix(radix_),
        taps_r(taps_r_),
        step(step_),
        at(digits_of(k_begin + this->k, radix_)) {
    PCN_UNROLL
    for (int rp = 0; rp < Map::ROW_PASSES; ++rp) {
      const Digits pixel = first(this->row + rp * Map::ROW_STEP);
      w0[rp] = pixel.inner;
      h0[rp] = pixel.outer < 0 ? -(1 << 30) : pixel.middle;  // so that no tap finds it inside the image
      base[rp] =
          ((static_cast<unsigned>(pixel.outer) * height + pixel.middle) * width + pixel.inner) * channels +
          channel0;
    }
  }

  __device__ __forceinline__ void fetch() {
    PCN_UNROLL
    for (int kp = 0; kp < Map::K_PASSES; ++kp) {
      const bool tap = this->active && at.outer < taps_r;
      const int r = SIGN * at.outer, s = SIGN * at.middle;
      const unsigned offset = static_cast<unsigned>(r * width + s) * channels + at.inner;
      PCN_UNROLL
      for (int rp = 0; rp < Map::ROW_PASSES; ++rp) {
        const bool inside = static_cast<unsigned>(h0[rp] + r) < static_cast<unsigned>(height) &&
                            static_cast<unsigned>(w0[rp] + s) < static_cast<unsigned>(width);
        load_vector(this->value[kp][rp], image, base[rp] + offset, tap && inside);
      }
      advance(at, step, radix);
    }
  }
};

// Rows [first, first + rows) of a row-major matrix (.. x depth): the filters in fprop.
template <class E, int ROWS, int BK, int THREADS, int VEC>
struct MatrixRowsLoader : AlongK<ROWS, BK, THREADS, VEC> {
  using Map = AlongK<ROWS, BK, THREADS, VEC>;
  const E* matrix;
  int depth, at;
  unsigned start[Map::ROW_PASSES];  // of the row
  bool exists[Map::ROW_PASSES];

  __device__ __forceinline__ MatrixRowsLoader(const E* matrix_, int first, int rows, int depth_, int k_begin)
      : matrix(matrix_), depth(depth_), at(k_begin + this->k) {
    PCN_UNROLL
    for (int rp = 0; rp < Map::ROW_PASSES; ++rp) {
      const int r = this->row + rp * Map::ROW_STEP;
      start[rp] = static_cast<unsigned>(first + r) * depth;
      exists[rp] = this->active && r < rows;
    }
  }

  __device__ __forceinline__ void fetch() {
    PCN_UNROLL
    for (int kp = 0; kp < Map::K_PASSES; ++kp) {
      PCN_UNROLL
      for (int rp = 0; rp < Map::ROW_PASSES; ++rp)
        load_vector(this->value[kp][rp], matrix, start[rp] + at, exists[rp] && at < depth);
      at += Map::STEP;
    }
  }
};

// ---- operands that are contiguous across the reduction (filters in dgrad, both operands of wgrad)
//
// A thread keeps its column and walks down the rows k; a warp loads and stores neighbouring vectors.
template <int COLS, int BK, int THREADS, int VEC>
struct AcrossK {
  static constexpr int SPAN = COLS / VEC;  // threads that cover a row
  static constexpr int FIT = THREADS / SPAN;
  static constexpr int STEP = FIT >= 32 && BK >= 32   ? 32
                              : FIT >= 16 && BK >= 16 ? 16
                              : FIT >= 8              ? 8
                              : FIT >= 4              ? 4
                              : FIT >= 2              ? 2
                                                      : 1;  // rows k covered by a pass
  static constexpr int K_PASSES = BK / STEP;
  static constexpr bool ALL_ACTIVE = THREADS == SPAN * STEP;
  static_assert(COLS % VEC == 0 && SPAN <= THREADS && BK % STEP == 0, "whole passes");

  int col, k;
  bool active;
  float value[K_PASSES][VEC];

  __device__ __forceinline__ AcrossK() {
    const int thread = threadIdx.x;
    col = thread % SPAN * VEC;
    k = thread / SPAN;
    active = ALL_ACTIVE || k < STEP;
  }

  __device__ __forceinline__ void store(float (*to)[COLS + 4]) const {
    if (!active) return;
    PCN_UNROLL
    for (int kp = 0; kp < K_PASSES; ++kp) {
      float* at = &to[k + kp * STEP][col];
      if constexpr (VEC == 4)
        *reinterpret_cast<float4*>(at) = make_float4(value[kp][0], value[kp][1], value[kp][2], value[kp][3]);
      else
        *at = value[kp][0];
    }
  }
};

// Columns [first, first + cols) of a row-major matrix whose row is the reduction index: dy in wgrad.
template <class E, int COLS, int BK, int THREADS, int VEC>
struct MatrixColumnsLoader : AcrossK<COLS, BK, THREADS, VEC> {
  using Map = AcrossK<COLS, BK, THREADS, VEC>;
  const E* matrix;
  int stride, depth, column, at;
  bool exists;

  __device__ __forceinline__ MatrixColumnsLoader(const E* matrix_, int stride_, int first, int cols,
                                                 int depth_, int k_begin)
      : matrix(matrix_),
        stride(stride_),
        depth(depth_),
        column(first + this->col),
        at(k_begin + this->k),
        exists(this->active && this->col < cols) {}

  __device__ __forceinline__ void fetch() {
    PCN_UNROLL
    for (int kp = 0; kp < Map::K_PASSES; ++kp) {
      load_vector(this->value[kp], matrix, static_cast<unsigned>(at) * stride + column, exists && at < depth);
      at += Map::STEP;
    }
  }
};

// Filters in dgrad: row k of the operand is (filter, tap column, tap row), its columns are the filter's
// channels. The taps of a stride's phase are every stride_h-th from the phase's first and every stride_w-th.
template <class E, int COLS, int BK, int THREADS, int VEC>
struct FilterTapsLoader : AcrossK<COLS, BK, THREADS, VEC> {
  using Map = AcrossK<COLS, BK, THREADS, VEC>;
  const E* filters;
  unsigned start;  // of the group's first filter, the phase's first tap, this thread's channel
  int filter_stride, row_stride, column_stride;
  Radix radix;  // filters of the group, tap columns of the phase
  int taps_r;
  Digits at;
  bool exists;

  __device__ __forceinline__ FilterTapsLoader(const E* filters_, unsigned start_, int filter_stride_,
                                              int row_stride_, int column_stride_, int cols, Radix radix_,
                                              int taps_r_, int k_begin)
      : filters(filters_),
        start(start_ + this->col),
        filter_stride(filter_stride_),
        row_stride(row_stride_),
        column_stride(column_stride_),
        radix(radix_),
        taps_r(taps_r_),
        at(digits_of(k_begin + this->k, radix_)),
        exists(this->active && this->col < cols) {}

  __device__ __forceinline__ void fetch() {
    PCN_UNROLL
    for (int kp = 0; kp < Map::K_PASSES; ++kp) {
      const unsigned offset = static_cast<unsigned>(at.inner) * filter_stride +
                              static_cast<unsigned>(at.outer) * row_stride +
                              static_cast<unsigned>(at.middle) * column_stride;
      load_vector(this->value[kp], filters, start + offset, exists && at.outer < taps_r);
      advance(at, Map::STEP, radix);
    }
  }
};

// Pixels in wgrad: row k of the operand is output pixel (q, p, n), a column is one filter weight (r, s,
// channel), the element is what that weight saw at that output.
template <class E, int COLS, int BK, int THREADS, int VEC>
struct PatchLoader : AcrossK<COLS, BK, THREADS, VEC> {
  using Map = AcrossK<COLS, BK, THREADS, VEC>;
  const E* image;
  int height, width, channels, images, stride_h, stride_w;
  Radix radix;  // output columns, output rows
  Digits step, at;
  int h0, w0;        // where the weight's tap lies when the output is (0, 0)
  unsigned channel;  // in the whole tensor

  // weight(col): (channel, tap column, tap row) of a column of the tile; tap row < 0 where there is no such
  // column.
  template <class Weight>
  __device__ __forceinline__ PatchLoader(const E* image_, const Conv2dShape& s, Digits step_, int k_begin,
                                         int channel0, Weight weight)
      : image(image_),
        height(s.h),
        width(s.w),
        channels(s.c),
        images(s.n),
        stride_h(s.stride_h),
        stride_w(s.stride_w),
        radix{s.q, s.p},
        step(step_),
        at(digits_of(k_begin + this->k, radix)) {
    const Digits tap = weight(this->col);
    h0 = tap.outer < 0 || !this->active ? -(1 << 30) : tap.outer - s.pad_h;
    w0 = tap.middle - s.pad_w;
    channel = channel0 + tap.inner;
  }

  __device__ __forceinline__ void fetch() {
    PCN_UNROLL
    for (int kp = 0; kp < Map::K_PASSES; ++kp) {
      const int h = at.middle * stride_h + h0, w = at.inner * stride_w + w0;
      const bool inside = at.outer < images && static_cast<unsigned>(h) < static_cast<unsigned>(height) &&
                          static_cast<unsigned>(w) < static_cast<unsigned>(width);
      const unsigned offset =
          ((static_cast<unsigned>(at.outer) * height + h) * width + w) * channels + channel;
      load_vector(this->value[kp], image, offset, inside);
      advance(at, step, radix);
    }
  }
};

}  // namespace pcn::conv
