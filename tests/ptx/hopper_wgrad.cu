// hopper_wgrad.cu: a weight gradient, and the bias's, by the tile of compute capability 9.0, on the stand-in runtime
//
// Three tiles of weights, of which the last has 32 of 128, by two of filters, of which the last has 8 of 64. Four steps
// of pixels, the last of 53, turn the ring of three stages round.
#include "rows.h"

#include "conv/hopper/wgrad.h"

namespace pcn {
PCN_WGRAD_WGMMA_BF16(hopper_wgrad, 384, 50, WgmmaTile<128, 64, 64, 3, Bf16>)
template cudaError_t conv::wgrad_finish(const char*, float*, float*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
}  // namespace pcn

namespace {

constexpr int kBatch = 5, kPixels = kBatch * kExtent * kExtent, kWeights = 9 * kChannels;

int dy_of(int i) { return i * 5 % 9 - 4; }

// Element i of dw, or behind them of db.
int gradient(int i) {
  const bool bias = i >= kFilters * kWeights;
  const int k = bias ? i - kFilters * kWeights : i / kWeights, weight = i % kWeights;
  const int c = weight % kChannels, s = weight / kChannels % 3, r = weight / kChannels / 3;
  int sum = 0;
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    const int h = pixel / kExtent % kExtent - 1 + r, v = pixel % kExtent - 1 + s,
              n = pixel / kExtent / kExtent;
    const bool inside = h >= 0 && v >= 0 && h < kExtent && v < kExtent;
    if (!bias && !inside) continue;
    sum += dy_of(pixel * kFilters + k) * (bias ? 1 : x_of(((n * kExtent + h) * kExtent + v) * kChannels + c));
  }
  return sum;
}

}  // namespace

int main() {
  pcn::Conv2dShape shape = kShape;
  shape.n = kBatch, shape.precision = pcn::Precision::kBf16, shape.capability = 90, shape.bias_grad = 1;
  constexpr int count = kFilters * (kWeights + 1);
  const pcn::Bf16* x = on_device<pcn::Bf16>(kPixels * kChannels, x_of);
  const pcn::Bf16* dy = on_device<pcn::Bf16>(kPixels * kFilters, dy_of);
  void* out = nullptr;
  cudaMalloc(&out, count * sizeof(float));
  float* dw = static_cast<float*>(out);
  cudaError_t status = cudaErrorNotSupported;
  if (pcn::hopper_wgrad_traits.supports(shape))
    status = pcn::hopper_wgrad(dw, dw + kFilters * kWeights, dy, x, shape, nullptr, nullptr);
  std::vector<float> result(count);
  if (status == cudaSuccess)
    status = cudaMemcpy(result.data(), out, count * sizeof(float), cudaMemcpyDeviceToHost);
  int wrong = 0;
  for (int i = 0; i < count; ++i) wrong += result[i] != static_cast<float>(gradient(i));
  std::printf("{\"wgrad\": {\"error\": \"%s\", \"wrong\": %d, \"bits\": []}}\n",
              status == cudaSuccess ? "" : cudaGetErrorName(status), wrong);
}
