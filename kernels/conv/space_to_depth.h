// First layers see few channels and take large strides: AlexNet's is 11x11 at stride 4 on 3 channels.
// Grouping the image into t x t pixels (t = stride) makes of it exactly a ceil(11/4) x ceil(11/4) convolution
// of stride 1 on t*t*3 = 48 channels, which the fast kernels take:
//
//   x'[n, i, j, (a*t + b)*C + c]   = x[n, t*i + a - pad_h, t*j + b - pad_w, c]     zero outside the image
//   w'[k, r', s', (a*t + b)*C + c] = w[k, t*r' + a, t*s' + b, c]                   zero beyond the filter
//   y = conv(x', w'), stride 1, no padding; x' is (P + R' - 1) x (Q + S' - 1), so every kind of padding is in
//   it.
//
// The reduction grows from 363 to 432, and x is copied once (1.04 times its size); the channels are filled up
// with zeros to a multiple of 16 bytes. Device code.
#pragma once
#include "common/device.h"
#include "common/space_to_depth.h"
#include "conv/elements.h"
#include "conv/gemm_extent.h"

namespace pcn::conv {

// Channels of the rearranged image.
inline int depth_channels(const Conv2dShape& s) {
  const int whole = s.precision == Precision::kBf16 ? PER_ACCESS<Bf16> : PER_ACCESS<float>;
  return static_cast<int>(ceil_div(std::int64_t{s.stride_h} * s.stride_h * s.c, whole) * whole);
}

// The convolution that is left to do.
inline Conv2dShape rearranged(const Conv2dShape& s) {
  const int t = s.stride_h, r = static_cast<int>(ceil_div(s.r, t)), q = static_cast<int>(ceil_div(s.s, t));
  return {s.n, s.p + r - 1, s.q + q - 1, depth_channels(s), s.k,      r,          q, s.p, s.q, 1, 1, 0, 0,
          1,   1,           s.precision, s.capability,      s.splits, s.bias_grad};
}

inline std::int64_t image_elements(const Conv2dShape& s) { return std::int64_t{s.n} * s.h * s.w * s.c; }

inline bool space_to_depth_supports(const Conv2dShape& s) {
  if (!(s.aligned != 0 && s.groups == 1 && s.c <= 4 && s.stride_h == s.stride_w && s.stride_h >= 2 &&
        s.stride_h <= 4))
    return false;
  const Conv2dShape to = rearranged(s);
  return image_elements(to) < (1ll << 31) && filter_elements(to) < (1ll << 31);
}

// Time of the copies in the units of gemm_cost: 8 bytes an element take as long as about 56 multiply-adds;
// of bfloat16 it is 4.
inline double space_to_depth_cost(const Conv2dShape& s) {
  return (s.precision == Precision::kBf16 ? 28.0 : 56.0) *
         static_cast<double>(image_elements(rearranged(s))) / kMultiprocessors;
}

// 16 bytes of x' a thread; the t*C elements of a source row are contiguous, so the reads of a warp fill whole
// sectors. Each element is read and written once: bound by memory.
template <class E>
__global__ void __launch_bounds__(256)
    image_to_depth_kernel(E* __restrict__ to, const E* __restrict__ x, const Conv2dShape s, int to_h,
                          int to_w, int to_c, int threads) {
  const long long at = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  if (at >= threads) return;
  constexpr int COUNT = PER_ACCESS<E>;
  const int index = static_cast<int>(at) * COUNT, t = s.stride_h;
  const int c0 = index % to_c, pixel = index / to_c;
  const int j = pixel % to_w, i = pixel / to_w % to_h, n = pixel / to_w / to_h;
  float v[COUNT];
  PCN_UNROLL
  for (int e = 0; e < COUNT; ++e) {
    const DepthChannel at = DepthChannel::of(c0 + e, s.c, t);
    const int h = t * i + at.a - s.pad_h, w = t * j + at.b - s.pad_w;
    float pixel[1] = {0.f};
    if (at.inside(t, h, w, s.h, s.w))
      load_constant(pixel, x + (static_cast<unsigned>(n * s.h + h) * s.w + w) * s.c + at.c);
    v[e] = pixel[0];
  }
  store_run(to + index, v);
}

template <class E>
cudaError_t image_to_depth(const char* stem, E* to, const E* x, const Conv2dShape& s, cudaStream_t stream) {
  const Conv2dShape shape = rearranged(s);
  const int threads = static_cast<int>(image_elements(shape) / PER_ACCESS<E>);
  const dim3 grid(static_cast<unsigned>(ceil_div(threads, 256)));
  return launch(stem, image_to_depth_kernel<E>, grid, dim3(256), 0, stream, to, x, s, shape.h, shape.w,
                shape.c, threads);
}

inline DepthFilters depth_filters(const Conv2dShape& s) {
  const Conv2dShape to = rearranged(s);
  return {s.r, s.s, s.c, s.stride_h, to.r, to.s, to.c};
}

// The cheapest of some kernels for a shape; the first supports every rearranged one.
template <class Launch>
struct Candidate {
  const Conv2dTraits& traits;
  Launch* launch;
};
template <class Launch, int COUNT>
const Candidate<Launch>& cheapest(const Candidate<Launch> (&candidates)[COUNT], const Conv2dShape& shape) {
  const Candidate<Launch>* best = candidates;
  for (const Candidate<Launch>& candidate : candidates)
    if (candidate.traits.supports(shape) && candidate.traits.cost(shape) < best->traits.cost(shape))
      best = &candidate;
  return *best;
}

}  // namespace pcn::conv
