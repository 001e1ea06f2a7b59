// lanes.h: how an instruction's function of one lane becomes a handler for a warp
//
// A row of a register file is 32 words or 32 doubles; narrower types lie in the low bits of a word. A value
// is defined where all it is computed from is.
#pragma once
#include <cfenv>
#include <string>

#include "decode.h"
#include "machine.h"

namespace ptx {

template <class T>
using Row = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T>
inline T get(const Row<T>* row, int i) {
  if constexpr (sizeof(T) == sizeof(Row<T>)) {
    T v;
    std::memcpy(&v, row + i, sizeof v);
    return v;
  } else {
    return static_cast<T>(row[i]);
  }
}
template <class T>
inline Row<T> bits(T v) {
  if constexpr (sizeof(T) == sizeof(Row<T>)) {
    Row<T> r;
    std::memcpy(&r, &v, sizeof v);
    return r;
  } else {
    return static_cast<uint32_t>(static_cast<std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>(v));
  }
}

template <class T>
inline Row<T>* row(Warp& w, Operand o) {
  if constexpr (sizeof(T) == 8) {
    return w.doubles[o.bank()] + size_t{o.slot()} * LANES;
  } else {
    return w.words[o.bank()] + size_t{o.slot()} * LANES;
  }
}
template <class T>
inline Mask& defined(Warp& w, Operand o) {
  if constexpr (sizeof(T) == 8) {
    return w.double_defined[o.bank()][o.slot()];
  } else {
    return w.word_defined[o.bank()][o.slot()];
  }
}
inline Mask& predicate(Warp& w, Operand o) { return w.predicates[o.bank()][o.slot()]; }
inline Mask& predicate_defined(Warp& w, Operand o) { return w.predicate_defined[o.bank()][o.slot()]; }

inline void set_bits(Mask& m, Mask active, Mask value) { m = (m & ~active) | (value & active); }
template <class T>
inline void define(Warp& w, Operand o, Mask ok) {
  set_bits(defined<T>(w, o), w.active, ok);
}
inline void set_predicate(Warp& w, Operand o, Mask value, Mask ok) {
  set_bits(predicate(w, o), w.active, value);
  set_bits(predicate_defined(w, o), w.active, ok);
}

// row[i] = f(i) where active.
template <class T, class F>
inline __attribute__((always_inline)) void store_lanes(Warp& w, Operand o, F f) {
  Row<T>* d = row<T>(w, o);
  if (w.active == ALL) {
#pragma GCC ivdep
    for (int i = 0; i < LANES; ++i) d[i] = bits<T>(f(i));
  } else {
    const Mask active = w.active;
#pragma GCC ivdep
    for (int i = 0; i < LANES; ++i) {
      const Row<T> r = bits<T>(f(i));
      d[i] = active & BIT[i] ? r : d[i];
    }
  }
}

template <class F, class D, class A>
void unary(Warp& w, const Instr& in) {
  const auto* a = row<A>(w, in.a);
  define<D>(w, in.d, defined<A>(w, in.a));
  store_lanes<D>(w, in.d, [=](int i) { return static_cast<D>(F::f(get<A>(a, i))); });
}
template <class F, class D, class A, class B = A>
void binary(Warp& w, const Instr& in) {
  const auto* a = row<A>(w, in.a);
  const auto* b = row<B>(w, in.b);
  define<D>(w, in.d, defined<A>(w, in.a) & defined<B>(w, in.b));
  store_lanes<D>(w, in.d, [=](int i) { return static_cast<D>(F::f(get<A>(a, i), get<B>(b, i))); });
}
template <class F, class D, class A, class B = A, class C = A>
void ternary(Warp& w, const Instr& in) {
  const auto* a = row<A>(w, in.a);
  const auto* b = row<B>(w, in.b);
  const auto* c = row<C>(w, in.c);
  define<D>(w, in.d, defined<A>(w, in.a) & defined<B>(w, in.b) & defined<C>(w, in.c));
  store_lanes<D>(w, in.d,
                 [=](int i) { return static_cast<D>(F::f(get<A>(a, i), get<B>(b, i), get<C>(c, i))); });
}

// Under a rounding mode other than to nearest, which in.flags name. (The barriers keep the compiler from moving
// arithmetic across.)
template <Handler RUN>
void directed(Warp& w, const Instr& in) {
  std::fesetround(static_cast<int>(in.flags));
  asm volatile("" ::: "memory");
  RUN(w, in);
  asm volatile("" ::: "memory");
  std::fesetround(FE_TONEAREST);
}

// The handler under the mode that an instruction's modifier names.
template <Handler RUN>
Handler rounded_by(const std::string& mode, Instr& in) {
  in.flags = static_cast<uint32_t>(mode == "rz" ? FE_TOWARDZERO : mode == "rm" ? FE_DOWNWARD : FE_UPWARD);
  return mode == "rn" || mode.empty() ? RUN : directed<RUN>;
}

// The mask of lanes for which f holds.
template <class F>
inline __attribute__((always_inline)) Mask lanes_where(F f) {
  Mask m = 0;
  for (int i = 0; i < LANES; ++i) m |= f(i) ? BIT[i] : 0;
  return m;
}

}  // namespace ptx
