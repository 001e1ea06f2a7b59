// convert.cpp: cvt
#include <limits>

#include "lanes.h"
#include "numbers.h"
#include "types.h"

namespace ptx {
namespace {

// ---- integers to integers: through 64 bits; saturated where asked for ----
template <class D, class S, bool SAT>
struct Integers {
  static D f(S s) {
    if constexpr (SAT) {
      __extension__ typedef __int128 Big;
      const Big v = s, low = std::numeric_limits<D>::min(), high = std::numeric_limits<D>::max();
      return static_cast<D>(v < low ? low : v > high ? high : v);
    }
    return static_cast<D>(s);
  }
};

// From the low bits of a register of 64.
template <class D, class S>
struct FromDouble {
  static D f(uint64_t s) { return static_cast<D>(static_cast<S>(s)); }
};

// ---- floating-point numbers to integers: rounded, clamped; NaN is 0 ----
template <class T, char MODE>
T rounded(T x) {
  if constexpr (MODE == 'n')
    return std::is_same_v<T, float> ? __builtin_nearbyintf(static_cast<float>(x)) : __builtin_nearbyint(x);
  if constexpr (MODE == 'z')
    return std::is_same_v<T, float> ? __builtin_truncf(static_cast<float>(x)) : __builtin_trunc(x);
  if constexpr (MODE == 'm')
    return std::is_same_v<T, float> ? __builtin_floorf(static_cast<float>(x)) : __builtin_floor(x);
  return std::is_same_v<T, float> ? __builtin_ceilf(static_cast<float>(x)) : __builtin_ceil(x);
}
template <class D, class S, char MODE, bool FTZ>
struct ToInteger {
  static D f(S s) {
    if constexpr (FTZ) s = flushed(s);
    const S x = rounded<S, MODE>(s);
    if (x != x) return 0;
    // The first number beyond D, a power of two: S holds it.
    const S beyond = -2 * static_cast<S>(std::numeric_limits<std::make_signed_t<D>>::min());
    const S high = std::is_signed_v<D> ? beyond / 2 : beyond, low = std::is_signed_v<D> ? -high : S{0};
    if (x >= high) return std::numeric_limits<D>::max();
    if (x < low) return std::numeric_limits<D>::min();
    return static_cast<D>(x);
  }
};
template <class T, char MODE, bool FTZ, bool SAT>
struct ToWhole {  // cvt.rni.f32.f32 and the like
  static T f(T x) {
    if constexpr (FTZ) x = flushed(x);
    x = rounded<T, MODE>(x);
    if constexpr (SAT) x = saturated(x);
    return canonical(x);
  }
};
template <class T, bool FTZ, bool SAT>
struct Same {  // cvt.sat.f32.f32
  static T f(T x) {
    if constexpr (FTZ) x = flushed(x);
    if constexpr (SAT) x = saturated(x);
    return x;
  }
};
template <class D, class S, bool FTZ, bool SAT>
struct Real {  // between float32 and float64, and from integers
  static D f(S s) {
    if constexpr (FTZ && std::is_same_v<S, float>) s = flushed(s);
    D d = static_cast<D>(s);
    if constexpr (std::is_same_v<D, float>) d = canonical(d);
    if constexpr (SAT) d = saturated(d);
    if constexpr (FTZ && std::is_same_v<D, float>) d = flushed(d);
    return d;
  }
};
struct WidenHalf {
  static float f(uint16_t h) { return canonical(Half::widen(h)); }
};
struct WidenBfloat16 {
  static float f(uint16_t h) { return float_of(uint32_t{h} << 16); }
};
template <class FORMAT, char MODE, bool RELU>
struct Narrow {
  static uint16_t f(float x) {
    if (RELU && x < 0) return 0;
    return FORMAT::narrow(static_cast<double>(x), MODE);
  }
};
struct NarrowBfloat16 {
  static uint16_t f(float x) { return static_cast<uint16_t>(bfloat16_rn(x)); }
};
template <class FORMAT, char MODE, bool RELU>
struct NarrowTwo {  // a to the upper half, b to the lower
  static uint32_t f(float a, float b) {
    return uint32_t{Narrow<FORMAT, MODE, RELU>::f(a)} << 16 | Narrow<FORMAT, MODE, RELU>::f(b);
  }
};
struct Tf32 {
  static uint32_t f(float x) { return tf32_rna(x); }
};

template <class D, class S, class F>
Handler rounding(const std::string& mode, Instr& in) {
  return rounded_by<unary<F, D, S>>(mode, in);
}

template <class F>
bool with_real(const std::string& type, F f) {
  if (type == "f32") return f(float{}), true;
  if (type == "f64") return f(double{}), true;
  return false;
}
template <class F>
bool with_any_integer(const std::string& type, F f) {
  if (type == "s8") return f(int8_t{}), true;
  if (type == "u8" || type == "b8") return f(uint8_t{}), true;
  return with_integer(type, f);
}
template <class F>
void with_mode(const std::string& mode, F f) {  // rni, rzi, rmi, rpi
  using std::integral_constant;
  if (mode == "rni") f(integral_constant<char, 'n'>{});
  if (mode == "rzi") f(integral_constant<char, 'z'>{});
  if (mode == "rmi") f(integral_constant<char, 'm'>{});
  if (mode == "rpi") f(integral_constant<char, 'p'>{});
}
template <class F>
void with_flag(bool flag, F f) {
  flag ? f(std::true_type{}) : f(std::false_type{});
}

struct Conversion {
  std::string to, from, mode;
  bool ftz, sat, relu;
};

void integers(const Conversion& c, Instr& in) {
  with_any_integer(c.to, [&](auto d) {
    with_any_integer(c.from, [&](auto s) {
      with_flag(c.sat, [&](auto sat) {
        using D = decltype(d);
        using S = decltype(s);
        in.run = unary<Integers<D, S, decltype(sat)::value>, D, S>;
      });
    });
  });
}
void from_double(const Conversion& c, Instr& in) {
  with_any_integer(c.to, [&](auto d) {
    with_any_integer(
        c.from, [&](auto s) { in.run = unary<FromDouble<decltype(d), decltype(s)>, decltype(d), uint64_t>; });
  });
}
void to_integer(const Conversion& c, Instr& in) {
  with_any_integer(c.to, [&](auto d) {
    with_real(c.from, [&](auto s) {
      with_mode(c.mode, [&](auto mode) {
        with_flag(c.ftz, [&](auto ftz) {
          using D = decltype(d);
          using S = decltype(s);
          constexpr bool Z = decltype(ftz)::value && sizeof(S) == 4;
          in.run = unary<ToInteger<D, S, decltype(mode)::value, Z>, D, S>;
        });
      });
    });
  });
}
void from_integer(const Conversion& c, Instr& in) {
  with_real(c.to, [&](auto d) {
    with_any_integer(c.from, [&](auto s) {
      with_flag(c.sat, [&](auto sat) {
        using D = decltype(d);
        using S = decltype(s);
        in.run = rounding<D, S, Real<D, S, false, decltype(sat)::value>>(c.mode, in);
      });
    });
  });
}
void reals(const Conversion& c, Instr& in) {
  const bool whole = c.mode.size() == 3;
  with_flag(c.ftz, [&](auto z) {
    with_flag(c.sat, [&](auto s) {
      constexpr bool Z = decltype(z)::value, SAT = decltype(s)::value;
      if (c.to == "f32" && c.from == "f32") {
        if (whole)
          with_mode(c.mode, [&](auto m) {
            in.run = unary<ToWhole<float, decltype(m)::value, Z, SAT>, float, float>;
          });
        if (c.mode.empty()) in.run = unary<Same<float, Z, SAT>, float, float>;
      } else if (c.to == "f64" && c.from == "f64") {
        if (whole)
          with_mode(c.mode, [&](auto m) {
            in.run = unary<ToWhole<double, decltype(m)::value, false, SAT>, double, double>;
          });
        if (c.mode.empty()) in.run = unary<Same<double, false, SAT>, double, double>;
      } else if (c.to == "f64" && !whole) {
        in.run = unary<Real<double, float, Z, SAT>, double, float>;
      } else if (!whole && !c.mode.empty()) {
        in.run = rounding<float, double, Real<float, double, Z, SAT>>(c.mode, in);
      }
    });
  });
}

template <class FORMAT, char MODE>
void narrowing(const Conversion& c, Instr& in) {
  const bool two = c.to.back() == '2';
  with_flag(c.relu, [&](auto relu) {
    constexpr bool R = decltype(relu)::value;
    in.run = two ? Handler{binary<NarrowTwo<FORMAT, MODE, R>, uint32_t, float>}
                 : Handler{unary<Narrow<FORMAT, MODE, R>, uint16_t, float>};
  });
}

void decode_cvt(Form& form, Instr& in) {
  Conversion c;
  c.mode = form.take_any({"rni", "rzi", "rmi", "rpi", "rna", "rn", "rz", "rm", "rp"});
  c.ftz = form.take("ftz"), c.sat = form.take("sat"), c.relu = form.take("relu");
  c.from = form.take_type();
  c.to = form.take_type();
  const auto is_real = [](const std::string& t) { return t == "f32" || t == "f64"; };
  const auto is_small = [](const std::string& t) { return t.find("f16") != std::string::npos; };
  const bool two = is_small(c.to) && c.to.back() == '2';
  form.arguments(two ? 3 : 2);
  in.d = form.destination(form.args[0], type_bits(c.to), true);
  in.a = form.any_source(form.args[1], c.from, true);
  if (two) in.b = form.any_source(form.args[2], c.from);
  const bool low_bits = form.is_64(form.args[1]) && type_bits(c.from) < 64;
  if (form.is_64(form.args[0]) != (type_bits(c.to) == 64) ||
      (low_bits && (is_real(c.to) || is_real(c.from) || c.sat || is_small(c.to) || is_small(c.from)))) {
    form.fail("this conversion between registers of 64 bits is not known");
  }
  if (c.to == "tf32") {
    if (c.mode == "rna" && c.from == "f32" && !c.ftz && !c.sat && !c.relu)
      in.run = unary<Tf32, uint32_t, float>;
  } else if (is_small(c.to)) {
    const bool brain = c.to[0] == 'b';
    if (c.from != "f32" || c.ftz || c.sat) form.unknown();
    if (c.mode == "rn") brain ? narrowing<Bfloat16, 'n'>(c, in) : narrowing<Half, 'n'>(c, in);
    if (c.mode == "rz") brain ? narrowing<Bfloat16, 'z'>(c, in) : narrowing<Half, 'z'>(c, in);
    if (c.to == "bf16" && c.mode == "rn" && !c.relu) in.run = unary<NarrowBfloat16, uint16_t, float>;
  } else if (is_small(c.from)) {
    if (c.to != "f32" || !c.mode.empty() || c.sat || c.relu || two) form.unknown();
    if (c.from == "f16") in.run = unary<WidenHalf, float, uint16_t>;
    if (c.from == "bf16" && !c.ftz) in.run = unary<WidenBfloat16, float, uint16_t>;
  } else if (c.relu) {
    form.unknown();
  } else if (is_real(c.to)) {
    is_real(c.from) ? reals(c, in) : from_integer(c, in);
  } else if (is_real(c.from)) {
    to_integer(c, in);
  } else if (c.mode.empty() && !c.ftz) {
    low_bits ? from_double(c, in) : integers(c, in);
  }
}

}  // namespace

void add_convert(std::map<std::string, Decode>& table) { table["cvt"] = decode_cvt; }

}  // namespace ptx
