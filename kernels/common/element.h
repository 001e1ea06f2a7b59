// element.h: arrays of float or Bf16, read and written as float
//
//   widen(x)             the value of an element
//   narrow<T>(f)         the nearest element, ties to even
//   load4(p), store4(p, v)   four neighbours in one access of 4 * sizeof(T) bytes, to which p is aligned
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
PCN_FN void store4(T* p, float4 v) {
  *reinterpret_cast<Four<T>*>(p) = {{narrow<T>(v.x), narrow<T>(v.y), narrow<T>(v.z), narrow<T>(v.w)}};
}

}  // namespace pcn
