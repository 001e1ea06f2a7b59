// The depth layout: t x t pixels, t the stride of a convolution, become the channels of one pixel, and the
// convolution one of stride 1:
//   y[n, i, j, (a t + b) C + c] = x[n, t i + a - pad_h, t j + b - pad_w, c], 0 outside the image
//   to[k, r', s', (a t + b) C + c] = w[k, t r' + a, t s' + b, c], 0 beyond the filter: an image without
//   padding
// and 0 in the channels beyond t t C, which fill whole accesses. Every kernel that writes or reads the layout
// takes its indices from here. Device code.
#pragma once
#include "common/device.h"
#include "common/element.h"

namespace pcn {

// Channel (a t + b) C + c of a pixel of the depth layout.
struct DepthChannel {
  int a, b, c;

  static PCN_FN DepthChannel of(int channel, int channels, int side) {
    const int tap = channel / channels, a = tap / side;
    return {a, tap - a * side, channel % channels};
  }
  PCN_FN void advance(int channels, int side) {  // to the next channel
    if (++c == channels) {
      c = 0;
      if (++b == side) {
        b = 0;
        ++a;
      }
    }
  }
  // A channel that stands for pixel (h, w) of an image, and not for what fills the layout up. Positions
  // before the image are far outside as unsigned.
  PCN_FN bool inside(int side, int h, int w, int height, int width) const {
    return a < side && static_cast<unsigned>(h) < static_cast<unsigned>(height) &&
           static_cast<unsigned>(w) < static_cast<unsigned>(width);
  }
};

// Filters w (K, R, S, C) and where their elements stand in the depth layout, (K, to_r, to_s, to_c).
struct DepthFilters {
  int r, s, c;
  int side;  // t
  int to_r, to_s, to_c;

  // Of an element of the layout: its offset in w, or -1 where it fills up.
  PCN_FN int plain_of(unsigned index) const {
    const int place = index / to_c, line = place / to_s, k = line / to_r;
    const DepthChannel at = DepthChannel::of(index - place * to_c, c, side);
    const int h = (line - k * to_r) * side + at.a, w = (place - line * to_s) * side + at.b;
    return at.inside(side, h, w, r, s) ? ((k * r + h) * s + w) * c + at.c : -1;
  }
  // Of an element of w: its offset in the layout.
  PCN_FN int depth_of(unsigned index) const {
    const int place = index / c, line = place / s, k = line / r;
    const int h = line - k * r, w = place - line * s;
    const int channel = (h % side * side + w % side) * c + (index - place * c);
    return ((k * to_r + h / side) * to_s + w / side) * to_c + channel;
  }
};

// The kernels that rearrange filters: a thread an element of the result, so that neighbours write neighbours
// and read runs of t C. A few hundred kilobytes: bound by latency.
constexpr int FILTERS_THREADS = 256;

template <class T>
__global__ void __launch_bounds__(FILTERS_THREADS)
    filters_to_depth_kernel(T* __restrict__ to, const T* __restrict__ w, DepthFilters filters,
                            unsigned count) {
  const unsigned index = blockIdx.x * FILTERS_THREADS + threadIdx.x;
  if (index >= count) return;
  const int plain = filters.plain_of(index);
  to[index] = plain >= 0 ? w[plain] : narrow<T>(0.f);
}

// What stands where the layout is filled up is dropped.
template <int = 0>  // a template, so that several files may include it
__global__ void __launch_bounds__(FILTERS_THREADS)
    filters_from_depth_kernel(float* __restrict__ dw, const float* __restrict__ from, DepthFilters filters,
                              unsigned count) {
  const unsigned index = blockIdx.x * FILTERS_THREADS + threadIdx.x;
  if (index < count) dw[index] = __ldg(from + filters.depth_of(index));
}

template <class T>
cudaError_t filters_to_depth(const char* stem, T* to, const T* w, const DepthFilters& filters, unsigned count,
                             cudaStream_t stream) {
  const dim3 grid((count + FILTERS_THREADS - 1) / FILTERS_THREADS);
  return launch(stem, filters_to_depth_kernel<T>, grid, dim3(FILTERS_THREADS), 0, stream, to, w, filters,
                count);
}
template <int = 0>  // compiled where it is called
cudaError_t filters_from_depth(const char* stem, float* dw, const float* from, const DepthFilters& filters,
                               unsigned count, cudaStream_t stream) {
  const dim3 grid((count + FILTERS_THREADS - 1) / FILTERS_THREADS);
  return launch(stem, filters_from_depth_kernel<>, grid, dim3(FILTERS_THREADS), 0, stream, dw, from, filters,
                count);
}

}  // namespace pcn
