// integer.cpp: integer arithmetic
#include <type_traits>

#include "lanes.h"
#include "types.h"

namespace ptx {
namespace {

// Wide enough that no operation on the narrower type overflows as a signed one of C++.
template <class T>
using U = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
__extension__ typedef __int128 Int128;
__extension__ typedef unsigned __int128 Uint128;
template <class T>
using Wide = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, Int128, Uint128>>>;

struct Add {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<U<T>>(a) + static_cast<U<T>>(b));
  }
};
struct Sub {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<U<T>>(a) - static_cast<U<T>>(b));
  }
};
struct AddSat {
  static int32_t f(int32_t a, int32_t b) {
    const int64_t r = int64_t{a} + b;
    return static_cast<int32_t>(r > INT32_MAX ? INT32_MAX : r < INT32_MIN ? INT32_MIN : r);
  }
};
struct SubSat {
  static int32_t f(int32_t a, int32_t b) {
    const int64_t r = int64_t{a} - b;
    return static_cast<int32_t>(r > INT32_MAX ? INT32_MAX : r < INT32_MIN ? INT32_MIN : r);
  }
};
struct MulLo {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<U<T>>(a) * static_cast<U<T>>(b));
  }
};
struct MulHi {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>((static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b)) >> (8 * sizeof(T)));
  }
};
struct MulWide {
  template <class T>
  static Wide<T> f(T a, T b) {
    return static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b);
  }
};
struct MadLo {
  template <class T>
  static T f(T a, T b, T c) {
    return Add::f(MulLo::f(a, b), c);
  }
};
struct MadHi {
  template <class T>
  static T f(T a, T b, T c) {
    return Add::f(MulHi::f(a, b), c);
  }
};
struct MadWide {
  template <class T>
  static Wide<T> f(T a, T b, Wide<T> c) {
    return static_cast<Wide<T>>(static_cast<U<Wide<T>>>(MulWide::f(a, b)) + static_cast<U<Wide<T>>>(c));
  }
};
struct Min {
  template <class T>
  static T f(T a, T b) {
    return a < b ? a : b;
  }
};
struct Max {
  template <class T>
  static T f(T a, T b) {
    return a > b ? a : b;
  }
};
struct Abs {
  template <class T>
  static T f(T a) {
    return a < 0 ? static_cast<T>(0 - static_cast<U<T>>(a)) : a;
  }
};
struct Neg {
  template <class T>
  static T f(T a) {
    return static_cast<T>(0 - static_cast<U<T>>(a));
  }
};
struct Sad {
  template <class T>
  static T f(T a, T b, T c) {
    return static_cast<T>(static_cast<U<T>>(c) + (a < b ? static_cast<U<T>>(b) - static_cast<U<T>>(a)
                                                        : static_cast<U<T>>(a) - static_cast<U<T>>(b)));
  }
};

// A quotient by zero is unspecified: undefined here.
template <class T, bool REMAINDER>
void divide(Warp& w, const Instr& in) {
  const auto *a = row<T>(w, in.a), *b = row<T>(w, in.b);
  Mask ok = defined<T>(w, in.a) & defined<T>(w, in.b);
  each(w.active, [&](int i) {
    if (get<T>(b, i) == 0) {
      ok &= ~BIT[i];
      w.note_undefined(i, "the result of a division by zero");
    }
  });
  store_lanes<T>(w, in.d, [=](int i) -> T {
    const T x = get<T>(a, i), y = get<T>(b, i);
    if (y == 0) return REMAINDER ? x : static_cast<T>(-1);
    if (std::is_signed_v<T> && y == static_cast<T>(-1)) return REMAINDER ? T{0} : Neg::f(x);
    return static_cast<T>(REMAINDER ? x % y : x / y);
  });
  define<T>(w, in.d, ok);
}

template <class F, class Pick>
void two(Form& form, Instr& in, bool known, Pick pick) {
  const std::string type = form.take_type();
  form.arguments(3);
  const bool done = known && with_integer(type, [&](auto t) { in.run = pick(t); });
  if (!done) form.unknown();
  const int bits = type_bits(type);
  in.d = form.destination(form.args[0], bits);
  in.a = form.source(form.args[1], bits);
  in.b = form.source(form.args[2], bits);
}

template <class F>
void plain(Form& form, Instr& in) {
  two<F>(form, in, true, [](auto t) -> Handler { return binary<F, decltype(t), decltype(t)>; });
}

template <class F, class Sat>
void saturating(Form& form, Instr& in) {
  if (!form.take("sat")) return plain<F>(form, in);
  two<F>(form, in, form.peek() == "s32", [](auto) -> Handler { return binary<Sat, int32_t, int32_t>; });
}

template <class F>
void one(Form& form, Instr& in) {
  const std::string type = form.take_type();
  form.arguments(2);
  if (!with_signed(type, [&](auto t) { in.run = unary<F, decltype(t), decltype(t)>; })) form.unknown();
  in.d = form.destination(form.args[0], type_bits(type));
  in.a = form.source(form.args[1], type_bits(type));
}

void multiply(Form& form, Instr& in) {
  const std::string part = form.take_any({"lo", "hi", "wide"});
  const std::string type = form.take_type();
  const int bits = type_bits(type);
  const bool mad = form.opcode() == "mad";
  form.arguments(mad ? 4 : 3);
  with_integer(type, [&](auto t) {
    using T = decltype(t);
    if (part == "lo") in.run = mad ? Handler{ternary<MadLo, T, T>} : Handler{binary<MulLo, T, T>};
    if (part == "hi") in.run = mad ? Handler{ternary<MadHi, T, T>} : Handler{binary<MulHi, T, T>};
    if constexpr (sizeof(T) < 8) {
      if (part == "wide")
        in.run =
            mad ? Handler{ternary<MadWide, Wide<T>, T, T, Wide<T>>} : Handler{binary<MulWide, Wide<T>, T>};
    }
  });
  const int out = part == "wide" ? 2 * bits : bits;
  in.d = form.destination(form.args[0], out);
  in.a = form.source(form.args[1], bits);
  in.b = form.source(form.args[2], bits);
  if (mad) in.c = form.source(form.args[3], out);
}

}  // namespace

void add_integer(std::map<std::string, Decode>& table) {
  table["add"] = saturating<Add, AddSat>;
  table["sub"] = saturating<Sub, SubSat>;
  table["min"] = plain<Min>;
  table["max"] = plain<Max>;
  table["abs"] = one<Abs>;
  table["neg"] = one<Neg>;
  table["mul"] = table["mad"] = multiply;
  table["div"] = [](Form& form, Instr& in) {
    two<void>(form, in, true, [](auto t) -> Handler { return divide<decltype(t), false>; });
  };
  table["rem"] = [](Form& form, Instr& in) {
    two<void>(form, in, true, [](auto t) -> Handler { return divide<decltype(t), true>; });
  };
  table["sad"] = [](Form& form, Instr& in) {
    const std::string type = form.take_type();
    form.arguments(4);
    with_integer(type, [&](auto t) { in.run = ternary<Sad, decltype(t), decltype(t)>; });
    in.d = form.destination(form.args[0], type_bits(type));
    in.a = form.source(form.args[1], type_bits(type));
    in.b = form.source(form.args[2], type_bits(type));
    in.c = form.source(form.args[3], type_bits(type));
  };
}

}  // namespace ptx
