// The value of an element, and the body of the kernels whose result is images:
//   y[n, i, j, c] = (images[k, top_n + i, left_n + j', c] - mean[…, c] + colour[n, c]) * scale
//   with j' = mirror_n ? crop_w - 1 - j : j
// with k = indices ? indices[n] : n, and the mean of the source pixel. A source pixel outside its image, or a k
// that is no image (crops and indices lie in device memory and cannot be checked beforehand), gives NaN.
//
// A thread makes four elements that follow each other in y, wherever they fall in pixels and rows: the
// stores, most of the traffic from bytes, are whole vectors, and neighbouring threads read
// neighbouring bytes. The position of the first element costs three divisions; the others follow by counting
// on.
#pragma once
#include "augment/augment.h"
#include "common/device.h"
#include "common/element.h"

namespace pcn::augmentation {

constexpr int THREADS = 256;
constexpr int PER_THREAD = 4;

template <class Source>
struct Arrays {
  const Source* images;
  const std::int32_t* indices;
  const std::int32_t* crop;
  const std::uint8_t* mirror;
  const float* colour;
  const float* mean;
  float scale;
};

// Element (n, i, j, c) of the crops.
template <class Source>
PCN_FN float value_of(const Arrays<Source>& from, const AugmentShape& shape, int channels, int n, int i,
                      int j, int c) {
  // Unsigned: negative positions are far outside, and no corner, however wild, overflows.
  const unsigned top = from.crop ? __ldg(from.crop + 2 * n) : 0,
                 left = from.crop ? __ldg(from.crop + 2 * n + 1) : 0;
  const unsigned row = top + i;
  const unsigned col = left + (from.mirror && __ldg(from.mirror + n) ? shape.crop_w - 1 - j : j);
  const unsigned image = from.indices ? __ldg(from.indices + n) : n;
  if (row >= static_cast<unsigned>(shape.h) || col >= static_cast<unsigned>(shape.w) ||
      image >= static_cast<unsigned>(shape.images))
    return NAN;
  const long long source = static_cast<long long>(row) * shape.w + col;  // pixel inside its image
  float v = __ldg(from.images + (static_cast<long long>(image) * shape.h * shape.w + source) * channels + c);
  if (from.mean) v -= __ldg(from.mean + (shape.mean_pixels == 1 ? 0 : source * channels) + c);
  if (from.colour) v += __ldg(from.colour + static_cast<long long>(n) * channels + c);
  return v * from.scale;
}

// CHANNELS: 3, or 0 where shape.c says.
template <class T, class Source, int CHANNELS>
__global__ void __launch_bounds__(THREADS)
    augment_kernel(T* __restrict__ y, Arrays<Source> from, AugmentShape shape, unsigned count, int vectors) {
  const unsigned first = (blockIdx.x * THREADS + threadIdx.x) * PER_THREAD;
  if (first >= count) return;
  const int channels = CHANNELS ? CHANNELS : shape.c;
  const unsigned pixel = first / channels, line = pixel / shape.crop_w;
  int c = first - pixel * channels;
  int j = pixel - line * shape.crop_w;
  int n = line / shape.crop_h;
  int i = line - n * shape.crop_h;

  float value[PER_THREAD] = {0.f, 0.f, 0.f, 0.f};
  const unsigned left = count - first;
  PCN_UNROLL
  for (int e = 0; e < PER_THREAD; ++e) {
    if (static_cast<unsigned>(e) < left) {
      value[e] = value_of(from, shape, channels, n, i, j, c);
      if (++c == channels) {
        c = 0;
        if (++j == shape.crop_w) {
          j = 0;
          if (++i == shape.crop_h) {
            i = 0;
            ++n;
          }
        }
      }
    }
  }
  if (vectors && left >= PER_THREAD) {
    store_run(y + first, value);
  } else {
    PCN_UNROLL
    for (int e = 0; e < PER_THREAD; ++e)
      if (static_cast<unsigned>(e) < left) y[first + e] = narrow<T>(value[e]);
  }
}

template <int CHANNELS, class T>
cudaError_t run(const char* stem, T* y, const void* images, bool bytes, const std::int32_t* indices,
                const std::int32_t* crop, const std::uint8_t* mirror, const float* colour, const float* mean,
                float scale, const AugmentShape& shape, cudaStream_t stream) {
  const unsigned count = static_cast<unsigned>(shape.n) * shape.crop_h * shape.crop_w * shape.c;
  const unsigned threads = (count + PER_THREAD - 1) / PER_THREAD;
  const dim3 grid((threads + THREADS - 1) / THREADS);
  const int vectors = reinterpret_cast<std::uintptr_t>(y) % (PER_THREAD * sizeof(T)) == 0;
  if (bytes) {
    const Arrays<std::uint8_t> from = {
        static_cast<const std::uint8_t*>(images), indices, crop, mirror, colour, mean, scale};
    return launch(stem, augment_kernel<T, std::uint8_t, CHANNELS>, grid, dim3(THREADS), 0, stream, y, from,
                  shape, count, vectors);
  }
  const Arrays<float> from = {static_cast<const float*>(images), indices, crop, mirror, colour, mean, scale};
  return launch(stem, augment_kernel<T, float, CHANNELS>, grid, dim3(THREADS), 0, stream, y, from, shape,
                count, vectors);
}

}  // namespace pcn::augmentation
