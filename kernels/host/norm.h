// Local response normalisation: y = x scale^-beta, scale = k + alpha (sum of x^2 over a window), and its gradient.
//
// A window reaches over rows and columns of pixels. Across channels, "columns" are a group's channels, of one number each.
// Sums over rows, then over columns, add shifted lines to each other: one long loop for each shift.
#pragma once

#include <math.h>

#include "host/vector.h"

namespace pcn_host {
namespace {

enum Beta { kThreeQuarters, kHalf, kOne };  // 3/4 by two square roots, several times faster than by pow

template <Beta BETA>
PCN_INLINE float power(float scale) {
  const float root = sqrtf(scale);
  return BETA == kOne ? scale : BETA == kHalf ? root : root * sqrtf(root);
}

// sums[i] = values[i - before * unit] + … + values[i + after * unit], of `extent` units.
PCN_INLINE void slide(const float* __restrict values, long extent, long unit, long before, long after,
                      float* __restrict sums) {
  for (long i = 0; i < extent * unit; ++i) sums[i] = 0;
  for (long d = -before; d <= after; ++d)
    for (long i = most(0, -d) * unit, end = least(extent, extent - d) * unit; i < end; ++i)
      sums[i] += values[i + d * unit];
}

// The sums of `values`, an image, over the window of each element of row h; `line` is room for a row.
PCN_INLINE void window_sums(const Norm& g, const float* values, long h, long before_h, long after_h,
                            long before_w, long after_w, float* __restrict line, float* __restrict sums) {
  const long row = g.w * g.c;
  if (before_h + after_h == 0) {
    slide(values + h * row, g.w, g.c, before_w, after_w, sums);
    return;
  }
  const long first = most(0, h - before_h), last = least(g.h - 1, h + after_h);
  memcpy(line, values + first * row, sizeof(float) * row);
  for (long r = first + 1; r <= last; ++r)
    for (long i = 0; i < row; ++i) line[i] += values[r * row + i];
  slide(line, g.w, g.c, before_w, after_w, sums);
}

template <Beta BETA>
void lrn_with(const Norm& g, long n0, long n1, const float* x, float* room, float* y, float* scale) {
  const long row = g.w * g.c, image = g.h * row;
  float *squares = room, *line = room + image, *sums = line + row;
  for (long n = n0; n < n1; ++n) {
    const float* from = x + n * image;
    for (long i = 0; i < image; ++i) squares[i] = from[i] * from[i];
    for (long h = 0; h < g.h; ++h) {
      window_sums(g, squares, h, g.before_h, g.after_h, g.before_w, g.after_w, line, sums);
      const float* __restrict source = from + h * row;
      float* __restrict to = y + n * image + h * row, * __restrict scales = scale + n * image + h * row;
      const float* __restrict sum = sums;
      for (long i = 0; i < row; ++i) {
        const float value = g.k + g.alpha * sum[i];
        scales[i] = value;
        to[i] = source[i] / power<BETA>(value);
      }
    }
  }
}

template <Beta BETA>
void lrn_backward_with(const Norm& g, long n0, long n1, const float* dy, const float* x, const float* y,
                       const float* scale, bool relu, float* room, float* dx) {
  const long row = g.w * g.c, image = g.h * row;
  const float factor = g.factor;
  float *terms = room, *line = room + image, *sums = line + row;
  for (long n = n0; n < n1; ++n) {
    const long at = n * image;
    for (long i = 0; i < image; ++i) terms[i] = dy[at + i] * y[at + i] / scale[at + i];
    for (long h = 0; h < g.h; ++h) {
      // The windows that hold an element are the mirror image of its own.
      window_sums(g, terms, h, g.after_h, g.before_h, g.after_w, g.before_w, line, sums);
      const long start = at + h * row;
      const float* __restrict gradient = dy + start, * __restrict source = x + start, * __restrict scales = scale + start;
      const float* __restrict sum = sums;
      float* __restrict to = dx + start;
      for (long i = 0; i < row; ++i) {
        const float value = gradient[i] / power<BETA>(scales[i]) - factor * (source[i] * sum[i]);
        to[i] = relu && source[i] <= 0 ? 0.0f : value;
      }
    }
  }
}

void lrn(const Norm& g, long n0, long n1, const float* x, float* room, float* y, float* scale) {
  (g.beta == 0.75f  ? lrn_with<kThreeQuarters>
   : g.beta == 0.5f ? lrn_with<kHalf>
                    : lrn_with<kOne>)(g, n0, n1, x, room, y, scale);
}

void lrn_backward(const Norm& g, long n0, long n1, const float* dy, const float* x, const float* y,
                  const float* scale, bool relu, float* room, float* dx) {
  (g.beta == 0.75f  ? lrn_backward_with<kThreeQuarters>
   : g.beta == 0.5f ? lrn_backward_with<kHalf>
                    : lrn_backward_with<kOne>)(g, n0, n1, dy, x, y, scale, relu, room, dx);
}

}  // namespace
}  // namespace pcn_host
