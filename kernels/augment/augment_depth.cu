// augment_depth: crop, mirror, colour and mean, in the depth layout of any side
//   y[n, i, j, (a t + b) C + c] = crop[n, t i + a - pad_h, t j + b - pad_w, c]
//   crop[n, h, w, c] = (images[k, top_n + h, left_n + w', c] - mean[…, c] + colour[n, c]) * scale
//   with w' = mirror_n ? crop_w - 1 - w : w, k = indices ? indices[n] : n, and 0 outside the crop
// images (N, H, W, C) uint8 or float, y (n, to_h, to_w, to_c >= t t C) float or Bf16, crop (n, 2), mirror
// (n), colour (n, C), mean (C) or (H, W, C). 5 bytes of memory traffic an element from bytes, 8 from floats:
// bound by memory, with the many small loads close behind. Accepts every depth layout.
#include "augment/to_depth.h"

namespace pcn {

bool augment_depth_supports(const AugmentShape& shape) { return shape.side != 0; }

template <class T>
cudaError_t augment_depth(T* y, const void* images, bool bytes, const std::int32_t* indices,
                          const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                          const float* mean, float scale, const AugmentShape& shape, cudaStream_t stream) {
  return augmentation::run_to_depth<0, 0>("augment_depth", y, images, bytes, indices, crop, mirror, colour,
                                          mean, scale, shape, stream);
}

template cudaError_t augment_depth(float*, const void*, bool, const std::int32_t*, const std::int32_t*,
                                   const std::uint8_t*, const float*, const float*, float,
                                   const AugmentShape&, cudaStream_t);
template cudaError_t augment_depth(Bf16*, const void*, bool, const std::int32_t*, const std::int32_t*,
                                   const std::uint8_t*, const float*, const float*, float,
                                   const AugmentShape&, cudaStream_t);

}  // namespace pcn
