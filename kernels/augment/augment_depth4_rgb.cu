// augment_depth4_rgb: crop, mirror, colour and mean of colour images, in the depth layout of side 4
//   y[n, i, j, (4 a + b) 3 + c] = crop[n, 4 i + a - pad_h, 4 j + b - pad_w, c]
//   crop[n, h, w, c] = (images[k, top_n + h, left_n + w', c] - mean[…, c] + colour[n, c]) * scale
//   with w' = mirror_n ? crop_w - 1 - w : w, k = indices ? indices[n] : n, and 0 outside the crop
// images (N, H, W, 3) uint8 or float, y (n, to_h, to_w, to_c >= 48) float or Bf16, crop (n, 2), mirror (n),
// colour (n, 3), mean (3) or (H, W, 3). What AlexNet's first layer reads, 11x11 filters at stride 4: its
// images never exist in their own layout. 5 bytes of memory traffic an element from bytes, 3 into Bf16: bound
// by memory, with the many small loads close behind. Channels and side are known to the compiler. Rejects
// others; augment_depth takes them.
#include "augment/to_depth.h"

namespace pcn {

bool augment_depth4_rgb_supports(const AugmentShape& shape) { return shape.side == 4 && shape.c == 3; }

template <class T>
cudaError_t augment_depth4_rgb(T* y, const void* images, bool bytes, const std::int32_t* indices,
                               const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                               const float* mean, float scale, const AugmentShape& shape,
                               cudaStream_t stream) {
  return augmentation::run_to_depth<3, 4>("augment_depth4_rgb", y, images, bytes, indices, crop, mirror,
                                          colour, mean, scale, shape, stream);
}

template cudaError_t augment_depth4_rgb(float*, const void*, bool, const std::int32_t*, const std::int32_t*,
                                        const std::uint8_t*, const float*, const float*, float,
                                        const AugmentShape&, cudaStream_t);
template cudaError_t augment_depth4_rgb(Bf16*, const void*, bool, const std::int32_t*, const std::int32_t*,
                                        const std::uint8_t*, const float*, const float*, float,
                                        const AugmentShape&, cudaStream_t);

}  // namespace pcn
