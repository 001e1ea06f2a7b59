// The pool family: maximum and average over windows of pixels, both directions. Channels last, bound by
// memory. Arrays have elements T, float or Bf16, one type for all of a call; every launcher exists for both,
// and so do the tables. Kernels compute in float and round once, where they store. A window may hang over any
// edge of the image but holds at least one of its pixels; what is outside takes no part.
#pragma once
#include "common/types.h"

namespace pcn {

// x (n,h,w,c) and y (n,p,q,c); windows of r x s pixels; pad_h and pad_w are the padding above and to the
// left, the number of windows p x q implies the rest.
struct Pool2dShape {
  int n, h, w, c;
  int r, s;
  int p, q;
  int stride_h, stride_w;
  int pad_h, pad_w;
};

// How far outside the image pixels count in an average's divisor: nowhere (all zero), or inside the padding.
struct CountedPadding {
  int top, bottom, left, right;
};

// argmax holds the position r*S + s inside the window: uint8 where every position fits, else int32.
constexpr bool argmax_is_byte(const Pool2dShape& shape) {
  return static_cast<long long>(shape.r) * shape.s <= 255;
}

// The backward launchers' mask (n,h,w,c) may be null. Else x came out of a ReLU, which is mask, and dx is the
// gradient of what went into it: zero where mask is not positive, exactly as relu_backward makes it.
template <class T>
using MaxPool2dFn = cudaError_t(T* y, void* argmax, const T* x, const Pool2dShape& shape,
                                cudaStream_t stream);
template <class T>
using MaxPool2dBackwardFn = cudaError_t(T* dx, const T* dy, const void* argmax, const T* mask,
                                        const Pool2dShape& shape, cudaStream_t stream);
template <class T>
using AvgPool2dFn = cudaError_t(T* y, const T* x, const CountedPadding& counted, const Pool2dShape& shape,
                                cudaStream_t stream);
template <class T>
using AvgPool2dBackwardFn = cudaError_t(T* dx, const T* dy, const T* mask, const CountedPadding& counted,
                                        const Pool2dShape& shape, cudaStream_t stream);
template <class T>
using MaxPool2dRow = KernelRow<Pool2dShape, MaxPool2dFn<T>>;
template <class T>
using MaxPool2dBackwardRow = KernelRow<Pool2dShape, MaxPool2dBackwardFn<T>>;
template <class T>
using AvgPool2dRow = KernelRow<Pool2dShape, AvgPool2dFn<T>>;
template <class T>
using AvgPool2dBackwardRow = KernelRow<Pool2dShape, AvgPool2dBackwardFn<T>>;

template <class T>
cudaError_t max_pool2d_3x3_stride2(T* y, void* argmax, const T* x, const Pool2dShape& shape,
                                   cudaStream_t stream);
template <class T>
cudaError_t max_pool2d_generic(T* y, void* argmax, const T* x, const Pool2dShape& shape, cudaStream_t stream);
template <class T>
cudaError_t max_pool2d_backward_3x3_stride2(T* dx, const T* dy, const void* argmax, const T* mask,
                                            const Pool2dShape& shape, cudaStream_t stream);
template <class T>
cudaError_t max_pool2d_backward_generic(T* dx, const T* dy, const void* argmax, const T* mask,
                                        const Pool2dShape& shape, cudaStream_t stream);
bool max_pool2d_3x3_stride2_supports(const Pool2dShape& shape);
bool max_pool2d_backward_3x3_stride2_supports(const Pool2dShape& shape);
template <class T>
cudaError_t avg_pool2d_generic(T* y, const T* x, const CountedPadding& counted, const Pool2dShape& shape,
                               cudaStream_t stream);
template <class T>
cudaError_t avg_pool2d_backward_generic(T* dx, const T* dy, const T* mask, const CountedPadding& counted,
                                        const Pool2dShape& shape, cudaStream_t stream);

template <class T>
KernelTable<MaxPool2dRow<T>> max_pool2d_kernels();
template <class T>
KernelTable<MaxPool2dBackwardRow<T>> max_pool2d_backward_kernels();
template <class T>
KernelTable<AvgPool2dRow<T>> avg_pool2d_kernels();
template <class T>
KernelTable<AvgPool2dBackwardRow<T>> avg_pool2d_backward_kernels();

}  // namespace pcn
