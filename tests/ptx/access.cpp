// access.cpp: checked addresses, ld and st
#include "access.h"

#include <cstdio>

#include "types.h"

namespace ptx {
namespace {

const char* name_of(Space s) {
  static const char* const names[] = {"generic", "global", "shared", "local", "param", "const"};
  return names[static_cast<int>(s)];
}
std::string hex(uint64_t v) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

// The space a generic address is in, and where that space begins.
Space space_of(uint64_t address, uint64_t* window) {
  *window = 0;
  switch (address >> 56) {
    case 0:
      return Space::kGlobal;
    case SHARED_WINDOW >> 56:
      *window = SHARED_WINDOW;
      return Space::kShared;
    case LOCAL_WINDOW >> 56:
      *window = LOCAL_WINDOW;
      return Space::kLocal;
    case PARAM_WINDOW >> 56:
      *window = PARAM_WINDOW;
      return Space::kParam;
    default:
      return Space::kGeneric;
  }
}

const std::vector<Extent>& extents_of(const Block& block, Space space) {
  switch (space) {
    case Space::kShared:
      return block.shared;
    case Space::kLocal:
      return block.local;
    case Space::kParam:
      return block.param;
    default:
      return block.global;
  }
}

[[noreturn]] void outside(Warp& w, int lane, Space space, uint64_t address, size_t bytes, bool write) {
  std::string near;
  const auto& extents = extents_of(w.block, space);
  const Extent* before = nullptr;
  for (const Extent& e : extents) {
    if (e.begin <= address) before = &e;
  }
  if (before && space != Space::kLocal) {
    near = "; the last allocation before it has " + std::to_string(before->end - before->begin) + " bytes" +
           (*before->name ? std::string(" (") + before->name + ")" : "") + " and begins " +
           std::to_string(address - before->begin) + " bytes earlier";
  }
  w.fault(lane, std::string(write ? "write" : "read") + " of " + std::to_string(bytes) + " bytes of " +
                    name_of(space) + " memory out of bounds, at " + hex(address) + near);
}

void place_lane(Warp& w, int lane, Space space, uint64_t address, size_t bytes, bool write, Places& p) {
  uint64_t window = 0;
  if (space == Space::kGeneric) space = space_of(address, &window);
  const Extent* e =
      space == Space::kGeneric ? nullptr : w.block.find(extents_of(w.block, space), address - window);
  if (!e || address - window + bytes > e->end) outside(w, lane, space, address - window, bytes, write);
  if (write && !e->writable) w.fault(lane, "writes " + std::string(e->name) + ", which is read-only");
  const uint64_t at = address - window + e->stride * static_cast<uint64_t>(lane);
  p.one[lane].data = reinterpret_cast<uint8_t*>(at + static_cast<uint64_t>(e->data));
  p.one[lane].shadow =
      e->has_shadow ? reinterpret_cast<uint8_t*>(at + static_cast<uint64_t>(e->shadow)) : nullptr;
  p.has_shadow |= e->has_shadow;
  p.global |= space == Space::kGlobal || space == Space::kConst;
}

}  // namespace

void load_addresses(Warp& w, Operand address, bool wide, int64_t offset, uint64_t* at) {
  const Mask known = wide ? defined<uint64_t>(w, address) : defined<uint32_t>(w, address);
  if (w.active & ~known) w.undefined("an address", w.active & ~known);
  const auto add = static_cast<uint64_t>(offset);
  if (wide) {
    const uint64_t* a = row<uint64_t>(w, address);
    for (int i = 0; i < LANES; ++i) at[i] = a[i] + add;
  } else {
    const uint32_t* a = row<uint32_t>(w, address);
    for (int i = 0; i < LANES; ++i) at[i] = a[i] + add;
  }
}

namespace {

// Whether all addresses are in an extent: no difference to either end is negative.
bool inside(const Extent& e, const uint64_t* at, size_t bytes) {
  const uint64_t begin = e.begin, last = e.end - bytes;
  uint64_t any = last - begin;  // negative where the extent is shorter than the access
  for (int i = 0; i < LANES; ++i) any |= (at[i] - begin) | (last - at[i]);
  return !(any >> 63);
}

}  // namespace

void place_at(Warp& w, const Instr& in, Space space, size_t bytes, size_t align, bool write, Places& p,
              size_t slot) {
  const Mask active = w.active;
  const uint64_t lead = p.at[first(active)];
  if (active != ALL) {
    for (int i = 0; i < LANES; ++i) p.at[i] = active & BIT[i] ? p.at[i] : lead;
  }
  uint64_t low_bits = 0;
  for (int i = 0; i < LANES; ++i) low_bits |= p.at[i];
  if (low_bits & (align - 1)) {
    each(active, [&](int i) {
      if (p.at[i] & (align - 1)) {
        w.fault(i, "misaligned " + std::string(write ? "write" : "read") + ": address " + hex(p.at[i]) +
                       " is not a multiple of " + std::to_string(align));
      }
    });
  }
  p.has_shadow = p.mixed = p.global = false;
  uint64_t window = 0;
  Space found = space;
  if (space == Space::kGeneric) {
    found = space_of(lead, &window);
    if (window) {
      for (int i = 0; i < LANES; ++i) p.at[i] -= window;
    }
  }
  const Extent*& last = w.block.cache[2 * size_t{in.index} + slot];
  const Extent* e = found == Space::kGeneric ? nullptr : last;
  if (found != Space::kGeneric && (!e || space == Space::kGeneric || !inside(*e, p.at, bytes))) {
    e = w.block.find(extents_of(w.block, found), lead - window);
    last = e;
    if (e && !inside(*e, p.at, bytes)) e = nullptr;
  }
  if (!e || e->stride || (write && !e->writable)) {
    p.mixed = true;
    each(active, [&](int i) { place_lane(w, i, space, p.at[i] + window, bytes, write, p); });
    each(~active, [&](int i) { p.one[i] = {p.one[first(active)].data, nullptr}; });
    return;
  }
  p.global = found == Space::kGlobal || found == Space::kConst;
  p.to_data = static_cast<uint64_t>(e->data);
  p.to_shadow = static_cast<uint64_t>(e->shadow);
  p.has_shadow = e->has_shadow;
}

void place(Warp& w, const Instr& in, Space space, size_t bytes, bool write, Places& p) {
  load_addresses(w, in.a, in.flags & WIDE_ADDRESS, in.imm, p.at);
  place_at(w, in, space, bytes, bytes, write, p);
}

Range range_of(Warp& w, int lane, Space space, uint64_t address, size_t bytes, size_t align, bool write) {
  if (address % align) {
    w.fault(lane,
            "misaligned access: address " + hex(address) + " is not a multiple of " + std::to_string(align));
  }
  Places p;
  place_lane(w, lane, space, address, bytes, write, p);
  return {p.one[lane].data, p.one[lane].shadow};
}

namespace {

// ---- loads --------------------------------------------------------------------------------------

// A register of 64 bits for a narrower type: extended as the type says.
template <class T, bool WIDE>
using Held = std::conditional_t<WIDE, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>, T>;

template <size_t BYTES>
bool all_lanes_written(const uint64_t* at, uint64_t to_shadow) {
  using Word = std::conditional_t<
      BYTES >= 8, uint64_t,
      std::conditional_t<BYTES == 4, uint32_t, std::conditional_t<BYTES == 2, uint16_t, uint8_t>>>;
  Word all = static_cast<Word>(~Word{0});
  for (int i = 0; i < LANES; ++i) {
    for (size_t k = 0; k < BYTES; k += sizeof(Word)) {
      Word here;
      std::memcpy(&here, reinterpret_cast<const uint8_t*>(at[i] + to_shadow) + k, sizeof here);
      all &= here;
    }
  }
  Word least;
  std::memset(&least, UNFENCED, sizeof least);
  return (all & least) == least;
}

template <class T, int COUNT, bool WIDE>
void load(Warp& w, const Instr& in) {
  constexpr size_t BYTES = sizeof(T) * COUNT;
  Places p;
  place(w, in, static_cast<Space>(in.space), BYTES, false, p);
  Mask ok[COUNT];
  for (int k = 0; k < COUNT; ++k) ok[k] = ALL;
  if (p.has_shadow && (p.mixed || !all_lanes_written<BYTES>(p.at, p.to_shadow))) {
    each(w.active, [&](int i) {
      const uint8_t* shadow = p.shadow(i);
      for (int k = 0; shadow && k < COUNT; ++k) {
        if (all_written(shadow + k * sizeof(T), sizeof(T))) continue;
        ok[k] &= ~BIT[i];
        w.note_undefined(i, "bytes at " + hex(p.at[i] + k * sizeof(T)) +
                                " that nothing has written, or a copy not waited for");
      }
    });
  }
  alignas(64) T values[COUNT][LANES];
  const auto take = [&](int i, const uint8_t* data) {
    T here[COUNT];
    std::memcpy(here, data, BYTES);
    for (int k = 0; k < COUNT; ++k) values[k][i] = here[k];
  };
  if (p.mixed) {
    for (int i = 0; i < LANES; ++i) take(i, p.one[i].data);
  } else {
    const uint64_t to_data = p.to_data;
    for (int i = 0; i < LANES; ++i) take(i, reinterpret_cast<const uint8_t*>(p.at[i] + to_data));
  }
  for (int k = 0; k < COUNT; ++k) {
    const Operand d = COUNT == 1 ? in.d : in.list[k];
    using D = Held<T, WIDE>;
    define<D>(w, d, ok[k]);
    const T* v = values[k];
    store_lanes<D>(w, d, [=](int i) { return static_cast<D>(v[i]); });
  }
}

// ---- stores -------------------------------------------------------------------------------------

template <class T, int COUNT, bool WIDE>
void store(Warp& w, const Instr& in) {
  constexpr size_t BYTES = sizeof(T) * COUNT;
  Places p;
  place(w, in, static_cast<Space>(in.space), BYTES, true, p);
  alignas(64) T values[LANES][COUNT];
  Mask ok[COUNT], every = ALL;
  for (int k = 0; k < COUNT; ++k) {
    const Operand o = COUNT == 1 ? in.b : in.list[k];
    using D = Held<T, WIDE>;
    ok[k] = defined<D>(w, o);
    every &= ok[k];
    const auto* r = row<D>(w, o);
    for (int i = 0; i < LANES; ++i) values[i][k] = static_cast<T>(get<D>(r, i));
  }
  if (p.global && (w.active & ~every)) w.undefined("what it writes to global memory", w.active & ~every);
  const bool every_lane = w.active == ALL && !p.mixed;
  const uint64_t to_data = p.to_data, to_shadow = p.to_shadow;
  if (every_lane) {
    for (int i = 0; i < LANES; ++i)
      std::memcpy(reinterpret_cast<uint8_t*>(p.at[i] + to_data), values[i], BYTES);
  } else {
    each(w.active, [&](int i) { std::memcpy(p.data(i), values[i], BYTES); });
  }
  if (!p.has_shadow) return;
  const uint8_t state = w.code.proxies && !p.global ? UNFENCED : WRITTEN;
  if (every_lane && every == ALL) {
    for (int i = 0; i < LANES; ++i)
      std::memset(reinterpret_cast<uint8_t*>(p.at[i] + to_shadow), state, BYTES);
  } else {
    each(w.active, [&](int i) {
      uint8_t* shadow = p.shadow(i);
      for (int k = 0; shadow && k < COUNT; ++k) {
        std::memset(shadow + k * sizeof(T), ok[k] & BIT[i] ? state : UNDEFINED, sizeof(T));
      }
    });
  }
  if (state == UNFENCED) each(w.active, [&](int i) { w.block.written(w, i, p.shadow(i), BYTES); });
}

template <class T, bool WIDE>
Handler pick(size_t count, bool loads) {
  if (count == 1) return loads ? load<T, 1, WIDE> : store<T, 1, WIDE>;
  if (count == 2) return loads ? load<T, 2, WIDE> : store<T, 2, WIDE>;
  if constexpr (sizeof(T) < 8) {
    if (count == 4) return loads ? load<T, 4, WIDE> : store<T, 4, WIDE>;
  }
  return nullptr;
}
Handler find(const std::string& type, size_t count, bool loads, bool wide) {
  const auto of = [&](auto t) {
    using T = decltype(t);
    if constexpr (sizeof(T) < 8) {
      if (wide) return pick<T, true>(count, loads);
    }
    return pick<T, false>(count, loads);
  };
  switch (type_bits(type)) {
    case 8:
      return type == "s8" ? of(int8_t{}) : of(uint8_t{});
    case 16:
      return type == "s16" ? of(int16_t{}) : of(uint16_t{});
    case 32:
      return type == "s32" ? of(int32_t{}) : of(uint32_t{});
    case 64:
      return of(uint64_t{});
  }
  return nullptr;
}

void decode_access(Form& form, Instr& in) {
  const bool load = form.opcode() != "st";
  const Space space = take_space(form);
  take_cache_hints(form);
  const std::string vector = form.take_any({"v2", "v4"});
  const std::string type = form.take_type();
  form.arguments(2);
  const Arg &address = form.args[load ? 1 : 0], &value = form.args[load ? 0 : 1];
  form.address(address, space, in);
  const size_t count = vector.empty() ? 1 : static_cast<size_t>(vector[1] - '0');
  const std::vector<Arg> values = count == 1 ? std::vector<Arg>{value} : value.items;
  if (values.size() != count) form.fail("takes " + std::to_string(count) + " elements");
  const bool wide = type_bits(type) < 64 && form.is_64(values[0]);
  in.run = find(type, count, load, wide);
  std::vector<Operand> list;
  for (const Arg& v : values) {
    if (wide ? !form.is_64(v) : v.kind == Arg::kRegister && form.is_64(v) != (type_bits(type) == 64)) {
      form.fail("registers of several widths");
    }
    list.push_back(load ? form.destination(v, type_bits(type), true) : form.any_source(v, type, true));
  }
  if (count > 1) {
    in.list = form.list(list);
  } else {
    (load ? in.d : in.b) = list[0];
  }
}

}  // namespace

Space take_space(Form& form) {
  if (form.take("global")) return Space::kGlobal;
  if (form.take("shared") || form.take("shared::cta")) return Space::kShared;
  if (form.take("local")) return Space::kLocal;
  if (form.take("param") || form.take("param::entry")) return Space::kParam;
  if (form.take("const")) return Space::kConst;
  return Space::kGeneric;
}
void take_cache_hints(Form& form) {
  form.take_any({"weak", "volatile", "relaxed", "acquire", "release"});
  form.take_any({"cta", "cluster", "gpu", "sys"});
  form.take("nc");
  form.take_any({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
  form.take_any(
      {"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"});
  form.take_any({"L2::64B", "L2::128B", "L2::256B"});
}

void add_access(std::map<std::string, Decode>& table) {
  table["ld"] = table["ldu"] = table["st"] = decode_access;
}

}  // namespace ptx
