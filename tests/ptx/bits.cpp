// bits.cpp: logic, shifts and fields of bits
#include "lanes.h"
#include "types.h"

namespace ptx {
namespace {

struct And {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(a & b);
  }
};
struct Or {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(a | b);
  }
};
struct Xor {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(a ^ b);
  }
};
struct Not {
  template <class T>
  static T f(T a) {
    return static_cast<T>(~a);
  }
};
struct Cnot {
  template <class T>
  static T f(T a) {
    return a == 0;
  }
};
// Amounts beyond the width count as the width.
struct Shl {
  template <class T>
  static T f(T a, uint32_t n) {
    constexpr uint32_t width = 8 * sizeof(T);
    return n < width ? static_cast<T>(a << (n & (width - 1))) : T{0};
  }
};
struct Shr {
  template <class T>
  static T f(T a, uint32_t n) {
    constexpr uint32_t width = 8 * sizeof(T);
    return static_cast<T>(a >> (n < width             ? n
                                : std::is_signed_v<T> ? width - 1
                                                      : 0)) *
           static_cast<T>(n < width || std::is_signed_v<T>);
  }
};
struct Popc {
  template <class T>
  static uint32_t f(T a) {
    return static_cast<uint32_t>(__builtin_popcountll(a));
  }
};
struct Clz {
  template <class T>
  static uint32_t f(T a) {
    return a ? static_cast<uint32_t>(__builtin_clzll(a)) - (64 - 8 * sizeof(T)) : 8 * sizeof(T);
  }
};
struct Brev {
  template <class T>
  static T f(T a) {
    T r = 0;
    for (size_t i = 0; i < 8 * sizeof(T); ++i) r |= (a >> i & 1) << (8 * sizeof(T) - 1 - i);
    return r;
  }
};
template <bool SHIFT>
struct Bfind {
  template <class T>
  static uint32_t f(T v) {
    using U = std::make_unsigned_t<T>;
    const U a = static_cast<U>(v < 0 ? ~v : v);
    if (!a) return ~0u;
    const auto top = 63 - static_cast<uint32_t>(__builtin_clzll(a));
    return SHIFT ? 8 * sizeof(T) - 1 - top : top;
  }
};
struct Bfe {
  template <class T>
  static T f(T a, uint32_t b, uint32_t c) {
    constexpr uint32_t top = 8 * sizeof(T) - 1;
    const uint32_t position = b & 0xff, length = c & 0xff;
    using U = std::make_unsigned_t<T>;
    const uint32_t last = std::min(position + length - 1, top);
    const bool sign = std::is_signed_v<T> && length && (static_cast<U>(a) >> last & 1);
    U d = 0;
    for (uint32_t i = 0; i <= top; ++i) {
      const bool bit = i < length && position + i <= top ? static_cast<U>(a) >> (position + i) & 1 : sign;
      d |= static_cast<U>(bit) << i;
    }
    return static_cast<T>(d);
  }
};
template <class T>
T insert_field(T a, T b, uint32_t c, uint32_t d) {
  constexpr uint32_t width = 8 * sizeof(T);
  const uint32_t position = c & 0xff, length = d & 0xff;
  if (position >= width || length == 0) return b;
  const T field = static_cast<T>(length >= width ? ~T{0} : (T{1} << length) - 1) << position;
  return (b & ~field) | ((a << position) & field);
}
template <class T>
void bfi(Warp& w, const Instr& in) {
  const auto *a = row<T>(w, in.a), *b = row<T>(w, in.b);
  const auto *c = row<uint32_t>(w, in.c), *d = row<uint32_t>(w, in.list[0]);
  define<T>(w, in.d,
            defined<T>(w, in.a) & defined<T>(w, in.b) & defined<uint32_t>(w, in.c) &
                defined<uint32_t>(w, in.list[0]));
  store_lanes<T>(w, in.d, [=](int i) { return insert_field<T>(get<T>(a, i), get<T>(b, i), c[i], d[i]); });
}

template <bool LEFT, bool WRAP>
struct Shf {
  static uint32_t f(uint32_t low, uint32_t high, uint32_t amount) {
    const uint32_t n = WRAP ? amount & 31 : std::min(amount, 32u);
    const uint64_t both = uint64_t{high} << 32 | low;
    return static_cast<uint32_t>(LEFT ? both << n >> 32 : both >> n);
  }
};

struct Prmt {
  static uint32_t f(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = uint64_t{b} << 32 | a;
    uint32_t d = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t s = selector >> (4 * i) & 0xf;
      uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (s & 7))) & 0xff;
      if (s & 8) byte = byte & 0x80 ? 0xff : 0;
      d |= byte << (8 * i);
    }
    return d;
  }
};
// The modes that count from c's two low bits.
template <int MODE>
struct PrmtMode {
  static uint32_t f(uint32_t a, uint32_t b, uint32_t c) {
    static constexpr uint32_t tables[6][4] = {
        {0x3210, 0x4321, 0x5432, 0x6543}, {0x5670, 0x6701, 0x7012, 0x0123}, {0x0000, 0x1111, 0x2222, 0x3333},
        {0x3210, 0x3211, 0x3222, 0x3333}, {0x0000, 0x1110, 0x2210, 0x3210}, {0x1010, 0x3232, 0x1010, 0x3232}};
    return Prmt::f(a, b, tables[MODE][c & 3]);
  }
};

void lop3(Warp& w, const Instr& in) {
  const auto *a = row<uint32_t>(w, in.a), *b = row<uint32_t>(w, in.b), *c = row<uint32_t>(w, in.c);
  define<uint32_t>(w, in.d,
                   defined<uint32_t>(w, in.a) & defined<uint32_t>(w, in.b) & defined<uint32_t>(w, in.c));
  uint32_t term[8];
  for (int k = 0; k < 8; ++k) term[k] = in.imm >> k & 1 ? ~0u : 0;
  store_lanes<uint32_t>(w, in.d, [=](int i) {
    uint32_t r = 0;
    for (int k = 0; k < 8; ++k) {
      r |= term[k] & (k & 4 ? a[i] : ~a[i]) & (k & 2 ? b[i] : ~b[i]) & (k & 1 ? c[i] : ~c[i]);
    }
    return r;
  });
}

// ---- predicates: a known 0 decides a conjunction, whatever the other side is ----
void and_predicate(Warp& w, const Instr& in) {
  const Mask a = predicate(w, in.a), b = predicate(w, in.b);
  const Mask da = predicate_defined(w, in.a), db = predicate_defined(w, in.b);
  set_predicate(w, in.d, a & b, (da & db) | (da & ~a) | (db & ~b));
}
void or_predicate(Warp& w, const Instr& in) {
  const Mask a = predicate(w, in.a), b = predicate(w, in.b);
  const Mask da = predicate_defined(w, in.a), db = predicate_defined(w, in.b);
  set_predicate(w, in.d, a | b, (da & db) | (da & a) | (db & b));
}
void xor_predicate(Warp& w, const Instr& in) {
  set_predicate(w, in.d, predicate(w, in.a) ^ predicate(w, in.b),
                predicate_defined(w, in.a) & predicate_defined(w, in.b));
}
void not_predicate(Warp& w, const Instr& in) {
  set_predicate(w, in.d, ~predicate(w, in.a), predicate_defined(w, in.a));
}

template <Handler RUN, int SOURCES>
void logic_of_predicates(Form& form, Instr& in) {
  form.take("pred");
  form.arguments(1 + SOURCES);
  in.run = RUN;
  in.d = form.predicate_destination(form.args[0]);
  in.a = form.predicate(form.args[1]);
  if (SOURCES == 2) in.b = form.predicate(form.args[2]);
}

template <class F>
void two(Form& form, Instr& in) {
  const std::string type = form.take_type();
  form.arguments(3);
  with_bits(type, [&](auto t) { in.run = binary<F, decltype(t), decltype(t)>; });
  in.d = form.destination(form.args[0], type_bits(type));
  in.a = form.source(form.args[1], type_bits(type));
  in.b = form.source(form.args[2], type_bits(type));
}
template <class F>
void one(Form& form, Instr& in) {
  const std::string type = form.take_type();
  form.arguments(2);
  with_bits(type, [&](auto t) { in.run = unary<F, decltype(t), decltype(t)>; });
  in.d = form.destination(form.args[0], type_bits(type));
  in.a = form.source(form.args[1], type_bits(type));
}
template <class F>
void counted(Form& form, Instr& in) {  // to a u32
  const std::string type = form.take_type();
  form.arguments(2);
  with_integer(type, [&](auto t) {
    if constexpr (sizeof(t) >= 4) in.run = unary<F, uint32_t, decltype(t)>;
  });
  in.d = form.destination(form.args[0], 32);
  in.a = form.source(form.args[1], type_bits(type));
}
template <class F>
void shift(Form& form, Instr& in) {
  const std::string type = form.take_type();
  form.arguments(3);
  with_integer(type, [&](auto t) { in.run = binary<F, decltype(t), decltype(t), uint32_t>; });
  in.d = form.destination(form.args[0], type_bits(type));
  in.a = form.source(form.args[1], type_bits(type));
  in.b = form.source(form.args[2], 32);
}
void three_words(Form& form, Instr& in, Handler run) {
  form.arguments(4, 5);
  in.run = run;
  in.d = form.destination(form.args[0], 32);
  in.a = form.source(form.args[1], 32);
  in.b = form.source(form.args[2], 32);
  in.c = form.source(form.args[3], 32);
}

}  // namespace

void add_bits(std::map<std::string, Decode>& table) {
  table["and"] = two<And>;
  table["or"] = two<Or>;
  table["xor"] = two<Xor>;
  table["not"] = one<Not>;
  table["cnot"] = one<Cnot>;
  table["and.p"] = logic_of_predicates<and_predicate, 2>;
  table["or.p"] = logic_of_predicates<or_predicate, 2>;
  table["xor.p"] = logic_of_predicates<xor_predicate, 2>;
  table["not.p"] = logic_of_predicates<not_predicate, 1>;
  table["shl"] = shift<Shl>;
  table["shr"] = shift<Shr>;
  table["popc"] = counted<Popc>;
  table["clz"] = counted<Clz>;
  table["brev"] = one<Brev>;
  table["bfind"] = [](Form& form, Instr& in) {
    form.take("shiftamt") ? counted<Bfind<true>>(form, in) : counted<Bfind<false>>(form, in);
  };
  table["bfe"] = [](Form& form, Instr& in) {
    const std::string type = form.take_type();
    form.arguments(4);
    with_integer(type, [&](auto t) {
      if constexpr (sizeof(t) >= 4) in.run = ternary<Bfe, decltype(t), decltype(t), uint32_t, uint32_t>;
    });
    in.d = form.destination(form.args[0], type_bits(type));
    in.a = form.source(form.args[1], type_bits(type));
    in.b = form.source(form.args[2], 32);
    in.c = form.source(form.args[3], 32);
  };
  table["bfi"] = [](Form& form, Instr& in) {
    const std::string type = form.take_type();
    form.arguments(5);
    if (type == "b32") in.run = bfi<uint32_t>;
    if (type == "b64") in.run = bfi<uint64_t>;
    in.d = form.destination(form.args[0], type_bits(type));
    in.a = form.source(form.args[1], type_bits(type));
    in.b = form.source(form.args[2], type_bits(type));
    in.c = form.source(form.args[3], 32);
    in.list = form.list({form.source(form.args[4], 32)});
  };
  table["shf"] = [](Form& form, Instr& in) {
    const bool left = form.take("l"), wrap = form.take("wrap");
    if (left == form.take("r") || wrap == form.take("clamp") || form.take_type() != "b32") form.unknown();
    three_words(form, in,
                left ? (wrap ? ternary<Shf<true, true>, uint32_t, uint32_t>
                             : ternary<Shf<true, false>, uint32_t, uint32_t>)
                     : (wrap ? ternary<Shf<false, true>, uint32_t, uint32_t>
                             : ternary<Shf<false, false>, uint32_t, uint32_t>));
  };
  table["prmt"] = [](Form& form, Instr& in) {
    if (form.peek() != "b32") form.unknown();
    form.take_next();
    const std::string mode = form.take_any({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
    three_words(form, in,
                mode == ""      ? ternary<Prmt, uint32_t, uint32_t>
                : mode == "f4e" ? ternary<PrmtMode<0>, uint32_t, uint32_t>
                : mode == "b4e" ? ternary<PrmtMode<1>, uint32_t, uint32_t>
                : mode == "rc8" ? ternary<PrmtMode<2>, uint32_t, uint32_t>
                : mode == "ecl" ? ternary<PrmtMode<3>, uint32_t, uint32_t>
                : mode == "ecr" ? ternary<PrmtMode<4>, uint32_t, uint32_t>
                                : ternary<PrmtMode<5>, uint32_t, uint32_t>);
  };
  table["lop3"] = [](Form& form, Instr& in) {
    if (form.take_type() != "b32") form.unknown();
    form.arguments(5);
    three_words(form, in, lop3);
    in.imm = form.immediate(form.args[4]);
  };
}

}  // namespace ptx
