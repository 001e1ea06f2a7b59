// atomic.cpp: atom and red
#include "access.h"
#include "types.h"

namespace ptx {
namespace {

struct Add {
  template <class T>
  static T f(T old, T b, T) {
    return static_cast<T>(old + b);
  }
};
struct Min {
  template <class T>
  static T f(T old, T b, T) {
    return b < old ? b : old;
  }
};
struct Max {
  template <class T>
  static T f(T old, T b, T) {
    return b > old ? b : old;
  }
};
struct And {
  template <class T>
  static T f(T old, T b, T) {
    return old & b;
  }
};
struct Or {
  template <class T>
  static T f(T old, T b, T) {
    return old | b;
  }
};
struct Xor {
  template <class T>
  static T f(T old, T b, T) {
    return old ^ b;
  }
};
struct Inc {
  template <class T>
  static T f(T old, T b, T) {
    return old >= b ? 0 : static_cast<T>(old + 1);
  }
};
struct Dec {
  template <class T>
  static T f(T old, T b, T) {
    return old == 0 || old > b ? b : static_cast<T>(old - 1);
  }
};
struct Exch {
  template <class T>
  static T f(T, T b, T) {
    return b;
  }
};
struct Cas {
  template <class T>
  static T f(T old, T b, T c) {
    return old == b ? c : old;
  }
};

// Lane after lane; other blocks may be at the same word.
template <class F, class T>
void atomic(Warp& w, const Instr& in) {
  Places p;
  place(w, in, static_cast<Space>(in.space), sizeof(T), true, p);
  const bool cas = std::is_same_v<F, Cas>;
  Mask known = defined<T>(w, in.b);
  if (cas) known &= defined<T>(w, in.c);
  if (w.active & ~known) w.undefined("an operand of an atomic operation", w.active & ~known);
  const auto *b = row<T>(w, in.b), *c = row<T>(w, cas ? in.c : in.b);
  alignas(64) T result[LANES] = {};
  each(w.active, [&](int i) {
    uint8_t* shadow = p.shadow(i);
    if (shadow && !std::is_same_v<F, Exch> && !all_written(shadow, sizeof(T))) {
      w.note_undefined(i, "bytes that nothing has written");
      w.undefined("the memory of an atomic operation", BIT[i]);
    }
    using W = Row<T>;
    auto* at = reinterpret_cast<W*>(p.data(i));
    W old = __atomic_load_n(at, __ATOMIC_SEQ_CST), now;
    do now = bits<T>(F::f(get<T>(&old, 0), get<T>(b, i), get<T>(c, i)));
    while (!__atomic_compare_exchange_n(at, &old, now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    result[i] = get<T>(&old, 0);
    if (shadow) std::memset(shadow, w.code.proxies && !p.global ? UNFENCED : WRITTEN, sizeof(T));
  });
  if (!in.count) return;
  define<T>(w, in.d, ALL);
  store_lanes<T>(w, in.d, [&](int i) { return result[i]; });
}

template <class T>
Handler find(const std::string& op, const std::string& type) {
  const bool real = type[0] == 'f', bits = type[0] == 'b', is_unsigned = type[0] == 'u';
  if constexpr (std::is_integral_v<T>) {
    if (op == "and" && bits) return atomic<And, T>;
    if (op == "or" && bits) return atomic<Or, T>;
    if (op == "xor" && bits) return atomic<Xor, T>;
    if (op == "exch" && bits) return atomic<Exch, T>;
    if (op == "cas" && bits) return atomic<Cas, T>;
    if (op == "inc" && type == "u32") return atomic<Inc, T>;
    if (op == "dec" && type == "u32") return atomic<Dec, T>;
    if (op == "min" && !bits) return atomic<Min, T>;
    if (op == "max" && !bits) return atomic<Max, T>;
  }
  if (op == "add" && (real || is_unsigned || type == "s32")) return atomic<Add, T>;
  return nullptr;
}

void decode_atomic(Form& form, Instr& in) {
  const bool returns = form.opcode() == "atom";
  const Space space = take_space(form);
  form.take_any({"relaxed", "acquire", "release", "acq_rel"});
  form.take_any({"cta", "cluster", "gpu", "sys"});
  const std::string op =
      form.take_any({"and", "or", "xor", "exch", "cas", "inc", "dec", "min", "max", "add"});
  const std::string type = form.take_type();
  const bool cas = op == "cas";
  form.arguments(static_cast<size_t>(1 + returns + 1 + cas));
  size_t next = 0;
  if (returns) {
    in.count = form.args[0].kind != Arg::kSink;
    in.d = form.destination(form.args[next++], type_bits(type));
  }
  form.address(form.args[next++], space, in);
  in.b = form.any_source(form.args[next++], type);
  if (cas) in.c = form.any_source(form.args[next], type);
  if (type == "f32") in.run = find<float>(op, type);
  if (type == "f64") in.run = find<double>(op, type);
  with_integer(type, [&](auto t) {
    if constexpr (sizeof(t) >= 4) in.run = find<decltype(t)>(op, type);
  });
}

}  // namespace

void add_atomic(std::map<std::string, Decode>& table) { table["atom"] = table["red"] = decode_atomic; }

}  // namespace ptx
