// Maxima and averages over windows of pixels, and their gradients, channels side by side in a vector.
//
// Where channels do not fill the last vector, it begins earlier and makes some results twice; fewer channels than a vector
// has lanes go one by one.
#pragma once

#include "host/pointwise.h"
#include "host/vector.h"

namespace pcn_host {
namespace {

// Moves the windows [first, last) on to those that hold pixel i, the next one.
PCN_INLINE void windows_over(Taps* over, long i, long before, long size, long stride, long count) {
  while (over->first < count && over->first * stride - before + size <= i) ++over->first;
  while (over->last < count && over->last * stride - before <= i) ++over->last;
}

// Calls window(n, p, q, rows, columns), the window's pixels in the image, for all outputs of a part.
template <typename F>
PCN_INLINE void each_window(const Pool& g, const Part& part, F window) {
  for (long n = part.n0; n < part.n1; ++n)
    for (long p = part.p0; p < part.p1; ++p) {
      const Taps rows = taps_inside(p * g.stride_h - g.top, g.r, g.h);
      for (long q = 0; q < g.q; ++q) window(n, p, q, rows, taps_inside(q * g.stride_w - g.left, g.s, g.w));
    }
}

// A gradient, by rows of dx: each window over a row adds what it sends to each of its pixels, so that a pixel's sum runs in
// the order of the windows. vector(at, window, position) and number(...) say what output `at` of a window sends.
template <typename Vector, typename Number>
PCN_INLINE void spread(const Pool& g, const Part& part, const float* mask, float* dx, Vector vector,
                       Number number) {
  const long length = g.w * g.c, whole = g.c / kLanes * kLanes;
  for (long n = part.n0; n < part.n1; ++n) {
    Taps over = {0, 0};
    for (long h = part.p0; h < part.p1; ++h) {
      windows_over(&over, h, g.top, g.r, g.stride_h, g.p);
      float* row = dx + (n * g.h + h) * length;
      memset(row, 0, sizeof(float) * length);
      for (long p = over.first; p < over.last; ++p)
        for (long q = 0; q < g.q; ++q) {
          const long left = q * g.stride_w - g.left, window = p * g.q + q,
                     at = (n * g.p * g.q + window) * g.c;
          const Taps columns = taps_inside(left, g.s, g.w);
          const long start = (h + g.top - p * g.stride_h) * g.s;
          for (long c = 0; c < whole; c += kLanes)
            for (long s = columns.first; s < columns.last; ++s) {
              float* to = row + (left + s) * g.c + c;
              store(to, load(to) + vector(at + c, window, int(start + s)));
            }
          for (long c = whole; c < g.c; ++c)
            for (long s = columns.first; s < columns.last; ++s)
              row[(left + s) * g.c + c] += number(at + c, window, int(start + s));
        }
      if (mask) relu_backward(length, row, mask + (n * g.h + h) * length, row);
    }
  }
}

void max_pool(const Pool& g, const Part& part, const float* x, float* y, unsigned char* argmax) {
  each_window(g, part, [&](long n, long p, long q, Taps rows, Taps columns) {
    const float* image = x + n * g.h * g.w * g.c;
    const long corner = ((p * g.stride_h - g.top) * g.w + q * g.stride_w - g.left) * g.c;
    const long at = ((n * g.p + p) * g.q + q) * g.c;
    const long start = corner + (rows.first * g.w + columns.first) * g.c;
    const int first = int(rows.first * g.s + columns.first);
    if (g.c < kLanes) {
      for (long c = 0; c < g.c; ++c) {
        float best = image[start + c];
        long found = first;
        for (long r = rows.first; r < rows.last; ++r)
          for (long s = columns.first; s < columns.last; ++s) {
            const float value = image[corner + (r * g.w + s) * g.c + c];
            if (!(value <= best) && best == best) best = value, found = r * g.s + s;
          }
        y[at + c] = best;
        argmax[at + c] = (unsigned char)found;
      }
      return;
    }
    for (long block = 0; block < g.c; block += kLanes) {
      const long c = least(block, g.c - kLanes);
      V best = load(image + start + c);
      VInt found = first - VInt{};
      for (long r = rows.first; r < rows.last; ++r)
        for (long s = columns.first; s < columns.last; ++s) {
          const V value = load(image + corner + (r * g.w + s) * g.c + c);
          const VInt position = int(r * g.s + s) - VInt{};
          const VInt better = ~(value <= best) & (best == best);  // greater, or the first NaN
          best = better ? value : best;
          found = better ? position : found;
        }
      store(y + at + c, best);
      store_bytes(argmax + at + c, found);
    }
  });
}

void max_pool_backward(const Pool& g, const Part& part, const float* dy, const unsigned char* argmax,
                       const float* mask, float* dx) {
  spread(
      g, part, mask, dx,
      [=](long at, long, int position) -> V {
        return load_bytes(argmax + at) == position - VInt{} ? load(dy + at) : V{};
      },
      [=](long at, long, int position) { return argmax[at] == position ? dy[at] : 0.0f; });
}

// 1 / the number of pixels that each window divides by, those in the image and in `counted` around it.
void inverse_counts(const Pool& g, const long* counted, float* inverse) {
  for (long p = 0; p < g.p; ++p)
    for (long q = 0; q < g.q; ++q) {
      const long top = p * g.stride_h - g.top, left = q * g.stride_w - g.left;
      const long rows = least(top + g.r, g.h + counted[1]) - most(top, -counted[0]);
      const long columns = least(left + g.s, g.w + counted[3]) - most(left, -counted[2]);
      inverse[p * g.q + q] = float(1.0 / double(rows * columns));
    }
}

void avg_pool(const Pool& g, const Part& part, const float* inverse, const float* x, float* y) {
  each_window(g, part, [&](long n, long p, long q, Taps rows, Taps columns) {
    const float* image = x + n * g.h * g.w * g.c;
    const long corner = ((p * g.stride_h - g.top) * g.w + q * g.stride_w - g.left) * g.c;
    const long at = ((n * g.p + p) * g.q + q) * g.c;
    const float factor = inverse[p * g.q + q];
    if (g.c < kLanes) {
      for (long c = 0; c < g.c; ++c) {
        float sum = 0;
        for (long r = rows.first; r < rows.last; ++r)
          for (long s = columns.first; s < columns.last; ++s) sum += image[corner + (r * g.w + s) * g.c + c];
        y[at + c] = sum * factor;
      }
      return;
    }
    for (long block = 0; block < g.c; block += kLanes) {
      const long c = least(block, g.c - kLanes);
      V sum = {};
      for (long r = rows.first; r < rows.last; ++r)
        for (long s = columns.first; s < columns.last; ++s)
          sum += load(image + corner + (r * g.w + s) * g.c + c);
      store(y + at + c, sum * every(factor));
    }
  });
}

void avg_pool_backward(const Pool& g, const Part& part, const float* inverse, const float* dy,
                       const float* mask, float* dx) {
  spread(
      g, part, mask, dx,
      [=](long at, long window, int) -> V { return load(dy + at) * every(inverse[window]); },
      [=](long at, long window, int) { return dy[at] * inverse[window]; });
}

}  // namespace
}  // namespace pcn_host
