// From images to the input of a network: crop, mirror image, mean, colour, scale, each rounded before the next.
#pragma once

#include "host/vector.h"

namespace pcn_host {
namespace {

template <typename T>
PCN_INLINE void widen(const T* __restrict from, long count, float* __restrict to) {
  for (long i = 0; i < count; ++i) to[i] = float(from[i]);
}

template <typename T>
PCN_INLINE void centre(const T* __restrict from, const float* __restrict mean, long count,
                       float* __restrict to) {
  for (long i = 0; i < count; ++i) to[i] = float(from[i]) - mean[i];
}

PCN_INLINE void reverse(const float* __restrict from, long pixels, long channels, float* __restrict to) {
  for (long i = 0; i < pixels; ++i)
    for (long c = 0; c < channels; ++c) to[i * channels + c] = from[(pixels - 1 - i) * channels + c];
}

// A pixel's channels, over and over.
PCN_INLINE void repeat(const float* pixel, long pixels, long channels, float* to) {
  for (long i = 0; i < pixels; ++i)
    for (long c = 0; c < channels; ++c) to[i * channels + c] = pixel[c];
}

template <typename T>
void augment_of(const Crops& g, long n0, long n1, const T* images, const int* indices, const int* crop,
                const unsigned char* mirror, const float* colour, const float* mean, float scale, float* room,
                float* y) {
  const long row = g.crop_w * g.c;
  float *line = room, *pixel = line + row, *shift = pixel + row;
  const bool of_pixel = g.mean_pixels == 1, of_image = g.mean_pixels > 1;
  if (of_pixel) repeat(mean, g.crop_w, g.c, pixel);
  for (long n = n0; n < n1; ++n) {
    // Whoever calls has looked at indices and crops; here none leaves the images, or its image, whatever it says.
    const long image = indices ? least(most(indices[n], 0), g.images - 1) : n;
    const long top = crop ? least(most(crop[2 * n], 0), g.h - g.crop_h) : 0;
    const long left = crop ? least(most(crop[2 * n + 1], 0), g.w - g.crop_w) : 0;
    const bool mirrored = mirror && mirror[n];
    if (colour) repeat(colour + n * g.c, g.crop_w, g.c, shift);
    for (long h = 0; h < g.crop_h; ++h) {
      const long corner = ((top + h) * g.w + left) * g.c;
      const T* from = images + image * g.h * g.w * g.c + corner;
      float* to = y + (n * g.crop_h + h) * row;
      float* centred = mirrored ? line : to;
      if (of_image)
        centre(from, mean + corner, row, centred);
      else
        widen(from, row, centred);
      if (mirrored && g.c == 3)
        reverse(line, g.crop_w, 3, to);
      else if (mirrored)
        reverse(line, g.crop_w, g.c, to);
      if (of_pixel)
        for (long i = 0; i < row; ++i) to[i] -= pixel[i];
      if (colour)
        for (long i = 0; i < row; ++i) to[i] += shift[i];
      if (scale != 1)
        for (long i = 0; i < row; ++i) to[i] *= scale;
    }
  }
}

void augment(const Crops& g, long n0, long n1, const unsigned char* bytes, const float* floats,
             const int* indices, const int* crop, const unsigned char* mirror, const float* colour,
             const float* mean, float scale, float* room, float* y) {
  if (bytes)
    augment_of(g, n0, n1, bytes, indices, crop, mirror, colour, mean, scale, room, y);
  else
    augment_of(g, n0, n1, floats, indices, crop, mirror, colour, mean, scale, room, y);
}

}  // namespace
}  // namespace pcn_host
