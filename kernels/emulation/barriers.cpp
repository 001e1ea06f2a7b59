// barriers.cpp: block barriers and warp collectives, with their checks
#include "emulation/executor.h"

#include <algorithm>
#include <cstring>

namespace pcn {
namespace emulation {

// ---- barriers -----------------------------------------------------------------------------------
namespace {

void complete(Barrier& b, int id) {
  if (b.diverged && id == 0) {
    fail("divergent barrier: __syncthreads at %s:%d and at %s:%d would complete one another",
         short_path(b.file), b.line, short_path(b.other_file), b.other_line);
  }
  b.arrived = 0;
  for (Fiber* f : b.waiting) f->barrier_result = b.predicates;
}

// Records an arrival. True if it was the last one.
bool arrive(Barrier& b, int id, int threads, bool predicate, const char* file, int line) {
  Worker& w = *worker;
  if (id < 0 || id > 15) fail("barrier %d: there are 16, numbered from 0", id);
  if (threads % 32 != 0 || threads < 0 || threads > static_cast<int>((w.threads + 31) / 32 * 32)) {
    fail("barrier %d at %s:%d for %d threads: must be a multiple of 32 within the block's %u", id,
         short_path(file), line, threads, w.threads);
  }
  if (threads == 0 && w.exited) {
    fail("__syncthreads at %s:%d after %u thread(s) of the block exited", short_path(file), line, w.exited);
  }
  if (!b.arrived) {
    b.file = file;
    b.line = line;
    b.diverged = false;
    b.predicates = 0;
    b.wanted = threads;
  } else {
    if (b.line != line || (b.file != file && strcmp(b.file, file) != 0)) {
      b.diverged = true;
      b.other_file = file;
      b.other_line = line;
    }
    if (b.wanted != threads) fail("barrier %d awaited for %d and for %d threads", id, b.wanted, threads);
  }
  b.predicates += predicate;
  ++b.arrived;
  return b.arrived == (threads ? threads : static_cast<int>(w.live));
}

}  // namespace

int barrier_sync(int id, int threads, bool predicate, const char* file, int line) {
  Worker& w = *worker;
  Barrier& b = w.barriers[id & 15];
  Fiber* f = w.current;
  if (threads) PCN_RACE(named_barrier_arrive(id & 15, f->context.index, true));
  if (!arrive(b, id, threads, predicate, file, line)) {
    b.waiting.push_back(f);
    wait_here(id ? "named barrier" : "__syncthreads", file, line);
    return f->barrier_result;
  }
  f->barrier_result = b.predicates;
  if (threads) {
    PCN_RACE(named_barrier_complete(id & 15));
  } else {
    PCN_RACE(full_barrier());
    PCN_COUNTS(block_point());
  }
  complete(b, id);
  if (w.grid->config.order == Order::fwd || w.grid->config.order == Order::rev) {
    make_all_ready(b.waiting);  // this thread goes on, the others follow
  } else {
    b.waiting.push_back(f);
    make_all_ready(b.waiting);
    schedule();
  }
  return f->barrier_result;
}

void barrier_arrive(int id, int threads, const char* file, int line) {
  Barrier& b = worker->barriers[id & 15];
  if (threads == 0) fail("bar.arrive on barrier %d needs a thread count", id);
  PCN_RACE(named_barrier_arrive(id & 15, context->index, false));
  if (arrive(b, id, threads, false, file, line)) {
    PCN_RACE(named_barrier_complete(id & 15));
    complete(b, id);
    make_all_ready(b.waiting);
  }
  maybe_preempt();
}

void check_barrier_after_exit() {
  Worker& w = *worker;
  const Barrier& b = w.barriers[0];
  if (b.wanted == 0 && static_cast<unsigned>(b.arrived) >= w.live) {
    fail("divergent barrier: %u thread(s) exited while %d others wait in __syncthreads at %s:%d", w.exited,
         b.arrived, short_path(b.file), b.line);
  }
}

// ---- warp collectives ---------------------------------------------------------------------------
void warp_collective(unsigned mask, void* arg, WarpFunction function, const void* operation,
                     const char* name) {
  Worker& w = *worker;
  Fiber* f = w.current;
  const unsigned lane = f->context.lane;
  Warp& warp = w.warps[f->context.warp];
  if (!(mask >> lane & 1)) fail("%s: lane %u is not in its own mask %08x", name, lane, mask);
  mask &= warp.exist;
  warp.mask[lane] = mask;
  warp.operation[lane] = operation;
  warp.name[lane] = name;
  warp.arg[lane] = arg;
  warp.fiber[lane] = f;
  warp.arrived |= 1u << lane;
  if ((warp.arrived & mask) != mask) {
    wait_here(name, nullptr, 0);
    return;
  }
  for (unsigned m = mask; m; m &= m - 1) {
    const unsigned i = static_cast<unsigned>(__builtin_ctz(m));
    if (warp.mask[i] != mask || warp.operation[i] != operation) {
      fail("divergent warp collective: lane %u is in %s with mask %08x, lane %u in %s with mask %08x", lane,
           name, mask, i, warp.name[i], warp.mask[i]);
    }
  }
  if (function) function(warp.arg, mask);
  if (mask == warp.exist) PCN_COUNTS(warp_point(f->context.warp));
  warp.arrived &= ~mask;
  w.spins = 0;
  const unsigned others = mask & ~(1u << lane);
  if (w.randomised()) {
    unsigned lanes[32], n = 0;
    for (unsigned m = others; m; m &= m - 1) lanes[n++] = static_cast<unsigned>(__builtin_ctz(m));
    for (unsigned i = n; i > 1; --i) std::swap(lanes[i - 1], lanes[w.random() % i]);
    for (unsigned i = 0; i < n; ++i) make_ready(warp.fiber[lanes[i]]);
  } else {
    for (unsigned m = others; m; m &= m - 1) make_ready(warp.fiber[__builtin_ctz(m)]);
  }
  maybe_preempt();
}

void syncwarp(unsigned mask, const char*, int) {
  static const char operation = 0;
#ifdef PCN_RACECHECK
  warp_collective(
      mask, nullptr, [](void* const*, unsigned m) { racecheck::warp_sync(context->warp, m); }, &operation,
      "__syncwarp");
#else
  warp_collective(mask, nullptr, nullptr, &operation, "__syncwarp");
#endif
}

// The leader is the same throughout a launch, and another one in other schedules.
bool elect_one() {
  static const char operation = 0;
  warp_collective(
      0xffffffffu, nullptr,
      [](void* const*, unsigned mask) {
        if (mask != 0xffffffffu) fail("elect.sync by an incomplete warp");
      },
      &operation, "elect.sync");
  const Config& config = worker->grid->config;
  const uint64_t leader = config.order == Order::fwd   ? 0
                          : config.order == Order::rev ? 31
                                                       : config.seed * 0x9E3779B97F4A7C15u >> 59;
  return context->lane == leader;
}

void thread_fence() {
  PCN_RACE(fence(context->index));
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

}  // namespace emulation
}  // namespace pcn
