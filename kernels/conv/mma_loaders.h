// How the operands of a convolution's matrix product reach the ring of mma_tile.h: every thread starts
// cp.async copies of a chunk, 16 bytes of the channels of one pixel or filter tap, or of zeros where there is
// nothing.
// The counters are those of loaders.h.
#pragma once
#include "common/primitives.h"
#include "conv/loaders.h"
#include "conv/mma_tile.h"

namespace pcn::conv {

// Source of a copy that reads nothing: any valid address.
template <class E>
__device__ __forceinline__ void copy_chunk(E* to, const E* base, unsigned offset, bool exists) {
  cp_async_16(to, base + (exists ? offset : 0u), exists);
}

// ---- operands contiguous along the reduction: neighbouring threads copy a row, a chunk each, and a thread
// has the same place along the reduction in each of its rows.
template <class E, int ROWS, int BK, int THREADS>
struct CopyAlongK {
  static constexpr int LANES = BK / kChunk<E>, ROW_STEP = THREADS / LANES, PASSES = ROWS / ROW_STEP;
  static_assert(ROWS % ROW_STEP == 0 && ROW_STEP % 8 == 0, "whole passes, one swizzle for all of them");
  static __device__ __forceinline__ int row() { return threadIdx.x / LANES; }
  static __device__ __forceinline__ int k() { return threadIdx.x % LANES * kChunk<E>; }
  static __device__ __forceinline__ int slot() {
    return AlongTile<E, ROWS, BK>::at(row(), threadIdx.x % LANES);
  }
};

// Pixels under a moving filter tap: row m sees pixel (h0 + SIGN * r, w0 + SIGN * s) of its image.
template <class E, int ROWS, int BK, int THREADS, int SIGN>
struct PixelCopies : CopyAlongK<E, ROWS, BK, THREADS> {
  using Map = CopyAlongK<E, ROWS, BK, THREADS>;
  const E* image;
  int height, width, channels;  // of the whole tensor
  Radix radix;                  // channels of the group, tap columns
  int taps_r;
  Digits step, at;  // of BK along the reduction
  unsigned base[Map::PASSES];
  int h0[Map::PASSES], w0[Map::PASSES];

  // first(m): the digits (w0, h0, image) of row m; an image index < 0 where there is no such row.
  template <class First>
  __device__ __forceinline__ PixelCopies(const E* image_, int height_, int width_, int channels_,
                                         int channel0, Radix radix_, int taps_r_, Digits step_, int k_begin,
                                         First first)
      : image(image_),
        height(height_),
        width(width_),
        channels(channels_),
        radix(radix_),
        taps_r(taps_r_),
        step(step_),
        at(digits_of(k_begin + Map::k(), radix_)) {
    PCN_UNROLL
    for (int p = 0; p < Map::PASSES; ++p) {
      const Digits pixel = first(Map::row() + p * Map::ROW_STEP);
      w0[p] = pixel.inner;
      h0[p] = pixel.outer < 0 ? -(1 << 30) : pixel.middle;  // so that no tap finds it inside the image
      base[p] =
          ((static_cast<unsigned>(pixel.outer) * height + pixel.middle) * width + pixel.inner) * channels +
          channel0;
    }
  }

  __device__ __forceinline__ void fetch(E* tile) {
    const bool tap = at.outer < taps_r;
    const int r = SIGN * at.outer, s = SIGN * at.middle;
    const unsigned offset = static_cast<unsigned>(r * width + s) * channels + at.inner;
    PCN_UNROLL
    for (int p = 0; p < Map::PASSES; ++p) {
      const bool inside = static_cast<unsigned>(h0[p] + r) < static_cast<unsigned>(height) &&
                          static_cast<unsigned>(w0[p] + s) < static_cast<unsigned>(width);
      copy_chunk(tile + Map::slot() + p * Map::ROW_STEP * BK, image, base[p] + offset, tap && inside);
    }
    advance(at, step, radix);
  }
};

// Rows [first, first + rows) of a row-major matrix (.. x depth): the filters in fprop.
template <class E, int ROWS, int BK, int THREADS>
struct MatrixRowCopies : CopyAlongK<E, ROWS, BK, THREADS> {
  using Map = CopyAlongK<E, ROWS, BK, THREADS>;
  const E* matrix;
  int rows, depth, at;
  unsigned start;  // of the thread's first row

  __device__ __forceinline__ MatrixRowCopies(const E* matrix_, int first, int rows_, int depth_, int k_begin)
      : matrix(matrix_),
        rows(rows_ - Map::row()),
        depth(depth_),
        at(k_begin + Map::k()),
        start(static_cast<unsigned>(first + Map::row()) * depth_) {}

  __device__ __forceinline__ void fetch(E* tile) {
    PCN_UNROLL
    for (int p = 0; p < Map::PASSES; ++p)
      copy_chunk(tile + Map::slot() + p * Map::ROW_STEP * BK, matrix,
                 start + static_cast<unsigned>(p * Map::ROW_STEP) * depth + at,
                 at < depth && p * Map::ROW_STEP < rows);
    at += BK;
  }
};

// ---- operands contiguous across the reduction: a thread keeps its chunk of columns and walks down the rows
// k.
template <class E, int COLS, int BK, int THREADS>
struct CopyAcrossK {
  static constexpr int CHUNKS = COLS / kChunk<E>;
  // Threads set aside for a row: a power of two, so that passes are whole; some idle where COLS is none.
  static constexpr int SPAN = CHUNKS > 16 ? 32 : CHUNKS > 8 ? 16 : 8;
  static constexpr int K_STEP = THREADS / SPAN, PASSES = BK / K_STEP;
  static_assert(COLS % kChunk<E> == 0 && CHUNKS <= SPAN && BK % K_STEP == 0, "whole passes");
  static __device__ __forceinline__ int column() { return threadIdx.x % SPAN * kChunk<E>; }
  static __device__ __forceinline__ int k() { return threadIdx.x / SPAN; }
  static __device__ __forceinline__ bool active() { return CHUNKS == SPAN || column() < COLS; }
  static __device__ __forceinline__ int slot(int pass) {
    return AcrossTile<E, COLS, BK>::at(k() + pass * K_STEP, column());
  }
};

// Columns [first, first + cols) of a row-major matrix whose row is the reduction index: dy in wgrad.
template <class E, int COLS, int BK, int THREADS>
struct MatrixColumnCopies : CopyAcrossK<E, COLS, BK, THREADS> {
  using Map = CopyAcrossK<E, COLS, BK, THREADS>;
  const E* matrix;
  int stride, depth, column, at;
  bool exists;

  __device__ __forceinline__ MatrixColumnCopies(const E* matrix_, int stride_, int first, int cols,
                                                int depth_, int k_begin)
      : matrix(matrix_),
        stride(stride_),
        depth(depth_),
        column(first + Map::column()),
        at(k_begin + Map::k()),
        exists(Map::column() < cols) {}

  __device__ __forceinline__ void fetch(E* tile) {
    PCN_UNROLL
    for (int p = 0; p < Map::PASSES; ++p) {
      if (Map::active())
        copy_chunk(tile + Map::slot(p), matrix, static_cast<unsigned>(at) * stride + column,
                   exists && at < depth);
      at += Map::K_STEP;
    }
  }
};

// Filters in dgrad: row k is (filter, tap column, tap row), its columns are the filter's channels; the taps
// of a stride's phase are every stride_h-th from the phase's first and every stride_w-th.
template <class E, int COLS, int BK, int THREADS>
struct FilterTapCopies : CopyAcrossK<E, COLS, BK, THREADS> {
  using Map = CopyAcrossK<E, COLS, BK, THREADS>;
  const E* filters;
  unsigned start;  // of the group's first filter, the phase's first tap, this thread's channels
  int filter_stride, row_stride, column_stride;
  Radix radix;  // filters of the group, tap columns of the phase
  int taps_r;
  Digits step, at;  // of K_STEP along the reduction
  bool exists;

  __device__ __forceinline__ FilterTapCopies(const E* filters_, unsigned start_, int filter_stride_,
                                             int row_stride_, int column_stride_, int cols, Radix radix_,
                                             int taps_r_, int k_begin)
      : filters(filters_),
        start(start_ + Map::column()),
        filter_stride(filter_stride_),
        row_stride(row_stride_),
        column_stride(column_stride_),
        radix(radix_),
        taps_r(taps_r_),
        step(digits_of(Map::K_STEP, radix_)),
        at(digits_of(k_begin + Map::k(), radix_)),
        exists(Map::column() < cols) {}

  __device__ __forceinline__ void fetch(E* tile) {
    PCN_UNROLL
    for (int p = 0; p < Map::PASSES; ++p) {
      const unsigned offset = static_cast<unsigned>(at.inner) * filter_stride +
                              static_cast<unsigned>(at.outer) * row_stride +
                              static_cast<unsigned>(at.middle) * column_stride;
      if (Map::active())
        copy_chunk(tile + Map::slot(p), filters, start + offset, exists && at.outer < taps_r);
      advance(at, step, radix);
    }
  }
};

// Pixels in wgrad: row k is output pixel (q, p, n), a column is one filter weight (r, s, channel), the
// element is what that weight saw at that output.
template <class E, int COLS, int BK, int THREADS>
struct PatchCopies : CopyAcrossK<E, COLS, BK, THREADS> {
  using Map = CopyAcrossK<E, COLS, BK, THREADS>;
  const E* image;
  int height, width, channels, images, stride_h, stride_w;
  Radix radix;       // output columns, output rows
  Digits step, at;   // of K_STEP pixels
  int h0, w0;        // where the weight's tap lies when the output is (0, 0)
  unsigned channel;  // in the whole tensor

  // weight(col): (channel, tap column, tap row) of a column of the tile; tap row < 0 where there is no such
  // column.
  template <class Weight>
  __device__ __forceinline__ PatchCopies(const E* image_, const Conv2dShape& s, Digits step_, int k_begin,
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
        at(digits_of(k_begin + Map::k(), radix)) {
    const Digits tap = weight(Map::column());
    h0 = tap.outer < 0 ? -(1 << 30) : tap.outer - s.pad_h;
    w0 = tap.middle - s.pad_w;
    channel = channel0 + tap.inner;
  }

  __device__ __forceinline__ void fetch(E* tile) {
    PCN_UNROLL
    for (int p = 0; p < Map::PASSES; ++p) {
      const int h = at.middle * stride_h + h0, w = at.inner * stride_w + w0;
      const bool inside = at.outer < images && static_cast<unsigned>(h) < static_cast<unsigned>(height) &&
                          static_cast<unsigned>(w) < static_cast<unsigned>(width);
      const unsigned offset =
          ((static_cast<unsigned>(at.outer) * height + h) * width + w) * channels + channel;
      if (Map::active()) copy_chunk(tile + Map::slot(p), image, offset, inside);
      advance(at, step, radix);
    }
  }
};

}  // namespace pcn::conv
