// weights.h: a weight gradient, and the bias's, by a kernel of its own, for programs that run on the stand-in runtime
//
// By tiles of 128 weights and 64 filters: of one group three of weights, of which the last has 32, by two of filters, of
// which the last has 8. Of two groups each has two of weights, of which the last has 16, by one of 36 filters.
#pragma once
#include "rows.h"

namespace {

constexpr int kBatch = 5, kPixels = kBatch * kExtent * kExtent;

int dy_of(int i) { return i * 5 % 9 - 4; }

// Element i of dw, or behind them of db.
int gradient(int i, int groups) {
  const int channels = kChannels / groups, weights = 9 * channels;
  const bool bias = i >= kFilters * weights;
  const int k = bias ? i - kFilters * weights : i / weights, weight = i % weights;
  const int c = weight % channels + k / (kFilters / groups) * channels, s = weight / channels % 3,
            r = weight / channels / 3;
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

template <class E, class Function>
void run_gradient(const char* name, pcn::Precision precision, int groups, const pcn::Conv2dTraits& traits,
                  Function function) {
  pcn::Conv2dShape shape = kShape;
  shape.n = kBatch, shape.groups = groups, shape.precision = precision, shape.capability = 90;
  shape.bias_grad = 1, shape.splits = 1;
  const int weights = kFilters * 9 * kChannels / groups, count = weights + kFilters;
  const E* x = on_device<E>(kPixels * kChannels, x_of);
  const E* dy = on_device<E>(kPixels * kFilters, dy_of);
  void* out = nullptr;
  cudaMalloc(&out, count * sizeof(float));
  float* dw = static_cast<float*>(out);
  cudaError_t status = cudaErrorNotSupported;
  if (traits.supports(shape)) status = function(dw, dw + weights, dy, x, shape, nullptr, nullptr);
  std::vector<float> result(count);
  if (status == cudaSuccess)
    status = cudaMemcpy(result.data(), out, count * sizeof(float), cudaMemcpyDeviceToHost);
  int wrong = 0;
  for (int i = 0; i < count; ++i) wrong += result[i] != static_cast<float>(gradient(i, groups));
  std::printf("{\"%s\": {\"error\": \"%s\", \"wrong\": %d, \"bits\": []}}\n", name,
              status == cudaSuccess ? "" : cudaGetErrorName(status), wrong);
}

}  // namespace
