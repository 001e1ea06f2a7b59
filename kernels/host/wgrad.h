// Gradient of a convolution for its filters.
//
// A tile is M numbers of one tap's channels by one or two vectors of filters, its sums in registers while it goes over all
// pixels that see the tap: no patches, no products with padding. Of few channels a tile spans taps instead, a run of the
// filter's row, and the image is copied between zeros.
#pragma once

#include "host/pointwise.h"
#include "host/vector.h"

namespace pcn_host {
namespace {

constexpr int kRows = kLanes == 16 ? 8 : kLanes == 8 ? 6 : 4;

// The pixels a tile adds up.
struct Pixels {
  const float *x, *dy;
  long rows, columns;
  long x_row, x_column, dy_row, dy_column;
};

template <int M, int NV>
void outer(const Pixels& t, float* sums, long width) {
  V sum[M][NV];
  PCN_ALL for (int m = 0; m < M; ++m) {
    PCN_ALL for (int v = 0; v < NV; ++v) sum[m][v] = load(sums + m * width + v * kLanes);
  }
  for (long row = 0; row < t.rows; ++row) {
    const float *x = t.x + row * t.x_row, *dy = t.dy + row * t.dy_row;
    for (long column = 0; column < t.columns; ++column, x += t.x_column, dy += t.dy_column) {
      V gradient[NV];
      PCN_ALL for (int v = 0; v < NV; ++v) gradient[v] = load(dy + v * kLanes);
      PCN_ALL for (int m = 0; m < M; ++m) {
        const V pixel = every(x[m]);
        PCN_ALL for (int v = 0; v < NV; ++v) sum[m][v] += pixel * gradient[v];
      }
    }
  }
  PCN_ALL for (int m = 0; m < M; ++m) {
    PCN_ALL for (int v = 0; v < NV; ++v) store(sums + m * width + v * kLanes, sum[m][v]);
  }
}

template <int M>
void outer_of(int rows, bool wide, const Pixels& t, float* sums, long width) {
  if (rows == M)
    wide ? outer<M, 2>(t, sums, width) : outer<M, 1>(t, sums, width);
  else if constexpr (M > 1)
    outer_of<M - 1>(rows, wide, t, sums, width);
}

// All tiles of `count` consecutive rows of the sums.
PCN_INLINE void outers(long count, long filters, Pixels t, float* sums, long width) {
  const float* dy = t.dy;
  const long tiles = up(count, kRows);
  for (long k = 0; k < filters; k += 2 * kLanes) {
    t.dy = dy + k;
    const float* x = t.x;
    for (long i = 0; i < tiles; ++i) {
      const long start = count * i / tiles, stop = count * (i + 1) / tiles;
      Pixels part = t;
      part.x = x + start;
      outer_of<kRows>(int(stop - start), width - k > kLanes, part, sums + start * width + k, width);
    }
  }
}

// The outputs [first, last) whose tap r is a pixel of the image.
PCN_INLINE Taps outputs_at(long r, long before, long stride, long extent, long outputs) {
  const long first = before > r ? up(before - r, stride) : 0;
  const long room = extent - 1 + before - r;
  const long last = room < 0 ? 0 : least(outputs, room / stride + 1);
  return last <= first ? Taps{0, 0} : Taps{first, last};
}

void wgrad(const Conv& g, long n0, long n1, const float* dy, const float* x, float* room, float* sums,
           float* bias) {
  const long channels = g.c / g.groups, filters = g.k / g.groups, width = up(filters, kLanes) * kLanes;
  const long run = g.s * channels, pixels = g.p * g.q;
  memset(sums, 0, sizeof(float) * g.groups * g.r * run * width);
  if (bias) memset(bias, 0, sizeof(float) * g.k);
  // An image between zeros, then gradients with room for whole vectors: each only where it is wanted.
  const bool spans_taps = wgrad_image(g) > 0;
  const long across = (g.q - 1) * g.stride_w + g.s, padded_row = across * g.c;
  float* padded = room;
  float* gradients = room + wgrad_image(g);
  const Taps inside = {most(0, g.left), least(across, g.left + g.w)};  // columns of the padded image
  if (spans_taps) memset(padded, 0, sizeof(float) * wgrad_image(g));
  for (long n = n0; n < n1; ++n) {
    const float* image = x + n * g.h * g.w * g.c;
    if (bias) add_column_sums(pixels, g.k, dy + n * pixels * g.k, bias);
    if (spans_taps && inside.last > inside.first)
      for (long h = 0; h < g.h; ++h)
        memcpy(padded + h * padded_row + inside.first * g.c, image + (h * g.w + inside.first - g.left) * g.c,
               sizeof(float) * (inside.last - inside.first) * g.c);
    for (long group = 0; group < g.groups; ++group) {
      const float* of_group = dy + n * pixels * g.k + group * filters;
      long dy_column = g.k;
      if (width != filters) {
        for (long i = 0; i < pixels; ++i) {
          memcpy(gradients + i * width, of_group + i * g.k, sizeof(float) * filters);
          memset(gradients + i * width + filters, 0, sizeof(float) * (width - filters));
        }
        of_group = gradients;
        dy_column = width;
      }
      float* group_sums = sums + group * g.r * run * width;
      for (long r = 0; r < g.r; ++r) {
        const Taps rows = outputs_at(r, g.top, g.stride_h, g.h, g.p);
        if (rows.last == rows.first) continue;
        const long source = rows.first * g.stride_h + r - g.top;
        Pixels t;
        t.rows = rows.last - rows.first;
        t.x_column = g.stride_w * g.c;
        t.dy_row = g.q * dy_column, t.dy_column = dy_column;
        if (spans_taps) {
          t.columns = g.q;
          t.x = padded + source * padded_row, t.x_row = g.stride_h * padded_row;
          t.dy = of_group + rows.first * t.dy_row;
          outers(run, filters, t, group_sums + r * run * width, width);
          continue;
        }
        for (long s = 0; s < g.s; ++s) {
          const Taps columns = outputs_at(s, g.left, g.stride_w, g.w, g.q);
          if (columns.last == columns.first) continue;
          t.columns = columns.last - columns.first;
          t.x = image + (source * g.w + columns.first * g.stride_w + s - g.left) * g.c + group * channels;
          t.x_row = g.stride_h * g.w * g.c;
          t.dy = of_group + rows.first * t.dy_row + columns.first * dy_column;
          outers(channels, filters, t, group_sums + (r * g.s + s) * channels * width, width);
        }
      }
    }
  }
}

void wgrad_sum(const Conv& g, long count, long begin, long end, const float* sums, float* dw) {
  const long filters = g.k / g.groups, width = up(filters, kLanes) * kLanes,
             run = g.r * g.s * (g.c / g.groups);
  const long all = g.groups * run * width;
  for (long row = begin; row < end; ++row) {
    float* to = dw + row / run * filters * run + row % run;
    for (long k = 0; k < width; k += kLanes) {
      const float* at = sums + row * width + k;
      V total = load(at);
      for (long part = 1; part < count; ++part) total += load(at + part * all);
      float results[kLanes];
      store(results, total);
      for (long j = 0; j < least(kLanes, filters - k); ++j) to[(k + j) * run] = results[j];
    }
  }
}

}  // namespace
}  // namespace pcn_host
