// move.cpp: mov, special registers, packing, cvta
#include "lanes.h"

namespace ptx {
namespace {

template <class T>
void move(Warp& w, const Instr& in) {
  const auto* a = row<T>(w, in.a);
  define<T>(w, in.d, defined<T>(w, in.a));
  store_lanes<T>(w, in.d, [=](int i) { return static_cast<T>(a[i]); });
}
void move_predicate(Warp& w, const Instr& in) {
  set_predicate(w, in.d, predicate(w, in.a) ^ (in.flags ? ALL : 0), predicate_defined(w, in.a));
}

enum Special : int64_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLane,
  kWarp,
  kWarps,
  kMaskEq,
  kMaskLt,
  kMaskLe,
  kMaskGt,
  kMaskGe,
  kClock,
  kZero,
  kOne,
  kDynamic,
  kTotal
};
const std::map<std::string, Special>& specials() {
  static const std::map<std::string, Special> names = {
      {"%tid.x", kTidX},           {"%tid.y", kTidY},           {"%tid.z", kTidZ},
      {"%ntid.x", kNtidX},         {"%ntid.y", kNtidY},         {"%ntid.z", kNtidZ},
      {"%ctaid.x", kCtaidX},       {"%ctaid.y", kCtaidY},       {"%ctaid.z", kCtaidZ},
      {"%nctaid.x", kNctaidX},     {"%nctaid.y", kNctaidY},     {"%nctaid.z", kNctaidZ},
      {"%laneid", kLane},          {"%warpid", kWarp},          {"%nwarpid", kWarps},
      {"%lanemask_eq", kMaskEq},   {"%lanemask_lt", kMaskLt},   {"%lanemask_le", kMaskLe},
      {"%lanemask_gt", kMaskGt},   {"%lanemask_ge", kMaskGe},   {"%clock", kClock},
      {"%clock64", kClock},        {"%globaltimer", kClock},    {"%smid", kZero},
      {"%cluster_ctarank", kZero}, {"%cluster_ctaid.x", kZero}, {"%cluster_ctaid.y", kZero},
      {"%cluster_ctaid.z", kZero}, {"%cluster_nctaid.x", kOne}, {"%cluster_nctaid.y", kOne},
      {"%cluster_nctaid.z", kOne}, {"%cluster_nctarank", kOne}, {"%clusterid.x", kCtaidX},
      {"%clusterid.y", kCtaidY},   {"%clusterid.z", kCtaidZ},   {"%nclusterid.x", kNctaidX},
      {"%nclusterid.y", kNctaidY}, {"%nclusterid.z", kNctaidZ}, {"%dynamic_smem_size", kDynamic},
      {"%total_smem_size", kTotal}};
  return names;
}

uint64_t value_of(Warp& w, int64_t special, int lane) {
  const Block& block = w.block;
  const size_t thread = static_cast<size_t>(w.index) * LANES + static_cast<size_t>(lane);
  const Dim3 &n = block.launch.block, &grid = block.launch.grid;
  switch (special) {
    case kTidX:
      return block.tid[0][thread];
    case kTidY:
      return block.tid[1][thread];
    case kTidZ:
      return block.tid[2][thread];
    case kNtidX:
      return n.x;
    case kNtidY:
      return n.y;
    case kNtidZ:
      return n.z;
    case kCtaidX:
      return block.ctaid[0];
    case kCtaidY:
      return block.ctaid[1];
    case kCtaidZ:
      return block.ctaid[2];
    case kNctaidX:
      return grid.x;
    case kNctaidY:
      return grid.y;
    case kNctaidZ:
      return grid.z;
    case kLane:
      return static_cast<uint64_t>(lane);
    case kWarp:
      return static_cast<uint64_t>(w.index);
    case kWarps:
      return block.warps.size();
    case kMaskEq:
      return BIT[lane];
    case kMaskLt:
      return BIT[lane] - 1;
    case kMaskLe:
      return (BIT[lane] - 1) | BIT[lane];
    case kMaskGt:
      return ~((BIT[lane] - 1) | BIT[lane]);
    case kMaskGe:
      return ~(BIT[lane] - 1);
    case kClock:
      return w.executed;
    case kOne:
      return 1;
    case kDynamic:
      return block.launch.dynamic_shared;
    case kTotal:
      return block.code.static_end - SHARED_BASE + block.launch.dynamic_shared;
    default:
      return 0;
  }
}
template <class T>
void special(Warp& w, const Instr& in) {
  define<T>(w, in.d, ALL);
  if (in.imm >= kNtidX && in.imm <= kNctaidZ) {  // one value for the block
    const T v = static_cast<T>(value_of(w, in.imm, 0));
    return store_lanes<T>(w, in.d, [=](int) { return v; });
  }
  store_lanes<T>(w, in.d, [&](int i) { return static_cast<T>(value_of(w, in.imm, i)); });
}

// Some of the parts may be `_`; operands of `list` are the parts, the lowest first.
template <class T, class PART>
void pack(Warp& w, const Instr& in) {
  Mask ok = ALL;
  alignas(64) T sum[LANES] = {};
  for (int k = 0; k < in.count; ++k) {
    const auto* part = row<PART>(w, in.list[k]);
    ok &= defined<PART>(w, in.list[k]);
    for (int i = 0; i < LANES; ++i)
      sum[i] |= static_cast<T>(static_cast<T>(get<PART>(part, i)) << (8 * sizeof(PART) * k));
  }
  define<T>(w, in.d, ok);
  store_lanes<T>(w, in.d, [&](int i) { return sum[i]; });
}
template <class T, class PART>
void unpack(Warp& w, const Instr& in) {
  const auto* a = row<T>(w, in.a);
  const Mask ok = defined<T>(w, in.a);
  alignas(64) T whole[LANES];
  for (int i = 0; i < LANES; ++i) whole[i] = get<T>(a, i);
  for (int k = 0; k < in.count; ++k) {
    define<PART>(w, in.list[k], ok);
    store_lanes<PART>(w, in.list[k],
                      [&](int i) { return static_cast<PART>(whole[i] >> (8 * sizeof(PART) * k)); });
  }
}

template <class T>
Handler packing(int part, bool in) {
  if (part == 16) return in ? pack<T, uint16_t> : unpack<T, uint16_t>;
  if constexpr (sizeof(T) == 8) {
    if (part == 32) return in ? pack<T, uint32_t> : unpack<T, uint32_t>;
  }
  return nullptr;
}

void decode_mov(Form& form, Instr& in) {
  const std::string type = form.take_type();
  const int bits = type_bits(type);
  form.arguments(2);
  const Arg &to = form.args[0], &from = form.args[1];
  if (type == "pred") {
    in.run = move_predicate;
    in.d = form.predicate_destination(to);
    in.a = form.predicate(from);
    in.flags = from.negated;
  } else if (from.kind == Arg::kVector || to.kind == Arg::kVector) {
    const bool packs = from.kind == Arg::kVector;
    const Arg& parts = packs ? from : to;
    const int part = bits / static_cast<int>(parts.items.size());
    in.run = bits == 64   ? packing<uint64_t>(part, packs)
             : bits == 32 ? packing<uint32_t>(part, packs)
                          : nullptr;
    if (!in.run || to.kind == from.kind) form.unknown();
    std::vector<Operand> list;
    for (const Arg& item : parts.items) {
      list.push_back(packs ? form.any_source(item, "b" + std::to_string(part))
                           : form.destination(item, part));
    }
    in.list = form.list(list);
    in.count = static_cast<uint8_t>(list.size());
    packs ? in.d = form.destination(to, bits) : in.a = form.source(from, bits);
  } else if (from.kind == Arg::kSpecial) {
    const auto found = specials().find(from.name);
    if (found == specials().end()) form.fail("unknown special register '" + from.name + "'");
    in.run = bits == 64 ? special<uint64_t> : bits == 32 ? special<uint32_t> : nullptr;
    in.imm = found->second;
    in.d = form.destination(to, bits);
  } else {
    in.run = bits == 64   ? move<uint64_t>
             : bits == 32 ? move<uint32_t>
             : bits == 16 ? move<uint16_t>
                          : nullptr;
    in.d = form.destination(to, bits);
    in.a = form.any_source(from, type);
  }
}

// cvta.space: generic = space's + window; cvta.to.space the other way. Windows are checked on the way back.
template <class S, class D>
void to_generic(Warp& w, const Instr& in) {
  const auto* a = row<S>(w, in.a);
  const auto base = static_cast<D>(in.imm);
  define<D>(w, in.d, defined<S>(w, in.a));
  store_lanes<D>(w, in.d, [=](int i) { return static_cast<D>(static_cast<D>(a[i]) + base); });
}
void from_generic(Warp& w, const Instr& in) {
  const auto* a = row<uint64_t>(w, in.a);
  const auto base = static_cast<uint64_t>(in.imm);
  const Mask ok = defined<uint64_t>(w, in.a);
  define<uint64_t>(w, in.d, ok);
  each(w.active & ok, [&](int i) {
    const bool window = (a[i] >> 56) != 0;
    if (base ? a[i] - base >= WINDOW_BYTES : window)
      w.fault(i, "converts a generic address of another state space");
  });
  store_lanes<uint64_t>(w, in.d, [=](int i) { return a[i] - base; });
}
void decode_cvta(Form& form, Instr& in) {
  const bool to = form.take("to");
  std::string space =
      form.take_any({"global", "shared", "shared::cta", "local", "const", "param", "param::entry"});
  const std::string type = form.take_type();
  if (space.empty() || type != "u64") form.unknown();
  form.arguments(2);
  in.imm = static_cast<int64_t>(space[0] == 's'   ? SHARED_WINDOW
                                : space[0] == 'l' ? LOCAL_WINDOW
                                : space[0] == 'p' ? PARAM_WINDOW
                                                  : 0);
  in.run = to ? from_generic : to_generic<uint64_t, uint64_t>;
  in.d = form.destination(form.args[0], 64);
  in.a = form.source(form.args[1], 64);
}

}  // namespace

void add_move(std::map<std::string, Decode>& table) {
  table["mov"] = decode_mov;
  table["cvta"] = decode_cvta;
}

}  // namespace ptx
