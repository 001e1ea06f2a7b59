// What the pooling kernels share: packs of channels that move as one access, and the geometry of windows.
#pragma once
#include "common/element.h"
#include "pool/pool.h"

namespace pcn::pool {

constexpr int THREADS = 256;

// VEC neighbouring channels, loaded and stored as one access of VEC * sizeof(T) bytes.
template <class T, int VEC>
struct alignas(sizeof(T) * VEC) Pack {
  T v[VEC];
};

template <int VEC, class T>
PCN_FN Pack<T, VEC> load(const T* p) {
  return *reinterpret_cast<const Pack<T, VEC>*>(p);
}
template <int VEC, class T>
PCN_FN void store(T* p, const Pack<T, VEC>& value) {
  *reinterpret_cast<Pack<T, VEC>*>(p) = value;
}

// Likewise elements of float or Bf16 as float.
template <int VEC, class T>
PCN_FN Pack<float, VEC> load_values(const T* p) {
  Pack<float, VEC> values;
  load_run(values.v, p);
  return values;
}
template <class T, int VEC>
PCN_FN void store_values(T* p, const Pack<float, VEC>& values) {
  store_run(p, values.v);
}

// The gradient before a ReLU, of that behind it and of what came out: relu_backward's rule. NaN lets it pass.
template <int VEC>
PCN_FN void mask_out(Pack<float, VEC>& gradient, const Pack<float, VEC>& output) {
  PCN_UNROLL
  for (int j = 0; j < VEC; ++j) gradient.v[j] = output.v[j] <= 0.f ? 0.f : gradient.v[j];
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

// In how many pixels of one axis an average divides: those of the window inside [-before, extent + after).
PCN_FN int counted(int first, int size, int extent, int before, int after) {
  return min(first + size, extent + after) - max(first, -before);
}

// A kernel's thread handles VEC channels of one pixel; this takes its number apart.
struct Place {
  int n, row, col, c;
};
template <int VEC>
PCN_FN Place place_of(unsigned thread, int rows, int cols, int c) {
  const unsigned packs = static_cast<unsigned>(c) / VEC;
  const unsigned pixel = thread / packs, line = pixel / cols;
  return {static_cast<int>(line / rows), static_cast<int>(line % rows), static_cast<int>(pixel % cols),
          static_cast<int>(thread % packs) * VEC};
}

inline bool aligned(const void* pointer, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}
inline dim3 blocks_for(long long threads) {
  return dim3(static_cast<unsigned>((threads + THREADS - 1) / THREADS));
}

}  // namespace pcn::pool
