// hopper_dgrad.cu: an input gradient in TF32 by the tile of compute capability 9.0, behind a mask: the pass that turns the
// filters, and the product, on the stand-in runtime
//
// Of two groups the pass takes 36 channels of 32 filters in tiles of 32; the product has two tiles of pixels and, of 64
// columns, 36. Nine steps turn the ring of four stages round. "tall" has one tile of pixels, of which a warpgroup has
// three times 64.
#include "rows.h"

#include "conv/hopper/dgrad.h"

namespace pcn {
PCN_DGRAD_WGMMA(hopper_dgrad, 384, 50, WgmmaTile<128, 64, 32, 4>)
PCN_DGRAD_WGMMA(hopper_dgrad_tall, 384, 50, WgmmaTile<384, 48, 32, 3>)
template cudaError_t conv::dgrad_finish(const char*, float*, const float*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
}  // namespace pcn

namespace {

constexpr int kBatch = 3, kGroups = 2, kOwn = 36, kOwnFilters = 32, kAll = kGroups * kOwn,
              kAllFilters = kGroups * kOwnFilters, kPixels = kBatch * kExtent * kExtent;

int dy_of(int i) { return i * 5 % 9 - 4; }
int mask_of(int i) { return i * 3 % 4 - 1; }

// Element i of dx.
int gradient(int i) {
  if (mask_of(i) <= 0) return 0;
  const int c = i % kAll, v = i / kAll % kExtent, h = i / kAll / kExtent % kExtent;
  const int n = i / kAll / kExtent / kExtent, group = c / kOwn;
  int sum = 0;
  for (int r = 0; r < 3; ++r)
    for (int s = 0; s < 3; ++s) {
      const int p = h + 1 - r, q = v + 1 - s;
      if (p < 0 || q < 0 || p >= kExtent || q >= kExtent) continue;
      for (int k = group * kOwnFilters; k < (group + 1) * kOwnFilters; ++k)
        sum += dy_of(((n * kExtent + p) * kExtent + q) * kAllFilters + k) *
               w_of(((k * 3 + r) * 3 + s) * kOwn + c % kOwn);
    }
  return sum;
}

}  // namespace

int main(int, char** arguments) {
  const bool tall = std::strcmp(arguments[1], "tall") == 0;
  const pcn::Conv2dTraits& traits = tall ? pcn::hopper_dgrad_tall_traits : pcn::hopper_dgrad_traits;
  pcn::Conv2dDgradFn<float>* const row = tall ? pcn::hopper_dgrad_tall : pcn::hopper_dgrad;
  pcn::Conv2dShape shape = kShape;
  shape.n = kBatch, shape.c = kAll, shape.k = kAllFilters, shape.groups = kGroups;
  shape.precision = pcn::Precision::kTf32, shape.capability = 90, shape.splits = 1;
  constexpr int count = kPixels * kAll;
  const float* dy = on_device<float>(kPixels * kAllFilters, dy_of);
  const float* w = on_device<float>(kAllFilters * 9 * kOwn, w_of);
  const float* mask = on_device<float>(count, mask_of);
  void *dx = nullptr, *workspace = nullptr;
  cudaMalloc(&dx, count * sizeof(float));
  cudaMalloc(&workspace, traits.workspace_bytes(shape));
  cudaError_t status = cudaErrorNotSupported;
  if (traits.supports(shape)) status = row(static_cast<float*>(dx), dy, w, mask, shape, workspace, nullptr);
  std::vector<float> result(count);
  if (status == cudaSuccess)
    status = cudaMemcpy(result.data(), dx, count * sizeof(float), cudaMemcpyDeviceToHost);
  int wrong = 0;
  for (int i = 0; i < count; ++i) wrong += result[i] != static_cast<float>(gradient(i));
  std::printf("{\"%s\": {\"error\": \"%s\", \"wrong\": %d, \"bits\": []}}\n", arguments[1],
              status == cudaSuccess ? "" : cudaGetErrorName(status), wrong);
}
