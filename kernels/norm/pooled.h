// What the kernels of lrn_max_pool2d share: packs of channels, windows of pixels, and one order of maxima.
#pragma once
#include "norm/response.h"

namespace pcn::norm {

// VEC neighbouring channels, in memory one access of VEC * sizeof(T) bytes.
template <class T, int VEC>
struct alignas(sizeof(T) * VEC) Pack {
  T v[VEC];
};
using Float4 = Pack<float, 4>;
using Byte4 = Pack<std::uint8_t, 4>;

template <class T>
PCN_FN Float4 load(const Pack<T, 4>* p) {
  Float4 pack;
  load_run(pack.v, p->v);
  return pack;
}
template <class T>
PCN_FN void store(Pack<T, 4>* p, const Float4& pack) {
  store_run(p->v, pack.v);
}

// The part [begin, end) of a window that is inside the image; first may be negative.
struct Clip {
  int begin, end;
};
PCN_FN Clip clip(int first, int size, int extent) { return {max(0, -first), min(size, extent - first)}; }

// The windows [begin, end) that hold a pixel, whose coordinate `padded` counts from the padding's edge.
PCN_FN Clip windows_over(int padded, int size, int stride, int windows) {
  return {padded < size ? 0 : (padded - size) / stride + 1, min(windows, padded / stride + 1)};
}

// Whether a value takes the place of the best before it: a greater one, or the first NaN.
PCN_FN bool beats(float value, float best) { return !(value <= best) && best == best; }

// scale of the channel at x, number `place` in its group.
template <class T>
PCN_FN float scale_at(const T* x, int place, int per_group, Reach reach, float alpha, float k) {
  const int begin = -min(reach.back, place), end = min(reach.ahead, per_group - 1 - place);
  float sum = 0.f;
  for (int d = begin; d <= end; ++d) {
    const float value = widen(x[d]);
    sum += value * value;
  }
  return k + alpha * sum;
}

inline bool aligned(const void* pointer, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

}  // namespace pcn::norm
