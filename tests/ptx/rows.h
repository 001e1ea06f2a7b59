// rows.h: a convolution by a kernel of its own, for programs that run on the stand-in runtime
//
// run() prints a JSON object of the case named: its error, and how many of the results are wrong. Operands are small
// integers, so that the sums are exact in every order.
#pragma once
#include <cstdio>
#include <cstring>
#include <vector>

#include "conv/conv.h"

namespace {

constexpr int kImages = 2, kExtent = 7, kChannels = 32, kFilters = 72;
const pcn::Conv2dShape kShape = {kImages, kExtent, kExtent, kChannels, kFilters, 3, 3, kExtent,
                                 kExtent, 1,       1,       1,         1,        1, 1, pcn::Precision::kFp32,
                                 80,      1};

int x_of(int i) { return i * 7 % 5 - 2; }
int w_of(int i) { return i * 11 % 7 - 3; }

// Element i of the result.
int exact(int i) {
  const int k = i % kFilters, q = i / kFilters % kExtent, p = i / kFilters / kExtent % kExtent;
  const int n = i / kFilters / kExtent / kExtent;
  int sum = 0;
  for (int r = 0; r < 3; ++r)
    for (int s = 0; s < 3; ++s) {
      const int h = p - 1 + r, v = q - 1 + s;
      if (h < 0 || v < 0 || h >= kExtent || v >= kExtent) continue;
      for (int c = 0; c < kChannels; ++c)
        sum += x_of(((n * kExtent + h) * kExtent + v) * kChannels + c) *
               w_of(((k * 3 + r) * 3 + s) * kChannels + c);
    }
  return sum;
}

template <class E>
E element(float value);
template <>
float element<float>(float value) {
  return value;
}
template <>
pcn::Bf16 element<pcn::Bf16>(float value) {  // the nearest, ties to even
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  const unsigned short half = static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  pcn::Bf16 result;
  std::memcpy(&result, &half, sizeof half);
  return result;
}

template <class E>
E* on_device(int count, int (*value)(int)) {
  std::vector<E> host(count);
  for (int i = 0; i < count; ++i) host[i] = element<E>(static_cast<float>(value(i)));
  void* device = nullptr;
  cudaMalloc(&device, count * sizeof(E));
  cudaMemcpy(device, host.data(), count * sizeof(E), cudaMemcpyHostToDevice);
  return static_cast<E*>(device);
}

template <class E, class Function>
void run(const char* name, pcn::Precision precision, int capability, const pcn::Conv2dTraits& traits,
         Function function) {
  pcn::Conv2dShape shape = kShape;
  shape.precision = precision, shape.capability = capability;
  constexpr int count = kImages * kExtent * kExtent * kFilters;
  const E* x = on_device<E>(kImages * kExtent * kExtent * kChannels, x_of);
  const E* w = on_device<E>(kFilters * 9 * kChannels, w_of);
  void* y = nullptr;
  cudaMalloc(&y, count * sizeof(E));
  cudaError_t status = cudaErrorNotSupported;
  if (traits.supports(shape))
    status = function(static_cast<E*>(y), x, w, nullptr, shape, pcn::Activation::kNone, nullptr, nullptr);
  std::vector<E> result(count);
  if (status == cudaSuccess) status = cudaMemcpy(result.data(), y, count * sizeof(E), cudaMemcpyDeviceToHost);
  int wrong = 0;
  for (int i = 0; i < count; ++i) {
    const E want = element<E>(static_cast<float>(exact(i)));
    wrong += std::memcmp(&want, &result[i], sizeof want) != 0;
  }
  std::printf("{\"%s\": {\"error\": \"%s\", \"wrong\": %d, \"bits\": []}}\n", name,
              status == cudaSuccess ? "" : cudaGetErrorName(status), wrong);
}

}  // namespace
