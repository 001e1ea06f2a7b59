// What the normalisation kernels share: the power, and how far windows reach.
#pragma once
#include "common/device.h"
#include "norm/norm.h"

namespace pcn::norm {

constexpr int THREADS = 256;

// scale^-beta. The paper's 3/4 takes two square roots and a division, each correctly rounded: at most 3 units
// in the last place, less than powf, and the same bits on device and host.
PCN_FN float negative_power(float scale, float beta) {
  if (beta == 0.75f) {
    const float root = sqrtf(scale);
    return 1.f / (root * sqrtf(root));
  }
  return powf(scale, -beta);
}

PCN_FN float4 zero4() { return make_float4(0.f, 0.f, 0.f, 0.f); }

// A window reaches `back` elements down and `ahead` elements up.
struct Reach {
  int back, ahead;
};
constexpr Reach reach_of_window(int size) { return {size / 2, size - 1 - size / 2}; }
constexpr Reach reach_of_windows_over(int size) { return {size - 1 - size / 2, size / 2}; }

inline bool aligned16(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }
inline dim3 blocks_for(long long threads) {
  return dim3(static_cast<unsigned>((threads + THREADS - 1) / THREADS));
}

}  // namespace pcn::norm
