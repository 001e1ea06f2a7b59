// The norm family: local response normalisation across channels (the paper's) and across pixels, both
// directions.
//   scale = k + alpha * (sum of x^2 over a window)     y = x * scale^-beta
//   dx = dy * scale^-beta - 2 alpha beta x * (sum of dy * y / scale over the windows that hold x)
// A window of `size` elements reaches size / 2 back and size - 1 - size / 2 ahead, and is cut off at the
// edge; seen from an element, the windows that hold it reach the other way round. float32, channels last,
// bound by memory.
//
// A backward kernel may work out y = x * scale^-beta anew instead of reading it: 16 bytes of traffic an
// element, not 20.
//
// lrn_max_pool2d is the maximum over windows of pixels of what lrn makes of x, and lrn_max_pool2d_backward
// its gradient, without the maps between: y, scale and their gradients exist in registers alone. Bytes of
// traffic a channel and image with h*w pixels and p*q windows, each array moved once:
//   lrn then max_pool2d                     16*h*w + 5*p*q    fused 4*h*w + 5*p*q
//   max_pool2d_backward then lrn_backward   20*h*w + 5*p*q    fused 8*h*w + 5*p*q
// AlexNet, a training step (forward and backward): 55x55 -> 27x27 116190 -> 43590 bytes a channel (2.7 times
// less), 27x27 -> 13x13 27934 -> 10438 (2.7 times less): 11.45 MB less an image with 96 and 256 channels.
// Computed from the shapes, not measured.
#pragma once
#include "common/types.h"

namespace pcn {

// x, y, scale, dy, dx (n rows of c channels); a window stays inside its group of c / groups channels.
struct LrnShape {
  int n, c;
  int size, groups;
};
// x, y, scale, dy, dx (n,h,w,c); a window is size x size pixels of one channel.
struct LrnSpatialShape {
  int n, h, w, c;
  int size;
};

// x, dx (n,h,w,c) and y, argmax, dy (n,p,q,c): a normalisation over windows of lrn_size channels inside a
// group, then the maximum over windows of r x s pixels, which hold at least one pixel of the image; pad_h and
// pad_w are the padding above and to the left, the number of windows p x q implies the rest.
struct LrnMaxPool2dShape {
  int n, h, w, c;
  int lrn_size, groups;
  int r, s;
  int p, q;
  int stride_h, stride_w;
  int pad_h, pad_w;
};

// argmax holds the position r*S + s inside the window: uint8 where every position fits, else int32.
constexpr bool argmax_is_byte(const LrnMaxPool2dShape& shape) {
  return static_cast<long long>(shape.r) * shape.s <= 255;
}

using LrnFn = cudaError_t(float* y, float* scale, const float* x, float alpha, float beta, float k,
                          const LrnShape& shape, cudaStream_t stream);
using LrnBackwardFn = cudaError_t(float* dx, const float* dy, const float* x, const float* y,
                                  const float* scale, float alpha, float beta, const LrnShape& shape,
                                  cudaStream_t stream);
using LrnSpatialFn = cudaError_t(float* y, float* scale, const float* x, float alpha, float beta, float k,
                                 const LrnSpatialShape& shape, cudaStream_t stream);
using LrnSpatialBackwardFn = cudaError_t(float* dx, const float* dy, const float* x, const float* y,
                                         const float* scale, float alpha, float beta,
                                         const LrnSpatialShape& shape, cudaStream_t stream);
using LrnMaxPool2dFn = cudaError_t(float* y, void* argmax, const float* x, float alpha, float beta, float k,
                                   const LrnMaxPool2dShape& shape, cudaStream_t stream);
using LrnMaxPool2dBackwardFn = cudaError_t(float* dx, const float* dy, const void* argmax, const float* x,
                                           float alpha, float beta, float k, const LrnMaxPool2dShape& shape,
                                           cudaStream_t stream);
using LrnRow = KernelRow<LrnShape, LrnFn>;
using LrnBackwardRow = KernelRow<LrnShape, LrnBackwardFn>;
using LrnSpatialRow = KernelRow<LrnSpatialShape, LrnSpatialFn>;
using LrnSpatialBackwardRow = KernelRow<LrnSpatialShape, LrnSpatialBackwardFn>;
using LrnMaxPool2dRow = KernelRow<LrnMaxPool2dShape, LrnMaxPool2dFn>;
using LrnMaxPool2dBackwardRow = KernelRow<LrnMaxPool2dShape, LrnMaxPool2dBackwardFn>;

LrnFn lrn_shuffle, lrn_shared, lrn_generic;
bool lrn_shuffle_supports(const LrnShape& shape);
bool lrn_shared_supports(const LrnShape& shape);
LrnBackwardFn lrn_backward_shuffle, lrn_backward_shared, lrn_backward_generic;
bool lrn_backward_shuffle_supports(const LrnShape& shape);
bool lrn_backward_shared_supports(const LrnShape& shape);
LrnSpatialFn lrn_spatial_march, lrn_spatial_generic;
bool lrn_spatial_march_supports(const LrnSpatialShape& shape);
LrnSpatialBackwardFn lrn_spatial_backward_march, lrn_spatial_backward_generic;
bool lrn_spatial_backward_march_supports(const LrnSpatialShape& shape);
LrnMaxPool2dFn lrn_max_pool2d_march, lrn_max_pool2d_generic;
bool lrn_max_pool2d_march_supports(const LrnMaxPool2dShape& shape);
LrnMaxPool2dBackwardFn lrn_max_pool2d_backward_march, lrn_max_pool2d_backward_generic;
bool lrn_max_pool2d_backward_march_supports(const LrnMaxPool2dShape& shape);

KernelTable<LrnRow> lrn_kernels();
KernelTable<LrnBackwardRow> lrn_backward_kernels();
KernelTable<LrnSpatialRow> lrn_spatial_kernels();
KernelTable<LrnSpatialBackwardRow> lrn_spatial_backward_kernels();
KernelTable<LrnMaxPool2dRow> lrn_max_pool2d_kernels();
KernelTable<LrnMaxPool2dBackwardRow> lrn_max_pool2d_backward_kernels();

}  // namespace pcn
