// mbarrier.cpp: mbarriers, and the fences of the asynchronous proxy
#include "access.h"
#include "bulk.h"

namespace ptx {

void arrive(Block& block, Mbarrier& b, int64_t arrivals, int64_t bytes) {
  b.pending -= arrivals;
  b.bytes -= bytes;
  if (b.pending || b.bytes) return;
  ++b.phase;
  b.pending = b.count;
  ++block.events;
}

namespace {

constexpr int64_t MOST = (1 << 20) - 1;

Mbarrier& find(Warp& w, int lane, uint64_t address) {
  range_of(w, lane, Space::kShared, address, 8, 8, true);
  const auto found = w.block.async->mbarriers.find(address);
  if (found == w.block.async->mbarriers.end())
    w.fault(lane, "there is no initialised mbarrier at this address");
  return found->second;
}
template <class F>
void each_address(Warp& w, const Instr& in, F f) {
  uint64_t at[LANES];
  load_addresses(w, in.a, in.flags & WIDE_ADDRESS, in.imm, at);
  each(w.active, [&](int i) { f(i, at[i]); });
}
uint32_t word(Warp& w, Operand o, int lane) {
  if (!(defined<uint32_t>(w, o) & BIT[lane])) w.undefined("an operand of an mbarrier's operation", BIT[lane]);
  return row<uint32_t>(w, o)[lane];
}

void init(Warp& w, const Instr& in) {
  each_address(w, in, [&](int i, uint64_t at) {
    const Range r = range_of(w, i, Space::kShared, at, 8, 8, true);
    std::memset(r.shadow, UNDEFINED, 8);  // opaque
    const int64_t count = word(w, in.b, i);
    if (count < 1 || count > MOST) w.fault(i, "an mbarrier of " + std::to_string(count) + " arrivals");
    Mbarrier b;
    b.count = static_cast<uint32_t>(count), b.pending = count;
    w.block.async->mbarriers[at] = b;
  });
}
void invalidate(Warp& w, const Instr& in) {
  each_address(w, in, [&](int i, uint64_t at) {
    find(w, i, at);
    w.block.async->mbarriers.erase(at);
  });
}

// in.count: 1 arrives, 2 expects bytes, 3 both. in.b: the count or the bytes.
void arrive_here(Warp& w, const Instr& in) {
  alignas(64) uint64_t state[LANES] = {};
  each_address(w, in, [&](int i, uint64_t at) {
    Mbarrier& b = find(w, i, at);
    state[i] = b.phase;
    const int64_t operand = word(w, in.b, i);
    const int64_t arrivals = in.count == 2 ? 0 : in.count == 3 ? 1 : operand;
    if (in.count & 2) b.bytes += operand;
    if (b.bytes > MOST)
      w.fault(i, "the mbarrier is told to expect " + std::to_string(b.bytes) + " bytes: more than it counts");
    if (arrivals > b.pending)
      w.fault(i, "more arrivals at the mbarrier than the " + std::to_string(b.count) + " of its phase");
    if (in.count != 2) arrive(w.block, b, arrivals, 0);
  });
  if (!(in.space & 0x80)) return;
  define<uint64_t>(w, in.d, ALL);
  store_lanes<uint64_t>(w, in.d, [&](int i) { return state[i]; });
}

// in.count 1: of a parity, else of a state.
void test(Warp& w, const Instr& in) {
  Mask done = 0;
  each_address(w, in, [&](int i, uint64_t at) {
    const Mbarrier& b = find(w, i, at);
    if (in.count) {
      const uint32_t parity = word(w, in.b, i);
      if (parity > 1) w.fault(i, "the parity of a phase is 0 or 1, not " + std::to_string(parity));
      if ((b.phase & 1) != parity) done |= BIT[i];
    } else {
      if (!(defined<uint64_t>(w, in.b) & BIT[i])) w.undefined("the state of an mbarrier", BIT[i]);
      if (row<uint64_t>(w, in.b)[i] != b.phase) done |= BIT[i];
    }
  });
  const Mask failed = w.active & ~done;
  set_predicate(w, in.d, done, ALL);
  if (failed) w.poll();
}

void decode_mbarrier(Form& form, Instr& in) {
  form.uses_proxies();
  const std::string what = form.take_next();
  const bool tx = what == "arrive" && form.take("expect_tx");
  form.take_any({"release", "acquire", "relaxed"});
  form.take_any({"cta", "cluster"});
  const bool parity = form.take("parity");
  const Space space = take_space(form);
  if (form.take_type() != "b64" || space != Space::kShared) form.unknown();
  const auto& args = form.args;
  Arg one;
  one.kind = Arg::kInteger, one.integer = 1;
  if (what == "init") {
    form.arguments(2);
    in.run = init;
    form.address(args[0], space, in);
    in.b = form.source(args[1], 32);
  } else if (what == "inval") {
    form.arguments(1);
    in.run = invalidate;
    form.address(args[0], space, in);
  } else if (what == "expect_tx") {
    form.arguments(2);
    in.run = arrive_here, in.count = 2;
    form.address(args[0], space, in);
    in.b = form.source(args[1], 32);
  } else if (what == "arrive") {
    form.arguments(tx ? 3 : 2, 3);
    in.run = arrive_here, in.count = tx ? 3 : 1;
    form.address(args[1], space, in);
    in.b = form.source(args.size() == 3 ? args[2] : one, 32);
    in.d = form.destination(args[0], 64);
    in.space = static_cast<uint8_t>(args[0].kind == Arg::kSink ? 0 : 0x80);
  } else if (what == "test_wait" || what == "try_wait") {
    form.arguments(3, what == "try_wait" ? 4 : 3);
    in.run = test, in.count = parity;
    in.d = form.predicate_destination(args[0]);
    form.address(args[1], space, in);
    in.b = form.source(args[2], parity ? 32 : 64);
  } else {
    form.unknown();
  }
}

// ---- fences -------------------------------------------------------------------------------------

void show_mbarriers(Warp& w, const Instr&) {
  for (auto& [address, b] : w.block.async->mbarriers) b.visible = true;
}
void fence_proxy(Warp& w, const Instr& in) {
  show_mbarriers(w, in);
  auto kept = w.unfenced.begin();
  for (const auto& u : w.unfenced) {
    if (!(w.active & BIT[u.lane])) {
      *kept++ = u;
      continue;
    }
    for (size_t k = 0; k < u.bytes; ++k) {
      if (u.shadow[k] == UNFENCED) u.shadow[k] = WRITTEN;
    }
  }
  w.unfenced.erase(kept, w.unfenced.end());
}

}  // namespace

void decode_proxy_fence(Form& form, Instr& in) {
  if (form.take("mbarrier_init")) {
    if (!form.take("release") || !form.take("cluster")) form.unknown();
    in.run = show_mbarriers;
    return;
  }
  if (!form.take("proxy") || !form.take("async")) form.unknown();
  form.take_any({"shared::cta", "shared::cluster", "global"});
  form.uses_proxies();
  in.run = fence_proxy;
}

void add_mbarrier(std::map<std::string, Decode>& table) {
  table["mbarrier"] = decode_mbarrier;
  table["griddepcontrol"] = [](Form& form, Instr& in) {
    if (form.take_any({"wait", "launch_dependents"}).empty()) form.unknown();
    form.arguments(0);
    in.run = [](Warp&, const Instr&) {};
  };
  table["setmaxnreg"] = [](Form& form, Instr& in) {
    const bool inc = form.take("inc");
    if (inc == form.take("dec") || !form.take("sync") || !form.take("aligned") || form.take_type() != "u32")
      form.unknown();
    form.arguments(1);
    const int64_t n = form.immediate(form.args[0]);
    if (n < 24 || n > 256 || n % 8) form.fail("setmaxnreg takes a multiple of 8 from 24 to 256");
    in.run = [](Warp& w, const Instr&) { w.whole(); };
  };
}

}  // namespace ptx
