// control.cpp: branches, ends, barriers and fences
#include "lanes.h"

namespace ptx {
namespace {

void branch(Warp& w, const Instr& in) { w.jump(in.target); }
void uniform_branch(Warp& w, const Instr& in) {
  if (w.active != w.mask) w.fault(first(w.active), "bra.uni that only some of the lanes take");
  w.jump(in.target);
}
void leave(Warp& w, const Instr&) { w.leave(w.active); }
void trap(Warp& w, const Instr&) { w.fault(first(w.active), "trap"); }
void nothing(Warp&, const Instr&) {}
void fence(Warp&, const Instr&) { std::atomic_thread_fence(std::memory_order_seq_cst); }

// ---- barriers: in.a the number, in.b the threads, each the same in all lanes ----
int64_t uniform(Warp& w, Operand o, const char* what) {
  const uint32_t* r = row<uint32_t>(w, o);
  if (w.active & ~defined<uint32_t>(w, o)) w.undefined(what, w.active & ~defined<uint32_t>(w, o));
  const uint32_t v = r[first(w.active)];
  each(w.active, [&](int i) {
    if (r[i] != v) w.fault(i, std::string(what) + " differs among the lanes of a warp");
  });
  return static_cast<int64_t>(v);
}
void arrive(Warp& w, const Instr& in, bool wait, bool again = false, int trues = 0) {
  const int64_t id = uniform(w, in.a, "a barrier's number"),
                threads = uniform(w, in.b, "a barrier's number of threads");
  if (in.count > 1 && threads == 0) w.fault(first(w.active), "a barrier of 0 threads");
  w.block.arrive(w, id, threads, wait, again, trues);
}
void sync(Warp& w, const Instr& in) {
  if (w.whole()) arrive(w, in, true);
}
void arrive_only(Warp& w, const Instr& in) {
  if (w.whole()) arrive(w, in, false);
}
enum Reduction { kPopc, kAnd, kOr };
void reduce(Warp& w, const Instr& in) {
  if (!w.resumed) {
    if (!w.whole()) return;
    const Mask lacking = w.active & ~predicate_defined(w, in.c);
    if (lacking) w.undefined("a predicate that a barrier reduces", lacking);
    return arrive(w, in, true, true, popcount((predicate(w, in.c) ^ (in.flags & 8 ? ALL : 0)) & w.active));
  }
  w.resumed = false;
  const NamedBarrier& b = w.block.barriers[w.barrier];
  const auto trues = static_cast<uint32_t>(b.true_then);
  if ((in.flags & 3) == kPopc) {
    define<uint32_t>(w, in.d, ALL);
    return store_lanes<uint32_t>(w, in.d, [=](int) { return trues; });
  }
  const bool holds = (in.flags & 3) == kOr ? trues > 0 : b.true_then == b.threads_then;
  set_predicate(w, in.d, holds ? ALL : 0, ALL);
}

void decode_barrier(Form& form, Instr& in) {
  const bool bar = form.opcode() == "bar";
  form.take("cta");
  const std::string what = form.take("warp") ? "warp" : form.take_any({"sync", "arrive", "red"});
  if (!bar && !form.take("aligned") && what != "red")
    form.unknown();      // barrier.sync: of lanes that may be apart
  if (what == "warp") {  // bar.warp.sync: the lanes meet
    form.take("sync");
    form.arguments(1);
    in.a = form.source(form.args[0], 32);
    in.run = [](Warp& w, const Instr& i) {
      const auto* members = row<uint32_t>(w, i.a);
      each(w.active, [&](int lane) {
        if (!(members[lane] & BIT[lane])) w.fault(lane, "is not among the lanes it names");
      });
      Mask all = 0;
      each(w.active, [&](int lane) { all |= members[lane]; });
      w.together(all & w.lanes & ~w.exited);
    };
    return;
  }
  size_t next = 0;
  if (what == "red") {
    form.take("aligned");
    const std::string reduction = form.take_any({"popc", "and", "or"});
    if (form.take_type() != (reduction == "popc" ? "u32" : "pred")) form.unknown();
    in.flags = reduction == "popc" ? kPopc : reduction == "and" ? kAnd : kOr;
    form.arguments(3, 4);
    in.d =
        reduction == "popc" ? form.destination(form.args[0], 32) : form.predicate_destination(form.args[0]);
    in.c = form.predicate(form.args.back());
    if (form.args.back().negated) in.flags |= 8;
    next = 1;
    in.run = reduce;
  } else {
    form.arguments(1, 2);
    in.run = what == "sync" ? sync : what == "arrive" ? arrive_only : nullptr;
  }
  in.count = static_cast<uint8_t>(form.args.size() - next - (what == "red"));
  in.a = form.source(form.args[next], 32);
  Arg none;
  none.kind = Arg::kInteger;
  in.b = form.source(in.count > 1 ? form.args[next + 1] : none, 32);
}

void decode_branch(Form& form, Instr& in) {
  form.arguments(1);
  in.run = form.take("uni") ? uniform_branch : branch;
  in.target = form.label(form.args[0]);
}

void decode_fence(Form& form, Instr& in) {
  form.take("sc") || form.take("acq_rel") || form.take("acquire") || form.take("release");
  if (form.take_any({"cta", "cluster", "gpu", "sys", "gl"}).empty()) form.unknown();
  in.run = fence;
}

}  // namespace

void add_control(std::map<std::string, Decode>& table) {
  table["bra"] = decode_branch;
  table["bar"] = table["barrier"] = decode_barrier;
  table["membar"] = decode_fence;
  for (const char* end : {"ret", "exit"}) {
    table[end] = [](Form& form, Instr& in) {
      form.take("uni");
      in.run = leave;
    };
  }
  table["trap"] = [](Form&, Instr& in) { in.run = trap; };
  table["brkpt"] = table["pmevent"] = [](Form&, Instr& in) { in.run = nothing; };
  table["nanosleep"] = [](Form& form, Instr& in) {
    form.take("u32");
    in.run = nothing;
  };
  table["fence"] = [](Form& form, Instr& in) {
    if (form.peek() != "proxy" && form.peek() != "mbarrier_init") return decode_fence(form, in);
    decode_proxy_fence(form, in);
  };
}

}  // namespace ptx
