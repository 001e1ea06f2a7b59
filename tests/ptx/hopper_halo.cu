// hopper_halo.cu: convolutions by the tile of halo.h, on the stand-in runtime: forward in bfloat16, with bias and ReLU, and
// an input gradient in TF32, of filters that a pass turns, behind a mask
//
// An image of 19 rows is cut into 3 strips, of which the last is shorter, or into 5; the last tile's second strip lies behind
// the image. Steps of channels, of 96 and of 128 bytes, are 3, so that the first buffer is used again; the ring of 4
// stages turns round six times. Of two tiles of columns, or of a group's one, the last is not full.
// The forward convolution also runs with all tiles shared by blocks (stream_k.h).
#include "rows.h"

#include <algorithm>

#include "conv/hopper/dgrad.h"
#include "conv/hopper/fprop.h"

namespace pcn {
PCN_FPROP_WGMMA_BF16(hopper_halo, 384, 50, HaloTile<256, 48, 64, 4, Bf16>)
PCN_DGRAD_WGMMA(hopper_halo_back, 384, 50, HaloTile<128, 64, 32, 4>)
template cudaError_t conv::fprop_finish(const char*, Bf16*, const float*, const Conv2dShape&, Activation,
                                        void*, const conv::GemmGrid&, cudaStream_t);
template cudaError_t conv::dgrad_finish(const char*, float*, const float*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
}  // namespace pcn

namespace {

constexpr int kHeight = 19, kWidth = 13;

int bias_of(int i) { return i % 23 * 40 - 400; }
int mask_of(int i) { return i * 7 % 13 - 5; }  // rows and lanes have each their own

pcn::Conv2dShape shape_of(int channels, int filters, int groups, pcn::Precision precision) {
  pcn::Conv2dShape shape = kShape;
  shape.n = 1, shape.h = shape.p = kHeight, shape.w = shape.q = kWidth;
  shape.c = channels, shape.k = filters, shape.groups = groups;
  shape.precision = precision, shape.capability = 90, shape.splits = 1;
  return shape;
}

// Pixel (row, column) and channel c of an image of so many channels, as a function of its index; 0 outside.
int pixel(int row, int column, int c, int channels) {
  const bool inside = row >= 0 && column >= 0 && row < kHeight && column < kWidth;
  return inside ? x_of((row * kWidth + column) * channels + c) : 0;
}

// Element i of y.
int forward(const pcn::Conv2dShape& s, int i) {
  const int k = i % s.k, q = i / s.k % kWidth, p = i / s.k / kWidth;
  int sum = bias_of(k);
  for (int tap = 0; tap < 9; ++tap)
    for (int c = 0; c < s.c; ++c)
      sum += pixel(p - 1 + tap / 3, q - 1 + tap % 3, c, s.c) * w_of((k * 9 + tap) * s.c + c);
  return std::max(sum, 0);
}

// Element i of dx, of dy like x.
int backward(const pcn::Conv2dShape& s, int i) {
  if (mask_of(i) <= 0) return 0;
  const int c = i % s.c, v = i / s.c % kWidth, h = i / s.c / kWidth, own = s.c / s.groups,
            filters = s.k / s.groups;
  int sum = 0;
  for (int tap = 0; tap < 9; ++tap)
    for (int k = c / own * filters; k < (c / own + 1) * filters; ++k)
      sum += pixel(h + 1 - tap / 3, v + 1 - tap % 3, k, s.k) * w_of((k * 9 + tap) * own + c % own);
  return sum;
}

// launch(shape, results, workspace), and what it should make of them.
template <class E, class Launch>
void compare(const char* name, const pcn::Conv2dShape& shape, const pcn::Conv2dTraits& traits, int columns,
             int (*want)(const pcn::Conv2dShape&, int), Launch launch) {
  const int count = kHeight * kWidth * columns;
  void *results = nullptr, *workspace = nullptr;
  cudaMalloc(&results, count * sizeof(E));
  cudaMalloc(&workspace, traits.workspace_bytes(shape) + 16);
  cudaError_t status = cudaErrorNotSupported;
  if (traits.supports(shape)) status = launch(static_cast<E*>(results), workspace);
  std::vector<E> result(count);
  if (status == cudaSuccess)
    status = cudaMemcpy(result.data(), results, count * sizeof(E), cudaMemcpyDeviceToHost);
  int wrong = 0;
  for (int i = 0; i < count; ++i) {
    const E exact = element<E>(static_cast<float>(want(shape, i)));
    wrong += std::memcmp(&exact, &result[i], sizeof exact) != 0;
  }
  std::printf("{\"%s\": {\"error\": \"%s\", \"wrong\": %d, \"bits\": []}}\n", name,
              status == cudaSuccess ? "" : cudaGetErrorName(status), wrong);
}

}  // namespace

int main(int, char** arguments) {
  using pcn::Bf16;
  const char* const name = arguments[1];
  if (std::strcmp(name, "halo_back") == 0) {
    const pcn::Conv2dShape s = shape_of(80, 192, 2, pcn::Precision::kTf32);
    const float* dy = on_device<float>(kHeight * kWidth * s.k, x_of);
    const float* w = on_device<float>(s.k * 9 * s.c / s.groups, w_of);
    const float* mask = on_device<float>(kHeight * kWidth * s.c, mask_of);
    compare<float>(name, s, pcn::hopper_halo_back_traits, s.c, backward, [=](float* dx, void* workspace) {
      return pcn::hopper_halo_back(dx, dy, w, mask, s, workspace, nullptr);
    });
  } else {
    pcn::Conv2dShape s = shape_of(144, 72, 1, pcn::Precision::kBf16);
    if (std::strcmp(name, "halo_shared") == 0) s.splits = pcn::kShareTiles;
    const Bf16* x = on_device<Bf16>(kHeight * kWidth * s.c, x_of);
    const Bf16* w = on_device<Bf16>(s.k * 9 * s.c, w_of);
    const float* bias = on_device<float>(s.k, bias_of);
    compare<Bf16>(name, s, pcn::hopper_halo_traits, s.k, forward, [=](Bf16* y, void* workspace) {
      return pcn::hopper_halo(y, x, w, bias, s, pcn::Activation::kRelu, workspace, nullptr);
    });
  }
}
