// Convolution and, with filters transposed and turned, its gradient for the input: no patches are laid out.
//
// A tile is M outputs by one panel of filters, its sums in registers. The M outputs are such that their taps in the image
// are the same (images at one pixel, or pixels of a row or a column away from the edge), so no product is taken with
// padding, and at one distance in memory. Of one group, the taps of a row of the filter are one run of numbers of x and of
// the panel. Every sum runs in the order r, s, c whatever the tile: no bit depends on M, the batch or the parts.
#pragma once

#include "host/vector.h"

namespace pcn_host {
namespace {

constexpr int kTile = kLanes == 16  ? 8
                      : kLanes == 8 ? 6
                                    : 4;  // outputs; times two vectors, beside the operands

#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define PCN_SHUFFLES
#endif
#endif

// to[j * step + i] = from[i * row + j] of 4 x 4 numbers
PCN_INLINE void turn(const float* from, long row, float* to, long step) {
#ifdef PCN_SHUFFLES
  typedef float Four __attribute__((vector_size(16)));
  typedef float Anywhere __attribute__((vector_size(16), aligned(4), may_alias));
  Four in[4], half[4];
  PCN_ALL for (int i = 0; i < 4; ++i) in[i] = *reinterpret_cast<const Anywhere*>(from + i * row);
  PCN_ALL for (int i = 0; i < 2; ++i) {
    half[i] = __builtin_shufflevector(in[2 * i], in[2 * i + 1], 0, 4, 1, 5);
    half[i + 2] = __builtin_shufflevector(in[2 * i], in[2 * i + 1], 2, 6, 3, 7);
  }
  PCN_ALL for (int i = 0; i < 2; ++i) {
    const Four low = half[2 * i], high = half[2 * i + 1];
    *reinterpret_cast<Anywhere*>(to + 2 * i * step) = __builtin_shufflevector(low, high, 0, 1, 4, 5);
    *reinterpret_cast<Anywhere*>(to + (2 * i + 1) * step) = __builtin_shufflevector(low, high, 2, 3, 6, 7);
  }
#else
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) to[j * step + i] = from[i * row + j];
#endif
}

void pack(const Conv& g, long begin, long end, const float* w, bool transposed, float* panels) {
  const long channels = g.c / g.groups, filters = g.k / g.groups, taps = g.r * g.s;
  const long inputs = transposed ? filters : channels, outputs = transposed ? channels : filters;
  const long in_group = up(outputs, 2 * kLanes), of_group = taps * inputs * up(outputs, kLanes) * kLanes;
  for (long panel = begin; panel < end; ++panel) {
    const long group = panel / in_group, first = panel % in_group * 2 * kLanes;
    const long width = outputs - first > kLanes ? 2 * kLanes : kLanes, some = least(width, outputs - first);
    const long length = taps * inputs, row = taps * channels, block = length / 4 * 4;
    float* to = panels + group * of_group + first * length;
    if (some < width) memset(to, 0, sizeof(float) * length * width);
    if (transposed) {
      const float* filter = w + group * filters * row + first;
      for (long tap = 0; tap < taps; ++tap)
        for (long i = 0; i < inputs; ++i, to += width)
          memcpy(to, filter + i * row + (taps - 1 - tap) * channels, sizeof(float) * some);
      continue;
    }
    const float* filter = w + (group * filters + first) * row;  // of which each is a column of the panel
    for (long i = 0; i < block; i += 4) {
      long o = 0;
      for (; o + 4 <= some; o += 4) turn(filter + o * row + i, row, to + i * width + o, width);
      for (; o < some; ++o)
        for (long j = i; j < i + 4; ++j) to[j * width + o] = filter[o * row + j];
    }
    for (long i = block; i < length; ++i)
      for (long o = 0; o < some; ++o) to[i * width + o] = filter[o * row + i];
  }
}

// Where a tile's operands are, and where its results go.
struct Tile {
  const float *x, *panel, *bias, *mask;
  float* y;
  long rows, columns, length;    // runs, and numbers in each
  long x_step, x_row, x_column;  // from an output to the next, from a run to the next
  long panel_row, panel_column, y_step;
  long filters;  // of the panel, that are any
  bool relu;
};

template <int M, int NV>
void tile(const Tile& t) {
  V sum[M][NV] = {};
  for (long row = 0; row < t.rows; ++row)
    for (long column = 0; column < t.columns; ++column) {
      const float* x[M];
      const float* f = t.panel + row * t.panel_row + column * t.panel_column;
      PCN_ALL for (int m = 0; m < M; ++m) x[m] = t.x + row * t.x_row + column * t.x_column + m * t.x_step;
      for (long l = 0; l < t.length; ++l, f += NV * kLanes) {
        V filter[NV];
        PCN_ALL for (int v = 0; v < NV; ++v) filter[v] = load(f + v * kLanes);
        PCN_ALL for (int m = 0; m < M; ++m) {
          const V pixel = every(x[m][l]);
          PCN_ALL for (int v = 0; v < NV; ++v) sum[m][v] += pixel * filter[v];
        }
      }
    }
  if (t.filters == NV * kLanes) {
    PCN_ALL for (int m = 0; m < M; ++m) {
      PCN_ALL for (int v = 0; v < NV; ++v) {
        const long at = m * t.y_step + v * kLanes;
        V y = sum[m][v];
        if (t.bias) y += load(t.bias + v * kLanes);
        if (t.relu) y = relu(y);
        if (t.mask) y = masked(y, load(t.mask + at));
        store(t.y + at, y);
      }
    }
    return;
  }
  float results[M][NV * kLanes];
  PCN_ALL for (int m = 0; m < M; ++m) {
    PCN_ALL for (int v = 0; v < NV; ++v) store(&results[m][v * kLanes], sum[m][v]);
  }
  for (int m = 0; m < M; ++m)
    for (long k = 0; k < t.filters; ++k) {
      float y = results[m][k];
      if (t.bias) y += t.bias[k];
      if (t.relu && y < 0) y = 0;
      if (t.mask && t.mask[m * t.y_step + k] <= 0) y = 0;
      t.y[m * t.y_step + k] = y;
    }
}

template <int M>
void tile_of(int outputs, bool wide, const Tile& t) {
  if (outputs == M)
    wide ? tile<M, 2>(t) : tile<M, 1>(t);
  else if constexpr (M > 1)
    tile_of<M - 1>(outputs, wide, t);
}

// The next run [start, stop) of outputs that see the same taps.
PCN_INLINE long run_end(long start, long stop, long stride, long before, long taps, long extent, Taps* seen) {
  *seen = taps_inside(start * stride - before, taps, extent);
  while (++start < stop) {
    const Taps next = taps_inside(start * stride - before, taps, extent);
    if (next.first != seen->first || next.last != seen->last) break;
  }
  return start;
}

// How many outputs the smallest tile of an axis has.
PCN_INLINE long least_tile(long extent) { return extent / up(extent, kTile); }

void correlate(const Conv& g, const Part& part, const float* x, const float* panels, const float* bias,
               bool relu, const float* mask, float* y) {
  const long channels = g.c / g.groups, filters = g.k / g.groups;
  const long panel_group = g.r * g.s * channels * up(filters, kLanes) * kLanes;
  const long row = g.w * g.c, image = g.h * row, y_row = g.q * g.k, y_image = g.p * y_row;
  const long images = part.n1 - part.n0;
  if (images == 0) return;
  for (long group = 0; group < g.groups; ++group)
    for (long first = 0; first < filters; first += 2 * kLanes) {
      const bool wide = filters - first > kLanes;
      const long width = wide ? 2 * kLanes : kLanes;
      const float* panel = panels + group * panel_group + first * g.r * g.s * channels;
      const long k0 = group * filters + first;
      Taps in_h, in_w;
      for (long p0 = part.p0, p1; p0 < part.p1; p0 = p1) {
        p1 = run_end(p0, part.p1, g.stride_h, g.top, g.r, g.h, &in_h);
        for (long q0 = 0, q1; q0 < g.q; q0 = q1) {
          q1 = run_end(q0, g.q, g.stride_w, g.left, g.s, g.w, &in_w);
          Tile t;
          t.bias = bias ? bias + k0 : nullptr;
          t.relu = relu;
          t.filters = least(width, filters - first);
          t.rows = in_w.last > in_w.first ? in_h.last - in_h.first : 0;
          const bool whole_runs = g.groups == 1;
          t.columns = whole_runs ? 1 : in_w.last - in_w.first;
          t.length = whole_runs ? (in_w.last - in_w.first) * channels : channels;
          t.x_row = row, t.x_column = g.c;
          t.panel_row = g.s * channels * width, t.panel_column = channels * width;
          t.panel = panel + (in_h.first * g.s + in_w.first) * channels * width;
          // Tiles run along the axis that they fill best; the other two are loops. A row's pixels are nearest in memory.
          struct Axis {
            long extent, x_step, y_step;
          } axis[3] = {
              {images, image, y_image}, {p1 - p0, g.stride_h * row, y_row}, {q1 - q0, g.stride_w * g.c, g.k}};
          int best = 2;
          if (least_tile(axis[2].extent) < kTile * 5 / 8)
            for (int a = 0; a < 2; ++a)
              if (least_tile(axis[a].extent) > least_tile(axis[best].extent)) best = a;
          const Axis along = axis[best], outer = axis[best == 0 ? 1 : 0], inner = axis[best == 2 ? 1 : 2];
          const long corner =
              (p0 * g.stride_h - g.top + in_h.first) * row + (q0 * g.stride_w - g.left + in_w.first) * g.c;
          const long x0 = part.n0 * image + (t.rows ? corner : 0) + group * channels;
          const long y0 = part.n0 * y_image + p0 * y_row + q0 * g.k + k0;
          const long tiles = up(along.extent, kTile);
          t.x_step = along.x_step, t.y_step = along.y_step;
          for (long o = 0; o < outer.extent; ++o)
            for (long i = 0; i < inner.extent; ++i)
              for (long b = 0; b < tiles; ++b) {
                const long start = along.extent * b / tiles, stop = along.extent * (b + 1) / tiles;
                const long at = y0 + o * outer.y_step + i * inner.y_step + start * along.y_step;
                t.x = x + x0 + (t.rows ? o * outer.x_step + i * inner.x_step + start * along.x_step : 0);
                t.y = y + at;
                t.mask = mask ? mask + at : nullptr;
                tile_of<kTile>(int(stop - start), wide, t);
              }
        }
      }
    }
}

}  // namespace
}  // namespace pcn_host
