// The norm family: local response normalisation across channels (the paper's) and across pixels, both
// directions.
//   scale = k + alpha * (sum of x^2 over a window)     y = x * scale^-beta
//   dx = dy * scale^-beta - 2 alpha beta x * (sum of dy * y / scale over the windows that hold x)
// A window of `size` elements reaches size / 2 back and size - 1 - size / 2 ahead, and is cut off at the
// edge; seen from an element, the windows that hold it reach the other way round. Channels last, bound by
// memory. x, y, dy and dx have elements T, float or Bf16, one type for all of a call, scale is float; every
// launcher exists for both types, and so do the tables. Kernels compute in float and round once, where they
// store.
//
// A backward kernel may work out y = x * scale^-beta anew instead of reading it: 16 bytes of traffic an
// element, not 20; 10 in bfloat16, where all kernels do, since y has been rounded.
//
// relu, in the backward kernels: x came out of a ReLU, and dx is the gradient of what went into it: zero
// where x is not positive, exactly as relu_backward makes it.
//
// lrn_max_pool2d is the maximum over windows of pixels of what lrn makes of x, and lrn_max_pool2d_backward
// its gradient, without the maps between: y, scale and their gradients exist in registers alone. Bytes of
// traffic a channel and image with h*w pixels and p*q windows, each array moved once:
//   lrn then max_pool2d                     16*h*w + 5*p*q    fused 4*h*w + 5*p*q
//   max_pool2d_backward then lrn_backward   20*h*w + 5*p*q    fused 8*h*w + 5*p*q
// AlexNet, a training step (forward and backward): 55x55 -> 27x27 116190 -> 43590 bytes a channel (2.7 times
// less), 27x27 -> 13x13 27934 -> 10438 (2.7 times less): 11.45 MB less an image with 96 and 256 channels.
// In bfloat16 x, y, dx and dy move half of it (lrn's scale all of it).
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

template <class T>
using LrnFn = cudaError_t(T* y, float* scale, const T* x, float alpha, float beta, float k,
                          const LrnShape& shape, cudaStream_t stream);
template <class T>
using LrnBackwardFn = cudaError_t(T* dx, const T* dy, const T* x, const T* y, const float* scale, float alpha,
                                  float beta, bool relu, const LrnShape& shape, cudaStream_t stream);
template <class T>
using LrnSpatialFn = cudaError_t(T* y, float* scale, const T* x, float alpha, float beta, float k,
                                 const LrnSpatialShape& shape, cudaStream_t stream);
template <class T>
using LrnSpatialBackwardFn = cudaError_t(T* dx, const T* dy, const T* x, const T* y, const float* scale,
                                         float alpha, float beta, const LrnSpatialShape& shape,
                                         cudaStream_t stream);
template <class T>
using LrnMaxPool2dFn = cudaError_t(T* y, void* argmax, const T* x, float alpha, float beta, float k,
                                   const LrnMaxPool2dShape& shape, cudaStream_t stream);
template <class T>
using LrnMaxPool2dBackwardFn = cudaError_t(T* dx, const T* dy, const void* argmax, const T* x, float alpha,
                                           float beta, float k, bool relu, const LrnMaxPool2dShape& shape,
                                           cudaStream_t stream);
template <class T>
using LrnRow = KernelRow<LrnShape, LrnFn<T>>;
template <class T>
using LrnBackwardRow = KernelRow<LrnShape, LrnBackwardFn<T>>;
template <class T>
using LrnSpatialRow = KernelRow<LrnSpatialShape, LrnSpatialFn<T>>;
template <class T>
using LrnSpatialBackwardRow = KernelRow<LrnSpatialShape, LrnSpatialBackwardFn<T>>;
template <class T>
using LrnMaxPool2dRow = KernelRow<LrnMaxPool2dShape, LrnMaxPool2dFn<T>>;
template <class T>
using LrnMaxPool2dBackwardRow = KernelRow<LrnMaxPool2dShape, LrnMaxPool2dBackwardFn<T>>;

template <class T>
cudaError_t lrn_shuffle(T* y, float* scale, const T* x, float alpha, float beta, float k,
                        const LrnShape& shape, cudaStream_t stream);
bool lrn_shuffle_supports(const LrnShape& shape);
template <class T>
cudaError_t lrn_shared(T* y, float* scale, const T* x, float alpha, float beta, float k,
                       const LrnShape& shape, cudaStream_t stream);
bool lrn_shared_supports(const LrnShape& shape);
template <class T>
cudaError_t lrn_generic(T* y, float* scale, const T* x, float alpha, float beta, float k,
                        const LrnShape& shape, cudaStream_t stream);
template <class T>
cudaError_t lrn_backward_shuffle(T* dx, const T* dy, const T* x, const T* y, const float* scale, float alpha,
                                 float beta, bool relu, const LrnShape& shape, cudaStream_t stream);
bool lrn_backward_shuffle_supports(const LrnShape& shape);
template <class T>
cudaError_t lrn_backward_shared(T* dx, const T* dy, const T* x, const T* y, const float* scale, float alpha,
                                float beta, bool relu, const LrnShape& shape, cudaStream_t stream);
bool lrn_backward_shared_supports(const LrnShape& shape);
template <class T>
cudaError_t lrn_backward_generic(T* dx, const T* dy, const T* x, const T* y, const float* scale, float alpha,
                                 float beta, bool relu, const LrnShape& shape, cudaStream_t stream);
template <class T>
cudaError_t lrn_spatial_march(T* y, float* scale, const T* x, float alpha, float beta, float k,
                              const LrnSpatialShape& shape, cudaStream_t stream);
bool lrn_spatial_march_supports(const LrnSpatialShape& shape);
template <class T>
cudaError_t lrn_spatial_generic(T* y, float* scale, const T* x, float alpha, float beta, float k,
                                const LrnSpatialShape& shape, cudaStream_t stream);
template <class T>
cudaError_t lrn_spatial_backward_march(T* dx, const T* dy, const T* x, const T* y, const float* scale,
                                       float alpha, float beta, const LrnSpatialShape& shape,
                                       cudaStream_t stream);
bool lrn_spatial_backward_march_supports(const LrnSpatialShape& shape);
template <class T>
cudaError_t lrn_spatial_backward_generic(T* dx, const T* dy, const T* x, const T* y, const float* scale,
                                         float alpha, float beta, const LrnSpatialShape& shape,
                                         cudaStream_t stream);
template <class T>
cudaError_t lrn_max_pool2d_march(T* y, void* argmax, const T* x, float alpha, float beta, float k,
                                 const LrnMaxPool2dShape& shape, cudaStream_t stream);
bool lrn_max_pool2d_march_supports(const LrnMaxPool2dShape& shape);
template <class T>
cudaError_t lrn_max_pool2d_generic(T* y, void* argmax, const T* x, float alpha, float beta, float k,
                                   const LrnMaxPool2dShape& shape, cudaStream_t stream);
template <class T>
cudaError_t lrn_max_pool2d_backward_march(T* dx, const T* dy, const void* argmax, const T* x, float alpha,
                                          float beta, float k, bool relu, const LrnMaxPool2dShape& shape,
                                          cudaStream_t stream);
bool lrn_max_pool2d_backward_march_supports(const LrnMaxPool2dShape& shape);
template <class T>
cudaError_t lrn_max_pool2d_backward_generic(T* dx, const T* dy, const void* argmax, const T* x, float alpha,
                                            float beta, float k, bool relu, const LrnMaxPool2dShape& shape,
                                            cudaStream_t stream);

template <class T>
KernelTable<LrnRow<T>> lrn_kernels();
template <class T>
KernelTable<LrnBackwardRow<T>> lrn_backward_kernels();
template <class T>
KernelTable<LrnSpatialRow<T>> lrn_spatial_kernels();
template <class T>
KernelTable<LrnSpatialBackwardRow<T>> lrn_spatial_backward_kernels();
template <class T>
KernelTable<LrnMaxPool2dRow<T>> lrn_max_pool2d_kernels();
template <class T>
KernelTable<LrnMaxPool2dBackwardRow<T>> lrn_max_pool2d_backward_kernels();

}  // namespace pcn
