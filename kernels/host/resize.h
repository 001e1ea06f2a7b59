// Images of bytes to another size, by weighted sums of pixels: first along rows, then along columns, each rounded to bytes,
// in the fixed-point numbers of Pillow (Resample.c), so that the bits are Pillow's.
#pragma once

#include "host/vector.h"

namespace pcn_host {
namespace {

constexpr int kPrecision = 22;  // bits of a weight behind the point: 32 - 8 of a pixel - 2 of sums beyond 1
constexpr long kTurned = 16;    // rows turned to columns at a time, so that vectors run down them

PCN_INLINE VInt rounded(VInt sum) {
  const VInt zero = {}, white = zero + 255;
  VInt value = sum >> kPrecision;
  value = value < zero ? zero : value;
  return value > white ? white : value;
}

// to[j * to_stride + i] = from[i * from_stride + j] for 16 rows i and columns j
PCN_INLINE void transpose_tile(const unsigned char* from, long from_stride, unsigned char* to,
                               long to_stride) {
#if defined(__AVX2__)
  __m128i a[16], b[16];
  PCN_ALL for (int i = 0; i < 16; ++i) a[i] =
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
  // Each step interleaves rows 8 apart; after four of them row i is column i.
  PCN_ALL for (int step = 0; step < 4; ++step) {
    PCN_ALL for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    PCN_ALL for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  PCN_ALL for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_stride), a[i]);
#else
  for (long j = 0; j < 16; ++j)
    for (long i = 0; i < 16; ++i) to[j * to_stride + i] = from[i * from_stride + j];
#endif
}

// to (columns, to_stride) = the transpose of from (rows, from_stride)
PCN_INLINE void transpose(const unsigned char* from, long rows, long columns, long from_stride,
                          unsigned char* to, long to_stride) {
  for (long i = 0; i < rows; i += 16)
    for (long j = 0; j < columns; j += 16)
      if (i + 16 <= rows && j + 16 <= columns)
        transpose_tile(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
      else
        for (long jj = j; jj < least(j + 16, columns); ++jj)
          for (long ii = i; ii < least(i + 16, rows); ++ii)
            to[jj * to_stride + ii] = from[ii * from_stride + jj];
}

// The rows of an image lie as columns, kTurned bytes each: every output pixel of all of them.
template <long C>
PCN_INLINE void across(const Resize& g, const int* spans, const int* weights, const unsigned char* tile,
                       unsigned char* to) {
  for (long o = 0; o < g.to_w; ++o) {
    const int* w = weights + o * g.taps_w;
    for (long part = 0; part < kTurned; part += kLanes) {
      const unsigned char* from = tile + spans[2 * o] * C * kTurned + part;
      VInt sums[C];
      PCN_ALL for (long c = 0; c < C; ++c) sums[c] = VInt{} + (1 << (kPrecision - 1));
      for (long t = 0; t < spans[2 * o + 1]; ++t, from += C * kTurned)
        PCN_ALL for (long c = 0; c < C; ++c) sums[c] += load_bytes(from + c * kTurned) * w[t];
      PCN_ALL for (long c = 0; c < C; ++c) store_bytes(to + (o * C + c) * kTurned + part, rounded(sums[c]));
    }
  }
}

// One row of the output: `Vectors` of its bytes at a time.
template <long Vectors>
PCN_INLINE void down(const unsigned char* from, long row, long taps, const int* w, unsigned char* to) {
  VInt sums[Vectors];
  PCN_ALL for (long v = 0; v < Vectors; ++v) sums[v] = VInt{} + (1 << (kPrecision - 1));
  for (long t = 0; t < taps; ++t)
    PCN_ALL for (long v = 0; v < Vectors; ++v) sums[v] += load_bytes(from + t * row + v * kLanes) * w[t];
  PCN_ALL for (long v = 0; v < Vectors; ++v) store_bytes(to + v * kLanes, rounded(sums[v]));
}

void resize(const Resize& g, const unsigned char* x, const int* spans_h, const int* weights_h,
            const int* spans_w, const int* weights_w, unsigned char* room, unsigned char* y) {
  const long row = g.to_w * g.c, wide = g.w * g.c;
  long top = g.h, bottom = 0;  // the rows that any output needs
  for (long o = 0; o < g.to_h; ++o) {
    top = least(top, spans_h[2 * o]);
    bottom = most(bottom, spans_h[2 * o] + spans_h[2 * o + 1]);
  }
  unsigned char* tile = room + (bottom - top) * row;
  unsigned char* turned = tile + wide * kTurned;
  for (long h = top; h < bottom; h += kTurned) {
    const long rows = least(kTurned, bottom - h);
    transpose(x + h * wide, rows, wide, wide, tile, kTurned);
    if (g.c == 3)
      across<3>(g, spans_w, weights_w, tile, turned);
    else
      across<1>(g, spans_w, weights_w, tile, turned);
    transpose(turned, row, rows, kTurned, room + (h - top) * row, row);
  }
  for (long o = 0; o < g.to_h; ++o) {
    const unsigned char* from = room + (spans_h[2 * o] - top) * row;
    const long taps = spans_h[2 * o + 1];
    const int* w = weights_h + o * g.taps_h;
    unsigned char* to = y + o * row;
    long i = 0;
    for (; i + 4 * kLanes <= row; i += 4 * kLanes) down<4>(from + i, row, taps, w, to + i);
    for (; i + kLanes <= row; i += kLanes) down<1>(from + i, row, taps, w, to + i);
    for (; i < row; ++i) {
      int sum = 1 << (kPrecision - 1);
      for (long t = 0; t < taps; ++t) sum += from[t * row + i] * w[t];
      to[i] = (unsigned char)most(0, least(255, sum >> kPrecision));
    }
  }
}

}  // namespace
}  // namespace pcn_host
