// The augment family: crop, mirror, colour and mean in one pass, from the images of a data set to the input
// of a network, in the layout of images or in the depth layout that a first convolution with a stride reads.
#pragma once
#include "common/types.h"

namespace pcn {

struct AugmentShape {
  int images, h, w, c;  // images (N, H, W, C)
  int n;                // crops; without indices n is N
  int crop_h, crop_w;   // result (n, crop_h, crop_w, C)
  int mean_pixels;      // mean: 0 none, 1 a pixel (C), h * w an image (H, W, C)
  // side 0: the result is (n, crop_h, crop_w, C). Else it is (n, to_h, to_w, to_c), to_c >= side * side * C,
  //   y[n, i, j, (a * side + b) * C + c] = crop[n, side * i + a - pad_h, side * j + b - pad_w, c]
  // and 0 outside the crop and in the channels left over.
  int side, pad_h, pad_w, to_h, to_w, to_c;
};

// y: T, float or Bf16; in the depth layout to_c fills whole accesses of 16 bytes. images: uint8 or float
// (bytes says which), of 2^31 elements or more where there are indices. indices (n), which image a crop is of, or
// null: of that of its own number; crop (n, 2) top and left, or null for 0; mirror (n) or null; colour (n, C) or
// null; mean or null.
template <class T>
using AugmentFn = cudaError_t(T* y, const void* images, bool bytes, const std::int32_t* indices,
                              const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                              const float* mean, float scale, const AugmentShape& shape, cudaStream_t stream);
template <class T>
using AugmentRow = KernelRow<AugmentShape, AugmentFn<T>>;

template <class T>
cudaError_t augment_rgb(T* y, const void* images, bool bytes, const std::int32_t* indices,
                        const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                        const float* mean, float scale, const AugmentShape& shape, cudaStream_t stream);
template <class T>
cudaError_t augment_any(T* y, const void* images, bool bytes, const std::int32_t* indices,
                        const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                        const float* mean, float scale, const AugmentShape& shape, cudaStream_t stream);
template <class T>
cudaError_t augment_depth4_rgb(T* y, const void* images, bool bytes, const std::int32_t* indices,
                               const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                               const float* mean, float scale, const AugmentShape& shape,
                               cudaStream_t stream);
template <class T>
cudaError_t augment_depth(T* y, const void* images, bool bytes, const std::int32_t* indices,
                          const std::int32_t* crop, const std::uint8_t* mirror, const float* colour,
                          const float* mean, float scale, const AugmentShape& shape, cudaStream_t stream);
bool augment_rgb_supports(const AugmentShape& shape), augment_any_supports(const AugmentShape& shape);
bool augment_depth4_rgb_supports(const AugmentShape& shape),
    augment_depth_supports(const AugmentShape& shape);

template <class T>
KernelTable<AugmentRow<T>> augment_kernels();

}  // namespace pcn
