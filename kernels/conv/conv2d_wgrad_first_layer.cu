// conv2d_wgrad_first_layer: filter gradient of a convolution of few channels with a stride, above all
// AlexNet's first layer (11x11, stride 4, 3 channels), as that of a stride-1 convolution of stride^2 * C
// channels (space_to_depth.h).
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, t*p + r - pad_h, t*q + s - pad_w, c]
//   db[k] = sum_{n,p,q} dy[n,p,q,k], where the product's kernel makes it
// x (N,H,W,C <= 4)   dy (N,P,Q,K)   float32 or bfloat16   dw (K,R,S,C)   float32   last axis contiguous
// A copy of x into scratch memory, the product, bound by FFMA or, with precision tf32, fp32x3 and bf16, by
// the tensor cores, and a small copy of dw' that drops the zero taps. Accepts groups = 1, equal strides of 2,
// 3 or 4, C <= 4, K divisible by 4, any filter, any padding.
// What runs on images as they are: ops.conv2d_wgrad called by hand, a plan with fuse=False. Other plans keep
// their images in the depth layout and call the tile kernel itself; for AlexNet at a batch of 128 both roads
// end in conv2d_wgrad_tile96 (fp32), conv2d_wgrad_mma96x128 (tf32) or, in bf16, conv2d_wgrad_wgmma256x96_bf16 on compute
// capability 9.0 and conv2d_wgrad_mma96x128_bf16 on others.
#include "conv/space_to_depth.h"

namespace pcn {
namespace {

template <class E>
const conv::Candidate<Conv2dWgradFn<E>>& product(const Conv2dShape& to);

template <>
const conv::Candidate<Conv2dWgradFn<float>>& product<float>(const Conv2dShape& to) {
  static const conv::Candidate<Conv2dWgradFn<float>> candidates[] = {
#define PCN_WGRAD_TILE(stem, ...) {stem##_traits, stem},
#include "conv/tiles.inc"
#define PCN_WGRAD_MMA(stem, ...) {stem##_traits, stem},
#include "conv/tiles.inc"
  };
  return conv::cheapest(candidates, to);
}

template <>
const conv::Candidate<Conv2dWgradFn<Bf16>>& product<Bf16>(const Conv2dShape& to) {
  static const conv::Candidate<Conv2dWgradFn<Bf16>> candidates[] = {
      {conv2d_wgrad_generic_traits, conv2d_wgrad_generic<Bf16>},
#define PCN_WGRAD_WGMMA_BF16(stem, ...) {stem##_traits, stem},
#define PCN_WGRAD_MMA_BF16(stem, ...) {stem##_traits, stem},
#include "conv/tiles.inc"
  };
  return conv::cheapest(candidates, to);
}

const Conv2dTraits& product_traits(const Conv2dShape& to) {
  return to.precision == Precision::kBf16 ? product<Bf16>(to).traits : product<float>(to).traits;
}

// ---- supports: scratch memory holds x', dw' and what the product needs
bool supports(const Conv2dShape& shape) { return shape.k % 4 == 0 && conv::space_to_depth_supports(shape); }
std::size_t workspace_bytes(const Conv2dShape& shape) {
  const Conv2dShape to = conv::rearranged(shape);
  const std::int64_t image = conv::image_elements(to);
  return (to.precision == Precision::kBf16 ? conv::padded_bytes<Bf16>(image)
                                           : conv::padded_bytes<float>(image)) +
         conv::padded_bytes<float>(conv::filter_elements(to)) + product_traits(to).workspace_bytes(to);
}
double cost(const Conv2dShape& shape) {
  const Conv2dShape to = conv::rearranged(shape);
  return product_traits(to).cost(to) + conv::space_to_depth_cost(shape);
}
bool sums_bias(const Conv2dShape& shape) {
  const Conv2dShape to = conv::rearranged(shape);
  return product_traits(to).sums_bias(to);
}

}  // namespace

const Conv2dTraits conv2d_wgrad_first_layer_traits = {supports, workspace_bytes, cost, sums_bias};

// ---- launcher
template <class E>
cudaError_t conv2d_wgrad_first_layer(float* dw, float* db, const E* dy, const E* x, const Conv2dShape& shape,
                                     void* workspace, cudaStream_t stream) {
  const char* stem = "conv2d_wgrad_first_layer";
  const Conv2dShape to = conv::rearranged(shape);
  char* free_bytes = static_cast<char*>(workspace);
  E* image = reinterpret_cast<E*>(free_bytes);
  free_bytes += conv::padded_bytes<E>(conv::image_elements(to));
  float* filters = reinterpret_cast<float*>(free_bytes);
  free_bytes += conv::padded_bytes<float>(conv::filter_elements(to));

  cudaError_t status = conv::image_to_depth(stem, image, x, shape, stream);
  if (status != cudaSuccess) return status;
  status = product<E>(to).launch(filters, db, dy, image, to, free_bytes, stream);
  if (status != cudaSuccess) return status;
  const unsigned count = static_cast<unsigned>(conv::filter_elements(shape));
  return filters_from_depth(stem, dw, filters, conv::depth_filters(shape), count, stream);
}

template cudaError_t conv2d_wgrad_first_layer(float*, float*, const float*, const float*, const Conv2dShape&,
                                              void*, cudaStream_t);
template cudaError_t conv2d_wgrad_first_layer(float*, float*, const Bf16*, const Bf16*, const Conv2dShape&,
                                              void*, cudaStream_t);

}  // namespace pcn
