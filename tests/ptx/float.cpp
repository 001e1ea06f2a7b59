// float.cpp: arithmetic of float32 and float64
#include <cmath>

#include "lanes.h"
#include "numbers.h"

namespace ptx {
namespace {

struct Add {
  template <class T>
  static T f(T a, T b) {
    return a + b;
  }
};
struct Sub {
  template <class T>
  static T f(T a, T b) {
    return a - b;
  }
};
struct Mul {
  template <class T>
  static T f(T a, T b) {
    return a * b;
  }
};
struct Fma {
  static float f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static double f(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
struct Div {
  template <class T>
  static T f(T a, T b) {
    return a / b;
  }
};
struct DivApprox {  // 2 ulp for 2^-126 <= |b| <= 2^126; beyond, the quotient's scaling underflows
  static float f(float a, float b) {
    const float size = std::fabs(b);
    if (size > 0x1p126f && std::isfinite(size)) return std::isinf(a) ? NAN : std::copysign(0.f, a * b);
    return a / b;
  }
};
struct Rcp {
  template <class T>
  static T f(T a) {
    return T{1} / a;
  }
};
struct Sqrt {
  static float f(float a) { return __builtin_sqrtf(a); }
  static double f(double a) { return __builtin_sqrt(a); }
};
// The approximations, rounded from float64: the best they may be.
struct Rsqrt {
  static float f(float a) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a))); }
  static double f(double a) { return 1.0 / std::sqrt(a); }
};
struct Ex2 {
  static float f(float a) { return static_cast<float>(std::exp2(static_cast<double>(a))); }
};
struct Lg2 {
  static float f(float a) { return static_cast<float>(std::log2(static_cast<double>(a))); }
};
struct Sin {
  static float f(float a) { return static_cast<float>(std::sin(static_cast<double>(a))); }
};
struct Cos {
  static float f(float a) { return static_cast<float>(std::cos(static_cast<double>(a))); }
};
struct Tanh {
  static float f(float a) { return static_cast<float>(std::tanh(static_cast<double>(a))); }
};
// The other one where one is NaN; -0 is less than +0.
template <bool MAX>
struct Extreme {
  template <class T>
  static T f(T a, T b) {
    using W = Row<T>;
    const W u = bits(a), v = bits(b);
    const W equal = MAX ? u & v : u | v;
    const T tie = get<T>(&equal, 0);
    const bool first = MAX ? a > b : a < b, second = MAX ? b > a : b < a;
    return first ? a : second ? b : a != a ? b : b != b ? a : tie;
  }
};
template <bool MAX>
struct ExtremeNan {
  template <class T>
  static T f(T a, T b) {
    return a != a || b != b ? static_cast<T>(NAN) : Extreme<MAX>::f(a, b);
  }
};

template <class F, class T, bool FTZ, bool SAT>
struct Full {
  static T in(T x) {
    if constexpr (FTZ) return flushed(x);
    return x;
  }
  static T out(T x) {
    x = canonical(x);
    if constexpr (SAT) x = saturated(x);
    if constexpr (FTZ) x = flushed(x);
    return x;
  }
  template <class... A>
  static T f(A... a) {
    return out(F::f(in(a)...));
  }
};

template <class F, class T, int SOURCES>
void arithmetic(Warp& w, const Instr& in) {
  if constexpr (SOURCES == 1) unary<F, T, T>(w, in);
  if constexpr (SOURCES == 2) binary<F, T, T>(w, in);
  if constexpr (SOURCES == 3) ternary<F, T, T>(w, in);
}

template <class F, class T, int SOURCES>
void choose(Form& form, Instr& in, bool ftz, bool sat, const std::string& rounding) {
  if constexpr (std::is_same_v<T, float>) {
    const auto pick = [&](auto z, auto s) {
      constexpr Handler run = arithmetic<Full<F, T, decltype(z)::value, decltype(s)::value>, T, SOURCES>;
      in.run = rounded_by<run>(rounding, in);
    };
    using Yes = std::true_type;
    using No = std::false_type;
    ftz ? (sat ? pick(Yes{}, Yes{}) : pick(Yes{}, No{})) : (sat ? pick(No{}, Yes{}) : pick(No{}, No{}));
  } else {
    if (ftz || sat) form.unknown();
    constexpr Handler run = arithmetic<F, T, SOURCES>;
    in.run = rounded_by<run>(rounding, in);
  }
}

template <int SOURCES>
void operands(Form& form, Instr& in, const std::string& type) {
  form.arguments(1 + SOURCES);
  in.d = form.destination(form.args[0], type_bits(type));
  in.a = form.real_source(form.args[1], type);
  if (SOURCES > 1) in.b = form.real_source(form.args[2], type);
  if (SOURCES > 2) in.c = form.real_source(form.args[3], type);
}

enum Rounds { kNever, kMay, kMust };

// op{.rnd}{.ftz}{.sat}.f32 or f64
template <class F, int SOURCES, Rounds ROUNDS>
void rounded(Form& form, Instr& in) {
  const std::string type = form.take_type(), rounding = form.take_any({"rn", "rz", "rm", "rp"});
  if ((ROUNDS == kNever && !rounding.empty()) || (ROUNDS == kMust && rounding.empty())) form.unknown();
  const bool ftz = form.take("ftz"), sat = form.take("sat");
  if (type == "f32") choose<F, float, SOURCES>(form, in, ftz, sat, rounding);
  if (type == "f64") choose<F, double, SOURCES>(form, in, ftz, sat, rounding);
  operands<SOURCES>(form, in, type);
}

// op.approx{.ftz}.f32
template <class F, int SOURCES>
void approximate(Form& form, Instr& in) {
  if (!form.take("approx")) form.unknown();
  const std::string type = form.take_type();
  const bool ftz = form.take("ftz");
  if (type != "f32") form.unknown();
  choose<F, float, SOURCES>(form, in, ftz, false, "");
  operands<SOURCES>(form, in, type);
}

template <class EXACT, class APPROXIMATE, int SOURCES>
void either(Form& form, Instr& in) {
  if (form.peek() == "approx") return approximate<APPROXIMATE, SOURCES>(form, in);
  rounded<EXACT, SOURCES, kMust>(form, in);
}

template <bool MAX>
void extreme(Form& form, Instr& in) {
  if (!form.take("NaN")) return rounded<Extreme<MAX>, 2, kNever>(form, in);
  rounded<ExtremeNan<MAX>, 2, kNever>(form, in);
}

// ---- signs: bits, not arithmetic ----
struct Neg {
  template <class T>
  static T f(T a) {
    return -a;
  }
};
struct Abs {
  static float f(float a) { return __builtin_fabsf(a); }
  static double f(double a) { return __builtin_fabs(a); }
};
struct Copysign {  // the sign of a, the size of b
  static float f(float a, float b) { return __builtin_copysignf(b, a); }
  static double f(double a, double b) { return __builtin_copysign(b, a); }
};
struct Flushed {
  template <class F>
  struct Of {
    static float f(float a) { return F::f(flushed(a)); }
  };
};
template <class F, int SOURCES>
void sign(Form& form, Instr& in) {
  const std::string type = form.take_type();
  if constexpr (SOURCES == 1) {
    const bool ftz = form.take("ftz");
    if (type == "f32") in.run = ftz ? arithmetic<Flushed::Of<F>, float, 1> : arithmetic<F, float, 1>;
    if (type == "f64" && !ftz) in.run = arithmetic<F, double, 1>;
  } else {
    in.run = type == "f32" ? arithmetic<F, float, 2> : arithmetic<F, double, 2>;
  }
  operands<SOURCES>(form, in, type);
}

}  // namespace

void add_float(std::map<std::string, Decode>& table) {
  table["add.f"] = rounded<Add, 2, kMay>;
  table["sub.f"] = rounded<Sub, 2, kMay>;
  table["mul.f"] = rounded<Mul, 2, kMay>;
  table["fma.f"] = table["mad.f"] = rounded<Fma, 3, kMust>;
  table["div.f"] = [](Form& form, Instr& in) {
    if (form.take("full")) return rounded<Div, 2, kNever>(form, in);
    either<Div, DivApprox, 2>(form, in);
  };
  table["rcp.f"] = either<Rcp, Rcp, 1>;
  table["sqrt.f"] = either<Sqrt, Sqrt, 1>;
  table["rsqrt.f"] = approximate<Rsqrt, 1>;
  table["ex2.f"] = approximate<Ex2, 1>;
  table["lg2.f"] = approximate<Lg2, 1>;
  table["sin.f"] = approximate<Sin, 1>;
  table["cos.f"] = approximate<Cos, 1>;
  table["tanh.f"] = approximate<Tanh, 1>;
  table["min.f"] = extreme<false>;
  table["max.f"] = extreme<true>;
  table["neg.f"] = sign<Neg, 1>;
  table["abs.f"] = sign<Abs, 1>;
  table["copysign.f"] = sign<Copysign, 2>;
}

}  // namespace ptx
