// The body of the kernels that write crops in the depth layout (common/space_to_depth.h), t = side, with the
// crop's element as in gather.h. A convolution of stride t over the crop is one of stride 1 over y, and so
// finds its input as it wants it.
//
// A thread makes 16 bytes of one pixel of y: its channels run along the rows of a block of t x t pixels of
// the crop, so that neighbouring threads read neighbouring pixels (backwards where the image is mirrored).
#pragma once
#include "augment/gather.h"
#include "common/space_to_depth.h"

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
  DepthChannel at = DepthChannel::of(first - pixel * shape.to_c, channels, side);

  float value[RUN];
  PCN_UNROLL
  for (int e = 0; e < RUN; ++e) {
    const int i = top + at.a, j = left + at.b;
    const bool inside = at.inside(side, i, j, shape.crop_h, shape.crop_w);
    value[e] = inside ? value_of(from, shape, channels, n, i, j, at.c) : 0.f;
    at.advance(channels, side);
  }
  if (vectors) {
    store_run(y + first, value);
  } else {
    PCN_UNROLL
    for (int e = 0; e < RUN; ++e) y[first + e] = narrow<T>(value[e]);
  }
}

template <int CHANNELS, int SIDE, class T>
cudaError_t run_to_depth(const char* stem, T* y, const void* images, bool bytes, const std::int32_t* indices,
                         const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                         const float* mean, float scale, const AugmentShape& shape, cudaStream_t stream) {
  const unsigned count = static_cast<unsigned>(shape.n) * shape.to_h * shape.to_w * shape.to_c;
  const unsigned threads = count / PER_ACCESS<T>;
  const dim3 grid((threads + THREADS - 1) / THREADS);
  const int vectors = reinterpret_cast<std::uintptr_t>(y) % 16 == 0;
  if (bytes) {
    const Arrays<std::uint8_t> from = {
        static_cast<const std::uint8_t*>(images), indices, crop, mirror, colour, mean, scale};
    return launch(stem, to_depth_kernel<T, std::uint8_t, CHANNELS, SIDE>, grid, dim3(THREADS), 0, stream, y,
                  from, shape, count, vectors);
  }
  const Arrays<float> from = {static_cast<const float*>(images), indices, crop, mirror, colour, mean, scale};
  return launch(stem, to_depth_kernel<T, float, CHANNELS, SIDE>, grid, dim3(THREADS), 0, stream, y, from,
                shape, count, vectors);
}

}  // namespace pcn::augmentation
