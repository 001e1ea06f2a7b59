// hopper_dgrad.cu: an input gradient by the tile of compute capability 9.0, behind a mask: in TF32 the pass that turns the
// filters, and the product, on the stand-in runtime
//
// Of two groups the pass takes 40 channels of 64 filters in tiles of 32; the product has two tiles of pixels and, of 64
// columns, 40. Eighteen steps turn the ring of four stages round. "tall" has one tile of pixels, of which a warpgroup has
// three times 64; so has "back", in bfloat16, which takes filters as they lie; "transposing" transposes them on the way.
#include "rows.h"

#include "conv/hopper/dgrad.h"

namespace pcn {
PCN_DGRAD_WGMMA(hopper_dgrad, 384, 50, WgmmaTile<128, 64, 32, 4>)
PCN_DGRAD_WGMMA(hopper_dgrad_tall, 384, 50, WgmmaTile<384, 48, 32, 3>)
PCN_DGRAD_WGMMA(hopper_dgrad_transposing, 384, 50, TransposingTile<128, 64, 32, 3>)
PCN_DGRAD_WGMMA_BF16(hopper_dgrad_back, 384, 50, WgmmaTile<384, 48, 64, 3, Bf16>)
template cudaError_t conv::dgrad_finish(const char*, Bf16*, const Bf16*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
template cudaError_t conv::dgrad_finish(const char*, float*, const float*, const Conv2dShape&, void*,
                                        const conv::GemmGrid&, cudaStream_t);
}  // namespace pcn

namespace {

constexpr int kBatch = 3, kGroups = 2, kOwn = 40, kOwnFilters = 64, kAll = kGroups * kOwn,
              kAllFilters = kGroups * kOwnFilters, kPixels = kBatch * kExtent * kExtent;

int dy_of(int i) { return i * 5 % 9 - 4; }
int mask_of(int i) { return i * 7 % 13 - 5; }  // rows and lanes have each their own

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

template <class E>
void gradient_by(const char* name, pcn::Precision precision, const pcn::Conv2dTraits& traits,
                 pcn::Conv2dDgradFn<E>* row) {
  pcn::Conv2dShape shape = kShape;
  shape.n = kBatch, shape.c = kAll, shape.k = kAllFilters, shape.groups = kGroups;
  shape.precision = precision, shape.capability = 90, shape.splits = 1;
  constexpr int count = kPixels * kAll;
  const E* dy = on_device<E>(kPixels * kAllFilters, dy_of);
  const E* w = on_device<E>(kAllFilters * 9 * kOwn, w_of);
  const E* mask = on_device<E>(count, mask_of);
  void *dx = nullptr, *workspace = nullptr;
  cudaMalloc(&dx, count * sizeof(E));
  cudaMalloc(&workspace, traits.workspace_bytes(shape));
  cudaError_t status = cudaErrorNotSupported;
  if (traits.supports(shape)) status = row(static_cast<E*>(dx), dy, w, mask, shape, workspace, nullptr);
  std::vector<E> result(count);
  if (status == cudaSuccess)
    status = cudaMemcpy(result.data(), dx, count * sizeof(E), cudaMemcpyDeviceToHost);
  int wrong = 0;
  for (int i = 0; i < count; ++i) {
    const E want = element<E>(static_cast<float>(gradient(i)));
    wrong += std::memcmp(&want, &result[i], sizeof want) != 0;
  }
  std::printf("{\"%s\": {\"error\": \"%s\", \"wrong\": %d, \"bits\": []}}\n", name,
              status == cudaSuccess ? "" : cudaGetErrorName(status), wrong);
}

}  // namespace

int main(int, char** arguments) {
  using pcn::Precision;
  const char* const name = arguments[1];
  if (std::strcmp(name, "back") == 0)
    gradient_by<pcn::Bf16>(name, Precision::kBf16, pcn::hopper_dgrad_back_traits, pcn::hopper_dgrad_back);
  else if (std::strcmp(name, "transposing") == 0)
    gradient_by<float>(name, Precision::kTf32, pcn::hopper_dgrad_transposing_traits,
                       pcn::hopper_dgrad_transposing);
  else if (std::strcmp(name, "tall") == 0)
    gradient_by<float>(name, Precision::kTf32, pcn::hopper_dgrad_tall_traits, pcn::hopper_dgrad_tall);
  else
    gradient_by<float>(name, Precision::kTf32, pcn::hopper_dgrad_traits, pcn::hopper_dgrad);
}
