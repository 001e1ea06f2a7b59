// conv2d_fprop_first_layer: convolution of few channels with a stride, above all AlexNet's first layer
// (11x11, stride 4, 3 channels), as a stride-1 convolution of stride^2 * C channels (space_to_depth.h).
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, t*p + r - pad_h, t*q + s - pad_w, c] w[k,r,s,c])
// x (N,H,W,C <= 4)   w (K,R,S,C)   y (N,P,Q,K)   float32 or bfloat16, last axis contiguous
// Two copies into scratch memory (bound by memory: 0.16 GB at AlexNet's batch of 128, against 0.65 GB of y
// and 27 GFLOP of product; half of both in bfloat16), then the tile kernel that suits the number of filters,
// bound by FFMA or, with precision tf32, fp32x3 and bf16, by the tensor cores. Accepts groups = 1, equal
// strides of 2, 3 or 4, C <= 4, any filter, any padding.
// What runs on images as they are: ops.conv2d called by hand, a plan with fuse=False. Other plans keep their
// images in the depth layout and call the tile kernel itself; for AlexNet at a batch of 128 both roads end in
// conv2d_fprop_tile96 (fp32), conv2d_fprop_mma128x96 (tf32) or conv2d_fprop_mma128x96_bf16 (bf16), on a card of 9.0
// in conv2d_fprop_wgmma384x96 or its _bf16.
#include "conv/space_to_depth.h"

namespace pcn {
namespace {

template <class E>
const conv::Candidate<Conv2dFpropFn<E>>& product(const Conv2dShape& to);

template <>
const conv::Candidate<Conv2dFpropFn<float>>& product<float>(const Conv2dShape& to) {
  static const conv::Candidate<Conv2dFpropFn<float>> candidates[] = {
#define PCN_FPROP_TILE(stem, ...) {stem##_traits, stem},
#include "conv/tiles.inc"
#define PCN_FPROP_WGMMA(stem, ...) {stem##_traits, stem},
#define PCN_FPROP_MMA(stem, ...) {stem##_traits, stem},
#include "conv/tiles.inc"
  };
  return conv::cheapest(candidates, to);
}

template <>
const conv::Candidate<Conv2dFpropFn<Bf16>>& product<Bf16>(const Conv2dShape& to) {
  static const conv::Candidate<Conv2dFpropFn<Bf16>> candidates[] = {
      {conv2d_fprop_generic_traits, conv2d_fprop_generic<Bf16>},
#define PCN_FPROP_WGMMA_BF16(stem, ...) {stem##_traits, stem},
#define PCN_FPROP_MMA_BF16(stem, ...) {stem##_traits, stem},
#include "conv/tiles.inc"
  };
  return conv::cheapest(candidates, to);
}

const Conv2dTraits& product_traits(const Conv2dShape& to) {
  return to.precision == Precision::kBf16 ? product<Bf16>(to).traits : product<float>(to).traits;
}

// ---- supports: scratch memory holds x', w' and what the product needs
template <class E>
std::size_t copied_bytes(const Conv2dShape& to) {
  return conv::padded_bytes<E>(conv::image_elements(to)) + conv::padded_bytes<E>(conv::filter_elements(to));
}
std::size_t workspace_bytes(const Conv2dShape& shape) {
  const Conv2dShape to = conv::rearranged(shape);
  const std::size_t copies =
      to.precision == Precision::kBf16 ? copied_bytes<Bf16>(to) : copied_bytes<float>(to);
  return copies + product_traits(to).workspace_bytes(to);
}
double cost(const Conv2dShape& shape) {
  const Conv2dShape to = conv::rearranged(shape);
  return product_traits(to).cost(to) + conv::space_to_depth_cost(shape);
}

}  // namespace

const Conv2dTraits conv2d_fprop_first_layer_traits = {conv::space_to_depth_supports, workspace_bytes, cost};

// ---- launcher
template <class E>
cudaError_t conv2d_fprop_first_layer(E* y, const E* x, const E* w, const float* b, const Conv2dShape& shape,
                                     Activation activation, void* workspace, cudaStream_t stream) {
  const char* stem = "conv2d_fprop_first_layer";
  const Conv2dShape to = conv::rearranged(shape);
  char* free_bytes = static_cast<char*>(workspace);
  E* image = reinterpret_cast<E*>(free_bytes);
  free_bytes += conv::padded_bytes<E>(conv::image_elements(to));
  E* filters = reinterpret_cast<E*>(free_bytes);
  free_bytes += conv::padded_bytes<E>(conv::filter_elements(to));

  cudaError_t status = conv::image_to_depth(stem, image, x, shape, stream);
  if (status != cudaSuccess) return status;
  const unsigned count = static_cast<unsigned>(conv::filter_elements(to));
  status = filters_to_depth(stem, filters, w, conv::depth_filters(shape), count, stream);
  if (status != cudaSuccess) return status;
  return product<E>(to).launch(y, image, filters, b, to, activation, free_bytes, stream);
}

template cudaError_t conv2d_fprop_first_layer(float*, const float*, const float*, const float*,
                                              const Conv2dShape&, Activation, void*, cudaStream_t);
template cudaError_t conv2d_fprop_first_layer(Bf16*, const Bf16*, const Bf16*, const float*,
                                              const Conv2dShape&, Activation, void*, cudaStream_t);

}  // namespace pcn
