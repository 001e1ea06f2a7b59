// element.h: arrays of float or Bf16, read and written as float
//
//   widen(x)             the value of an element
//   narrow<T>(f)         the nearest element, ties to even
//   load4(p), store4(p, v)   four neighbours in one access of 4 * sizeof(T) bytes, to which p is aligned
//   load_run(v, p), store_run(p, v)   likewise as many neighbours as the array v of float holds
//   PER_ACCESS<T>        how many elements the widest access of a thread, 16 bytes, moves
#pragma once
#include "common/primitives.h"
#include "common/types.h"

namespace pcn {

PCN_FN float widen(float x) { return x; }
PCN_FN float widen(Bf16 x) { return from_bf16(x.bits); }

template <class T>
PCN_FN T narrow(float f) {
  if constexpr (sizeof(T) == sizeof(float))
    return f;
  else
    return T{to_bf16(f)};
}

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

template <class T>
PCN_FN float4 load4(const T* p) {
  const Four<T> four = *reinterpret_cast<const Four<T>*>(p);
  return make_float4(widen(four.v[0]), widen(four.v[1]), widen(four.v[2]), widen(four.v[3]));
}

template <class T>
constexpr int PER_ACCESS = 16 / static_cast<int>(sizeof(T));

template <class Word, int N>
struct alignas(N * sizeof(Word)) Words {
  Word v[N];
};

template <int N>
PCN_FN void load_run(float (&v)[N], const float* p) {
  const Words<float, N> words = *reinterpret_cast<const Words<float, N>*>(p);
  PCN_UNROLL
  for (int i = 0; i < N; ++i) v[i] = words.v[i];
}
template <int N>
PCN_FN void load_run(float (&v)[N], const Bf16* p) {
  if constexpr (N % 2 == 0) {  // by words of two elements: nvcc makes one access of them, not of eight halves
    const Words<std::uint32_t, N / 2> words = *reinterpret_cast<const Words<std::uint32_t, N / 2>*>(p);
    PCN_UNROLL
    for (int i = 0; i < N; ++i) v[i] = from_bf16(static_cast<std::uint16_t>(words.v[i / 2] >> (i % 2 * 16)));
  } else {
    static_assert(N == 1, "a power of two");
    v[0] = widen(*p);
  }
}

template <int N>
PCN_FN void store_run(float* p, const float (&v)[N]) {
  Words<float, N> words;
  PCN_UNROLL
  for (int i = 0; i < N; ++i) words.v[i] = v[i];
  *reinterpret_cast<Words<float, N>*>(p) = words;
}
template <int N>
PCN_FN void store_run(Bf16* p, const float (&v)[N]) {
  if constexpr (N % 2 == 0) {
    Words<std::uint32_t, N / 2> words;
    PCN_UNROLL
    for (int i = 0; i < N; i += 2)
      words.v[i / 2] = to_bf16(v[i]) | static_cast<std::uint32_t>(to_bf16(v[i + 1])) << 16;
    *reinterpret_cast<Words<std::uint32_t, N / 2>*>(p) = words;
  } else {
    static_assert(N == 1, "a power of two");
    *p = narrow<Bf16>(v[0]);
  }
}

template <class T>
PCN_FN void store4(T* p, float4 v) {
  const float values[4] = {v.x, v.y, v.z, v.w};
  store_run(p, values);
}

}  // namespace pcn
