// collective.cpp: what the lanes of a warp do together: shfl, vote, match, redux
#include "lanes.h"

namespace ptx {
namespace {

// The lanes each lane names; whether they are all here. Lanes may name different sets, of which each holds
// itself.
bool members(Warp& w, const Instr& in, Operand o) {
  const Mask lacking = w.active & ~defined<uint32_t>(w, o);
  if (lacking) w.undefined("a set of lanes", lacking);
  const uint32_t* m = row<uint32_t>(w, o);
  Mask all = 0;
  each(w.active, [&](int i) {
    if (!(m[i] & BIT[i])) w.fault(i, "is not among the lanes it names");
    all |= m[i];
  });
  (void)in;
  // A full set of a warp that has fewer lanes is what nvcc's library passes.
  const bool here = w.together(all == ALL ? w.lanes : all);
  if (here) {
    each(w.active, [&](int i) {
      each(m[i] & w.active, [&](int j) {
        if (m[j] != m[i]) w.fault(i, "names other lanes than lane " + std::to_string(j) + ", which it names");
      });
    });
  }
  return here;
}

enum Direction : uint32_t { kUp, kDown, kBfly, kIdx };

void shfl(Warp& w, const Instr& in) {
  const Operand membership = in.list[0];
  const uint32_t* m = row<uint32_t>(w, membership);
  if (w.active != ALL || in.imm == 0) {
    if (!members(w, in, membership)) return;
  }
  const auto *a = row<uint32_t>(w, in.a), *b = row<uint32_t>(w, in.b), *c = row<uint32_t>(w, in.c);
  const Mask lacking = w.active & ~(defined<uint32_t>(w, in.b) & defined<uint32_t>(w, in.c));
  if (lacking) w.undefined("a lane to read from", lacking);
  const Mask known = defined<uint32_t>(w, in.a);
  alignas(64) uint32_t result[LANES];
  Mask valid = 0, ok = 0;
  for (int lane = 0; lane < LANES; ++lane) {
    if (!(w.active & BIT[lane])) continue;
    const int value = static_cast<int>(b[lane] & 31), clamp = static_cast<int>(c[lane] & 31);
    const int segment = static_cast<int>(c[lane] >> 8 & 31);
    const int least = lane & segment, most = least | (clamp & ~segment);
    int from = 0;
    bool in_range = false;
    switch (in.flags & 3) {
      case kUp:
        from = lane - value, in_range = from >= most;
        break;
      case kDown:
        from = lane + value, in_range = from <= most;
        break;
      case kBfly:
        from = lane ^ value, in_range = from <= most;
        break;
      default:
        from = least | (value & ~segment), in_range = from <= most;
        break;
    }
    if (!in_range) from = lane;
    if (in_range) valid |= BIT[lane];
    const bool there = w.active & m[lane] & BIT[from];
    if (known & BIT[from] && there) ok |= BIT[lane];
    if (!there)
      w.note_undefined(lane, "shfl reads lane " + std::to_string(from) + ", which does not take part");
    result[lane] = a[from];
  }
  define<uint32_t>(w, in.d, ok);
  store_lanes<uint32_t>(w, in.d, [&](int i) { return result[i]; });
  if (in.count) set_predicate(w, in.list[1], valid, ALL);
}

void decode_shfl(Form& form, Instr& in) {
  if (!form.take("sync")) form.unknown();
  const std::string mode = form.take_any({"up", "down", "bfly", "idx"});
  if (mode.empty() || form.take_type() != "b32") form.unknown();
  in.flags = mode == "up" ? kUp : mode == "down" ? kDown : mode == "bfly" ? kBfly : kIdx;
  form.arguments(5);
  in.run = shfl;
  in.d = form.destination(form.args[0], 32);
  in.a = form.source(form.args[1], 32);
  in.b = form.source(form.args[2], 32);
  in.c = form.source(form.args[3], 32);
  in.imm = form.args[4].kind == Arg::kInteger && static_cast<uint32_t>(form.args[4].integer) == ALL;
  std::vector<Operand> list = {form.source(form.args[4], 32)};
  if (form.args[0].second) {
    in.count = 1;
    list.push_back(form.predicate_destination(*form.args[0].second));
  }
  in.list = form.list(list);
}

// ---- vote ----
enum Vote : uint32_t { kAll, kAny, kUni, kBallot };
void vote(Warp& w, const Instr& in) {
  if (!members(w, in, in.b)) return;
  const Mask p = predicate(w, in.a) ^ (in.flags & 8 ? ALL : 0);
  const Mask lacking = w.active & ~predicate_defined(w, in.a);
  if (lacking) w.undefined("a predicate voted on", lacking);
  const uint32_t* m = row<uint32_t>(w, in.b);
  alignas(64) uint32_t ballot[LANES] = {};
  Mask holds = 0;
  each(w.active, [&](int i) {
    const Mask set = m[i] & w.active;
    ballot[i] = p & set;
    const bool all = (p & set) == set, any = (p & set) != 0;
    if ((in.flags & 3) == kAll ? all : (in.flags & 3) == kAny ? any : all || !any) holds |= BIT[i];
  });
  if ((in.flags & 3) != kBallot) return set_predicate(w, in.d, holds, ALL);
  define<uint32_t>(w, in.d, ALL);
  store_lanes<uint32_t>(w, in.d, [&](int i) { return ballot[i]; });
}
void decode_vote(Form& form, Instr& in) {
  if (!form.take("sync")) form.unknown();
  const std::string mode = form.take_any({"all", "any", "uni", "ballot"});
  const std::string type = form.take_type();
  if (mode.empty() || type != (mode == "ballot" ? "b32" : "pred")) form.unknown();
  in.flags = mode == "all" ? kAll : mode == "any" ? kAny : mode == "uni" ? kUni : kBallot;
  form.arguments(3);
  in.run = vote;
  in.d = mode == "ballot" ? form.destination(form.args[0], 32) : form.predicate_destination(form.args[0]);
  in.a = form.predicate(form.args[1]);
  if (form.args[1].negated) in.flags |= 8;
  in.b = form.source(form.args[2], 32);
}

void activemask(Warp& w, const Instr& in) {
  const Mask active = w.active;
  define<uint32_t>(w, in.d, ALL);
  store_lanes<uint32_t>(w, in.d, [=](int) { return active; });
}

// ---- match ----
template <class T, bool WHOLE>
void match(Warp& w, const Instr& in) {
  if (!members(w, in, in.b)) return;
  const Mask lacking = w.active & ~defined<T>(w, in.a);
  if (lacking) w.undefined("a value compared among lanes", lacking);
  const auto* a = row<T>(w, in.a);
  const uint32_t* m = row<uint32_t>(w, in.b);
  alignas(64) uint32_t equal[LANES] = {};
  Mask holds = 0;
  each(w.active, [&](int i) {
    each(m[i] & w.active, [&](int j) { equal[i] |= a[j] == a[i] ? BIT[j] : 0; });
    if (equal[i] == (m[i] & w.active)) holds |= BIT[i];
    if (WHOLE && !(holds & BIT[i])) equal[i] = 0;
  });
  define<uint32_t>(w, in.d, ALL);
  store_lanes<uint32_t>(w, in.d, [&](int i) { return equal[i]; });
  if (in.count) set_predicate(w, in.list[0], holds, ALL);
}
void decode_match(Form& form, Instr& in) {
  const bool all = form.take("all");
  if (all == form.take("any") || !form.take("sync")) form.unknown();
  const std::string type = form.take_type();
  form.arguments(3);
  if (type == "b32") in.run = all ? match<uint32_t, true> : match<uint32_t, false>;
  if (type == "b64") in.run = all ? match<uint64_t, true> : match<uint64_t, false>;
  in.d = form.destination(form.args[0], 32);
  if (form.args[0].second) {
    if (!all) form.unknown();
    in.count = 1;
    in.list = form.list({form.predicate_destination(*form.args[0].second)});
  }
  in.a = form.source(form.args[1], type_bits(type));
  in.b = form.source(form.args[2], 32);
}

// ---- redux ----
template <class F>
void redux(Warp& w, const Instr& in) {
  if (!members(w, in, in.b)) return;
  const Mask lacking = w.active & ~defined<uint32_t>(w, in.a);
  if (lacking) w.undefined("a value reduced among lanes", lacking);
  const uint32_t *a = row<uint32_t>(w, in.a), *m = row<uint32_t>(w, in.b);
  alignas(64) uint32_t result[LANES] = {};
  each(w.active, [&](int i) {
    bool begun = false;
    each(m[i] & w.active, [&](int j) { result[i] = begun ? F::f(result[i], a[j]) : a[j], begun = true; });
  });
  define<uint32_t>(w, in.d, ALL);
  store_lanes<uint32_t>(w, in.d, [&](int i) { return result[i]; });
}
#define PTX_REDUCTION(NAME, VALUE)                              \
  struct NAME {                                                 \
    static uint32_t f(uint32_t a, uint32_t b) { return VALUE; } \
  };
PTX_REDUCTION(Add, a + b)
PTX_REDUCTION(MinU, a < b ? a : b)
PTX_REDUCTION(MaxU, a > b ? a : b)
PTX_REDUCTION(MinS, static_cast<int32_t>(a) < static_cast<int32_t>(b) ? a : b)
PTX_REDUCTION(MaxS, static_cast<int32_t>(a) > static_cast<int32_t>(b) ? a : b)
PTX_REDUCTION(And, a& b)
PTX_REDUCTION(Or, a | b)
PTX_REDUCTION(Xor, a ^ b)
#undef PTX_REDUCTION
void decode_redux(Form& form, Instr& in) {
  if (!form.take("sync")) form.unknown();
  const std::string op = form.take_any({"add", "min", "max", "and", "or", "xor"}), type = form.take_type();
  const bool is_signed = type == "s32", bits = type == "b32";
  if (!is_signed && !bits && type != "u32") form.unknown();
  if (!bits)
    in.run = op == "add"   ? redux<Add>
             : op == "min" ? (is_signed ? redux<MinS> : redux<MinU>)
             : op == "max" ? (is_signed ? redux<MaxS> : redux<MaxU>)
                           : nullptr;
  if (bits) in.run = op == "and" ? redux<And> : op == "or" ? redux<Or> : op == "xor" ? redux<Xor> : nullptr;
  form.arguments(3);
  in.d = form.destination(form.args[0], 32);
  in.a = form.source(form.args[1], 32);
  in.b = form.source(form.args[2], 32);
}

// elect.sync: "deterministic, i.e. the same membermask always elects the same leader"; which one depends on
// the order here.
void elect(Warp& w, const Instr& in) {
  if (!members(w, in, in.b)) return;
  const uint32_t* m = row<uint32_t>(w, in.b);
  Mask leaders = 0;
  alignas(64) uint32_t leader[LANES] = {};
  each(w.active, [&](int i) {
    const Mask named = m[i] & w.active;
    const auto nth = [&](uint64_t n) {
      Mask rest = named;
      for (; n; --n) rest &= rest - 1;
      return static_cast<uint32_t>(first(rest));
    };
    const auto count = static_cast<uint64_t>(popcount(named));
    const Options& o = w.block.options;
    leader[i] = nth(o.order == Order::kForward   ? 0
                    : o.order == Order::kReverse ? count - 1
                                                 : (o.seed * 0x9e3779b97f4a7c15 >> 32) % count);
    leaders |= BIT[leader[i]];
  });
  define<uint32_t>(w, in.d, ALL);
  store_lanes<uint32_t>(w, in.d, [&](int i) { return leader[i]; });
  set_predicate(w, in.list[0], leaders, ALL);
}
void decode_elect(Form& form, Instr& in) {
  if (!form.take("sync")) form.unknown();
  form.arguments(2);
  if (!form.args[0].second) form.unknown();
  in.run = elect;
  in.d = form.destination(form.args[0], 32);
  in.list = form.list({form.predicate_destination(*form.args[0].second)});
  in.b = form.source(form.args[1], 32);
}

}  // namespace

void add_warp(std::map<std::string, Decode>& table) {
  table["shfl"] = decode_shfl;
  table["vote"] = decode_vote;
  table["match"] = decode_match;
  table["redux"] = decode_redux;
  table["elect"] = decode_elect;
  table["activemask"] = [](Form& form, Instr& in) {
    if (form.take_type() != "b32") form.unknown();
    form.arguments(1);
    in.run = activemask;
    in.d = form.destination(form.args[0], 32);
  };
}

}  // namespace ptx
