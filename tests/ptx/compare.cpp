// compare.cpp: comparisons and selections
#include "lanes.h"
#include "numbers.h"
#include "types.h"

namespace ptx {
namespace {

enum Comparison { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NANS };
const char* const NAMES[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                             "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
enum Combination : uint32_t { kAlone, kAnd, kOr, kXor };

template <Comparison C, class T>
inline bool compare(T a, T b) {
  switch (C) {
    case EQ:
      return a == b;
    case NE:
      return a < b || a > b;  // false where one is NaN
    case LT:
      return a < b;
    case LE:
      return a <= b;
    case GT:
      return a > b;
    case GE:
      return a >= b;
    case EQU:
      return !(a < b || a > b);
    case NEU:
      return a != b;
    case LTU:
      return !(a >= b);
    case LEU:
      return !(a > b);
    case GTU:
      return !(a <= b);
    case GEU:
      return !(a < b);
    case NUM:
      return a == a && b == b;
    case NANS:
      return a != a || b != b;
  }
}

template <Comparison C, class T, bool FTZ>
void setp(Warp& w, const Instr& in) {
  const auto *a = row<T>(w, in.a), *b = row<T>(w, in.b);
  Mask m = lanes_where([=](int i) {
    T x = get<T>(a, i), y = get<T>(b, i);
    if constexpr (FTZ) x = flushed(x), y = flushed(y);
    return compare<C, T>(x, y);
  });
  const Mask ok = defined<T>(w, in.a) & defined<T>(w, in.b);
  const uint32_t combination = in.flags & 3;
  if (combination == kAlone && !(in.flags & 4)) return set_predicate(w, in.d, m, ok);
  Mask other = ~m, ok_p = ok, ok_q = ok;  // q is of the comparison's contrary
  if (combination != kAlone) {
    const Mask c = predicate(w, in.c) ^ (in.flags & 8 ? ALL : 0), dc = predicate_defined(w, in.c);
    if (combination == kAnd) {
      ok_p = (ok & dc) | (ok & ~m) | (dc & ~c), ok_q = (ok & dc) | (ok & m) | (dc & ~c);
      m &= c, other &= c;
    } else if (combination == kOr) {
      ok_p = (ok & dc) | (ok & m) | (dc & c), ok_q = (ok & dc) | (ok & ~m) | (dc & c);
      m |= c, other |= c;
    } else {
      ok_p = ok_q = ok & dc;
      m ^= c, other ^= c;
    }
  }
  set_predicate(w, in.d, m, ok_p);
  if (in.flags & 4) set_predicate(w, in.list[0], other, ok_q);
}

template <class T, bool FTZ>
Handler pick(int c) {
  constexpr bool real = std::is_floating_point_v<T>;
  static constexpr Handler handlers[] = {
      setp<EQ, T, FTZ>,  setp<NE, T, FTZ>,  setp<LT, T, FTZ>,  setp<LE, T, FTZ>,  setp<GT, T, FTZ>,
      setp<GE, T, FTZ>,  setp<EQU, T, FTZ>, setp<NEU, T, FTZ>, setp<LTU, T, FTZ>, setp<LEU, T, FTZ>,
      setp<GTU, T, FTZ>, setp<GEU, T, FTZ>, setp<NUM, T, FTZ>, setp<NANS, T, FTZ>};
  return real || c <= GE ? handlers[c] : nullptr;
}

void decode_setp(Form& form, Instr& in) {
  std::string name = form.take_next();
  static const std::map<std::string, std::string> unsigned_names = {
      {"lo", "lt"}, {"ls", "le"}, {"hi", "gt"}, {"hs", "ge"}};
  const std::string type = form.take_type();
  if (unsigned_names.count(name) && type[0] == 'u') name = unsigned_names.at(name);
  int c = -1;
  for (int i = 0; i <= NANS; ++i) {
    if (name == NAMES[i]) c = i;
  }
  if (c < 0) form.unknown();
  const std::string with = form.take_any({"and", "or", "xor"});
  const bool ftz = form.take("ftz");
  if (type == "f32") {
    in.run = ftz ? pick<float, true>(c) : pick<float, false>(c);
  } else if (ftz) {
    form.unknown();
  } else if (type == "f64") {
    in.run = pick<double, false>(c);
  } else if (type[0] != 'b' || c <= NE) {
    with_integer(type, [&](auto t) { in.run = pick<decltype(t), false>(c); });
  }
  form.arguments(with.empty() ? 3 : 4);
  in.d = form.predicate_destination(form.args[0]);
  if (form.args[0].second) {
    in.flags |= 4;
    in.list = form.list({form.predicate_destination(*form.args[0].second)});
  }
  in.a = form.any_source(form.args[1], type);
  in.b = form.any_source(form.args[2], type);
  if (!with.empty()) {
    in.flags |= with == "and" ? kAnd : with == "or" ? kOr : kXor;
    in.c = form.predicate(form.args[3]);
    if (form.args[3].negated) in.flags |= 8;
  }
}

template <class T>
void selp(Warp& w, const Instr& in) {
  const auto *a = row<T>(w, in.a), *b = row<T>(w, in.b);
  const Mask p = predicate(w, in.c);
  define<T>(w, in.d, ((p & defined<T>(w, in.a)) | (~p & defined<T>(w, in.b))) & predicate_defined(w, in.c));
  store_lanes<T>(w, in.d, [=](int i) { return static_cast<T>(p & BIT[i] ? a[i] : b[i]); });
}
void decode_selp(Form& form, Instr& in) {
  const std::string type = form.take_type();
  form.arguments(4);
  const int bits = type_bits(type);
  in.run = bits == 64 ? selp<uint64_t> : bits == 32 ? selp<uint32_t> : bits == 16 ? selp<uint16_t> : nullptr;
  in.d = form.destination(form.args[0], bits);
  in.a = form.any_source(form.args[1], type);
  in.b = form.any_source(form.args[2], type);
  in.c = form.predicate(form.args[3]);
}

template <class T>
void slct(Warp& w, const Instr& in) {  // a where c >= 0, else b
  const auto *a = row<T>(w, in.a), *b = row<T>(w, in.b);
  const auto* c = row<int32_t>(w, in.c);
  define<T>(w, in.d, defined<T>(w, in.a) & defined<T>(w, in.b) & defined<int32_t>(w, in.c));
  store_lanes<T>(w, in.d, [=](int i) { return static_cast<T>(get<int32_t>(c, i) >= 0 ? a[i] : b[i]); });
}
void decode_slct(Form& form, Instr& in) {
  if (form.take_type() != "s32") form.unknown();
  const std::string type = form.take_type();
  form.arguments(4);
  const int bits = type_bits(type);
  in.run = bits == 64 ? slct<uint64_t> : bits == 32 ? slct<uint32_t> : nullptr;
  in.d = form.destination(form.args[0], bits);
  in.a = form.any_source(form.args[1], type);
  in.b = form.any_source(form.args[2], type);
  in.c = form.source(form.args[3], 32);
}

}  // namespace

void add_compare(std::map<std::string, Decode>& table) {
  table["setp"] = decode_setp;
  table["selp"] = decode_selp;
  table["slct"] = decode_slct;
}

}  // namespace ptx
