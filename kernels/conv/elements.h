// Neighbouring elements, float or Bf16, through the read-only cache, as float; what becomes TF32. Device code.
#pragma once
#include "common/device.h"
#include "common/element.h"

namespace pcn::conv {

// v = the N elements from p, in one access of at most 16 bytes, to which p is aligned.
template <int N>
__device__ __forceinline__ void load_constant(float (&v)[N], const float* p) {
  if constexpr (N == 4) {
    const float4 q = __ldg(reinterpret_cast<const float4*>(p));
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
  } else if constexpr (N == 2) {
    const float2 q = __ldg(reinterpret_cast<const float2*>(p));
    v[0] = q.x, v[1] = q.y;
  } else {
    static_assert(N == 1, "1, 2 or 4 elements");
    v[0] = __ldg(p);
  }
}
template <int N>
__device__ __forceinline__ void load_constant(float (&v)[N], const Bf16* p) {
  const auto low = [](uint32_t pair) { return __uint_as_float(pair << 16); };
  const auto high = [](uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); };
  if constexpr (N == 8) {
    const uint4 q = __ldg(reinterpret_cast<const uint4*>(p));
    v[0] = low(q.x), v[1] = high(q.x), v[2] = low(q.y), v[3] = high(q.y);
    v[4] = low(q.z), v[5] = high(q.z), v[6] = low(q.w), v[7] = high(q.w);
  } else if constexpr (N == 4) {
    const uint2 q = __ldg(reinterpret_cast<const uint2*>(p));
    v[0] = low(q.x), v[1] = high(q.x), v[2] = low(q.y), v[3] = high(q.y);
  } else if constexpr (N == 2) {
    const uint32_t q = __ldg(reinterpret_cast<const uint32_t*>(p));
    v[0] = low(q), v[1] = high(q);
  } else {
    static_assert(N == 1, "1, 2, 4 or 8 elements");
    v[0] = from_bf16(__ldg(reinterpret_cast<const unsigned short*>(p)));
  }
}

// Makes of the tensor core's cut a rounding. It drops the 13 lowest bits of an operand, as numbers go half a
// step of TF32 on the average; this adds about as much beforehand, 0.36 to 0.72 steps (23 2^-16 of a number
// that is 1 to 2 times 2^10 steps). Of 2^-11 of the operand, errors are 0.45 rms and at most 1.28 (nearest:
// 0.42, 1), their mean is 0.002. A TF32 number stays it; NaN and infinity stay what they are.
__device__ __forceinline__ uint32_t raised(uint32_t x) {
  return __float_as_uint(__uint_as_float(x) * (1.f + 23.f / 65536.f));
}

}  // namespace pcn::conv
