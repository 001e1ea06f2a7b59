// The body of the kernels that write crops in the depth layout, t = side:
//   y[n, i, j, (a t + b) C + c] = crop[n, t i + a - pad_h, t j + b - pad_w, c]
// with the crop's element as in gather.h, and 0 outside the crop and in the channels beyond t t C. A
// convolution of stride t over the crop is one of stride 1 over y (kernels/space_to_depth/space_to_depth.h), which so finds its
// input as it wants it.
//
// A thread makes 16 bytes of one pixel of y: its channels run along the rows of a block of t x t pixels of
// the crop, so that neighbouring threads read neighbouring pixels (backwards where the image is mirrored).
#pragma once
#include "augment/gather.h"

namespace pcn::augmentation {

// CHANNELS, SIDE: known to the compiler, or 0 where the shape says.
template <class T, class Source, int CHANNELS, int SIDE>
__global__ void __launch_bounds__(THREADS)
    to_depth_kernel(T* __restrict__ y, Arrays<Source> from, AugmentShape shape, unsigned count, int vectors) {
  constexpr int RUN = PER_ACCESS<T>;
  const unsigned first = (blockIdx.x * THREADS + threadIdx.x) * RUN;
  if (first >= count) return;
  const int channels = CHANNELS ? CHANNELS : shape.c, side = SIDE ? SIDE : shape.side;
  const unsigned pixel = first / shape.to_c, line = pixel / shape.to_w;
  const int n = line / shape.to_h;
  const int top = static_cast<int>(line - n * shape.to_h) * side - shape.pad_h;
  const int left = static_cast<int>(pixel - line * shape.to_w) * side - shape.pad_w;
  const int depth = first - pixel * shape.to_c, tap = depth / channels;
  int c = depth - tap * channels, a = tap / side, b = tap - a * side;

  float value[RUN];
  PCN_UNROLL
  for (int e = 0; e < RUN; ++e) {
    const int i = top + a, j = left + b;
    const bool inside = a < side && static_cast<unsigned>(i) < static_cast<unsigned>(shape.crop_h) &&
                        static_cast<unsigned>(j) < static_cast<unsigned>(shape.crop_w);
    value[e] = inside ? value_of(from, shape, channels, n, i, j, c) : 0.f;
    if (++c == channels) {
      c = 0;
      if (++b == side) {
        b = 0;
        ++a;
      }
    }
  }
  if (vectors) {
    store_run(y + first, value);
  } else {
    PCN_UNROLL
    for (int e = 0; e < RUN; ++e) y[first + e] = narrow<T>(value[e]);
  }
}

template <int CHANNELS, int SIDE, class T>
cudaError_t run_to_depth(const char* stem, T* y, const void* images, bool bytes, const std::int32_t* crop,
                         const std::uint8_t* mirror, const float* colour, const float* mean, float scale,
                         const AugmentShape& shape, cudaStream_t stream) {
  const unsigned count = static_cast<unsigned>(shape.n) * shape.to_h * shape.to_w * shape.to_c;
  const unsigned threads = count / PER_ACCESS<T>;
  const dim3 grid((threads + THREADS - 1) / THREADS);
  const int vectors = reinterpret_cast<std::uintptr_t>(y) % 16 == 0;
  if (bytes) {
    const Arrays<std::uint8_t> from = {
        static_cast<const std::uint8_t*>(images), crop, mirror, colour, mean, scale};
    return launch(stem, to_depth_kernel<T, std::uint8_t, CHANNELS, SIDE>, grid, dim3(THREADS), 0, stream, y,
                  from, shape, count, vectors);
  }
  const Arrays<float> from = {static_cast<const float*>(images), crop, mirror, colour, mean, scale};
  return launch(stem, to_depth_kernel<T, float, CHANNELS, SIDE>, grid, dim3(THREADS), 0, stream, y, from,
                shape, count, vectors);
}

}  // namespace pcn::augmentation
