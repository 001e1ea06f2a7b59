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
using LrnRow = KernelRow<LrnShape, LrnFn>;
using LrnBackwardRow = KernelRow<LrnShape, LrnBackwardFn>;
using LrnSpatialRow = KernelRow<LrnSpatialShape, LrnSpatialFn>;
using LrnSpatialBackwardRow = KernelRow<LrnSpatialShape, LrnSpatialBackwardFn>;

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

KernelTable<LrnRow> lrn_kernels();
KernelTable<LrnBackwardRow> lrn_backward_kernels();
KernelTable<LrnSpatialRow> lrn_spatial_kernels();
KernelTable<LrnSpatialBackwardRow> lrn_spatial_backward_kernels();

}  // namespace pcn
