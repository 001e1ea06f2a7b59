// What the normalisation kernels share: the power, how far windows reach, and elements as float.
#pragma once
#include "common/element.h"
#include "norm/norm.h"

namespace pcn::norm {

constexpr int THREADS = 256;

// Of the kernels that keep whole rows in shared memory: elements of a block, and the longest row.
constexpr int TILE = 4096;
constexpr int MAX_CHANNELS = 12 * 1024;
static_assert(MAX_CHANNELS * sizeof(float) <= 48 * 1024,
              "more shared memory must be asked for on every device");

// scale^-beta. The paper's 3/4 takes two square roots and a division, each correctly rounded: at most 3 units
// in the last place, less than powf, and the same bits on device and host.
PCN_FN float negative_power(float scale, float beta) {
  if (beta == 0.75f) {
    const float root = sqrtf(scale);
    return 1.f / (root * sqrtf(root));
  }
  return powf(scale, -beta);
}

// y, the normalised element: read, or of a type that has rounded it worked out anew.
template <class T>
PCN_FN float normalised(T x, T y, float scale, float beta) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return y;
  } else {
    return widen(x) * negative_power(scale, beta);
  }
}

// The gradient before the ReLU that x came out of, if it did: relu_backward's rule. NaN lets it pass.
PCN_FN float before_relu(bool relu, float x, float dx) { return relu && x <= 0.f ? 0.f : dx; }

// Four neighbouring elements by their number as such.
template <class T>
PCN_FN float4 load4(const Four<T>* p) {
  return pcn::load4(reinterpret_cast<const T*>(p));
}
template <class T>
PCN_FN void store4(Four<T>* p, float4 v) {
  pcn::store4(reinterpret_cast<T*>(p), v);
}

PCN_FN float4 zero4() { return make_float4(0.f, 0.f, 0.f, 0.f); }

// A window reaches `back` elements down and `ahead` elements up.
struct Reach {
  int back, ahead;
};
constexpr Reach reach_of_window(int size) { return {size / 2, size - 1 - size / 2}; }
constexpr Reach reach_of_windows_over(int size) { return {size - 1 - size / 2, size / 2}; }

// Whether accesses to four neighbours are aligned.
template <class T>
bool aligned4(const T* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % (4 * sizeof(T)) == 0;
}
template <class T>
Four<T>* fours(T* pointer) {
  return reinterpret_cast<Four<T>*>(pointer);
}
template <class T>
const Four<T>* fours(const T* pointer) {
  return reinterpret_cast<const Four<T>*>(pointer);
}
inline dim3 blocks_for(long long threads) {
  return dim3(static_cast<unsigned>((threads + THREADS - 1) / THREADS));
}

}  // namespace pcn::norm
