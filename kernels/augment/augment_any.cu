// augment_any: crop, mirror, colour and mean, any number of channels
//   y[n, i, j, c] = (images[k, top_n + i, left_n + j', c] - mean[…, c] + colour[n, c]) * scale
//   with j' = mirror_n ? crop_w - 1 - j : j, k = indices ? indices[n] : n
// images (N, H, W, C) uint8 or float, y (n, crop_h, crop_w, C) float or Bf16, crop (n, 2), mirror (n), colour
// (n, C), mean (C) or (H, W, C). 5 bytes of memory traffic an element from bytes, 8 from floats (the mean
// image stays in the cache): bound by memory, with the many small loads close behind. Rejects the depth
// layout.
#include "augment/gather.h"

namespace pcn {

bool augment_any_supports(const AugmentShape& shape) { return shape.side == 0; }

template <class T>
cudaError_t augment_any(T* y, const void* images, bool bytes, const std::int32_t* indices,
                        const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                        const float* mean, float scale, const AugmentShape& shape, cudaStream_t stream) {
  return augmentation::run<0>("augment_any", y, images, bytes, indices, crop, mirror, colour, mean, scale,
                              shape, stream);
}

template cudaError_t augment_any(float*, const void*, bool, const std::int32_t*, const std::int32_t*,
                                 const std::uint8_t*, const float*, const float*, float, const AugmentShape&,
                                 cudaStream_t);
template cudaError_t augment_any(Bf16*, const void*, bool, const std::int32_t*, const std::int32_t*,
                                 const std::uint8_t*, const float*, const float*, float, const AugmentShape&,
                                 cudaStream_t);

}  // namespace pcn
