// The pool family: maximum and average over windows of pixels, both directions. float32, channels last, bound
// by memory. A window may hang over any edge of the image but holds at least one of its pixels; what is
// outside takes no part.
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

using MaxPool2dFn = cudaError_t(float* y, void* argmax, const float* x, const Pool2dShape& shape,
                                cudaStream_t stream);
using MaxPool2dBackwardFn = cudaError_t(float* dx, const float* dy, const void* argmax,
                                        const Pool2dShape& shape, cudaStream_t stream);
using AvgPool2dFn = cudaError_t(float* y, const float* x, const CountedPadding& counted,
                                const Pool2dShape& shape, cudaStream_t stream);
using AvgPool2dBackwardFn = cudaError_t(float* dx, const float* dy, const CountedPadding& counted,
                                        const Pool2dShape& shape, cudaStream_t stream);
using MaxPool2dRow = KernelRow<Pool2dShape, MaxPool2dFn>;
using MaxPool2dBackwardRow = KernelRow<Pool2dShape, MaxPool2dBackwardFn>;
using AvgPool2dRow = KernelRow<Pool2dShape, AvgPool2dFn>;
using AvgPool2dBackwardRow = KernelRow<Pool2dShape, AvgPool2dBackwardFn>;

MaxPool2dFn max_pool2d_3x3_stride2, max_pool2d_generic;
bool max_pool2d_3x3_stride2_supports(const Pool2dShape& shape);
MaxPool2dBackwardFn max_pool2d_backward_3x3_stride2, max_pool2d_backward_generic;
bool max_pool2d_backward_3x3_stride2_supports(const Pool2dShape& shape);
AvgPool2dFn avg_pool2d_generic;
AvgPool2dBackwardFn avg_pool2d_backward_generic;

KernelTable<MaxPool2dRow> max_pool2d_kernels();
KernelTable<MaxPool2dBackwardRow> max_pool2d_backward_kernels();
KernelTable<AvgPool2dRow> avg_pool2d_kernels();
KernelTable<AvgPool2dBackwardRow> avg_pool2d_backward_kernels();

}  // namespace pcn
