// philox.h: Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011). The same bits on every device, and in pyconvnet/common/philox.py.
//
// Element e of a tensor (64-bit row-major index) uses word e % 4 of the block whose counter is
//   (low word of e / 4, high word of e / 4, low word of step, layer)   under the key   (low, high word of
//   seed)
#pragma once
#include "common/device.h"

namespace pcn {

namespace detail {
PCN_HOST_FN uint32_t philox_mul_hi(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
#endif
}
}  // namespace detail

PCN_HOST_FN uint4 philox4x32_10(uint4 counter, uint2 key) {
  for (int round = 0; round < 10; ++round) {
    const uint32_t hi0 = detail::philox_mul_hi(0xD2511F53u, counter.x), lo0 = 0xD2511F53u * counter.x;
    const uint32_t hi1 = detail::philox_mul_hi(0xCD9E8D57u, counter.z), lo1 = 0xCD9E8D57u * counter.z;
    counter = make_uint4(hi1 ^ counter.y ^ key.x, lo1, hi0 ^ counter.w ^ key.y, lo0);
    key.x += 0x9E3779B9u;
    key.y += 0xBB67AE85u;
  }
  return counter;
}

// The four words of elements 4 * block ... 4 * block + 3.
PCN_HOST_FN uint4 philox_block(uint64_t seed, uint64_t step, uint32_t layer, uint64_t block) {
  return philox4x32_10(make_uint4(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                                  static_cast<uint32_t>(step), layer),
                       make_uint2(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)));
}

// Uniform in [0, 1): the upper 24 bits, so that every value is exact in float32.
PCN_HOST_FN float philox_uniform(uint32_t word) {
  return static_cast<float>(word >> 8) * 5.9604644775390625e-8f;
}

}  // namespace pcn
