// executor.cpp: the scheduler, blocks and grids
#include "emulation/executor.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace pcn {
namespace emulation {

__thread Context* context;
__thread Worker* worker;
void set_error(const std::string&);  // control.cpp

// ---- failure ------------------------------------------------------------------------------------
namespace {

std::mutex grid_error_mutex;

struct BlockAbandoned : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void record_error(const std::string& text) {
  Worker& w = *worker;
  std::lock_guard<std::mutex> lock(grid_error_mutex);
  if (w.position < w.grid->error_position) {
    w.grid->error_position = w.position;
    w.grid->error = text;
  }
  w.grid->failed = true;
}

}  // namespace

void fail(const char* format, ...) {
  char message[1024], text[1400];
  va_list list;
  va_start(list, format);
  vsnprintf(message, sizeof message, format, list);
  va_end(list);
  if (!worker || !worker->grid) throw std::runtime_error(message);  // device code called outside a launch
  Worker& w = *worker;
  if (w.current == &w.main) {
    snprintf(text, sizeof text, "block (%u,%u,%u): %s", w.block.x, w.block.y, w.block.z, message);
    record_error(text);
    throw BlockAbandoned(text);
  }
  const uint3 t = context->thread;
  snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u): %s", w.block.x, w.block.y, w.block.z, t.x,
           t.y, t.z, message);
  record_error(text);
  switch_to(&w.main);  // the block's other fibers are abandoned where they are
  __builtin_unreachable();
}

const char* short_path(const char* file) {
  const char* kernels = file ? strstr(file, "kernels/") : nullptr;
  return kernels ? kernels : file ? file : "?";
}

// ---- scheduler ----------------------------------------------------------------------------------
void make_ready(Fiber* f) {
  f->waits_for = nullptr;
  worker->ready.push_back(f);
}

void make_all_ready(std::vector<Fiber*>& list) {
  Worker& w = *worker;
  w.spins = 0;
  if (w.randomised()) {
    for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[w.random() % i]);
  }
  for (Fiber* f : list) make_ready(f);
  list.clear();
}

namespace {

Fiber* pop_ready() {
  Worker& w = *worker;
  const size_t n = w.ready.size() - w.ready_head;
  Order order = w.grid->config.order;
  if (order == Order::mix) {
    if (w.random() % 32 == 0) w.burst = static_cast<int>(w.random() % 3);
    order = w.burst == 0 ? Order::fwd : w.burst == 1 ? Order::dfs : Order::rand;
  }
  if (order == Order::rand) std::swap(w.ready[w.ready_head], w.ready[w.ready_head + w.random() % n]);
  Fiber* f;
  if (order == Order::dfs) {
    f = w.ready.back();
    w.ready.pop_back();
  } else {
    f = w.ready[w.ready_head++];
  }
  if (w.ready_head == w.ready.size()) {
    w.ready.clear();
    w.ready_head = 0;
  } else if (w.ready_head > 4096) {
    w.ready.erase(w.ready.begin(), w.ready.begin() + static_cast<ptrdiff_t>(w.ready_head));
    w.ready_head = 0;
  }
  return f;
}

[[noreturn]] void report_deadlock() {
  Worker& w = *worker;
  struct Group {
    int count;
    unsigned example;
  };
  std::map<std::string, Group> groups;
  for (Fiber* f : w.fibers) {
    if (!f->in_thread || !f->waits_for) continue;
    std::string where = f->waits_for;
    if (f->file) where += std::string(" at ") + short_path(f->file) + ":" + std::to_string(f->line);
    auto it = groups.emplace(where, Group{0, f->context.index}).first;
    ++it->second.count;
    it->second.example = std::min(it->second.example, f->context.index);
  }
  std::string text = "deadlock:";
  for (const auto& g : groups) {
    text += " [" + std::to_string(g.second.count) + " threads, e.g. " + std::to_string(g.second.example) +
            ", wait in " + g.first + "]";
  }
  fail("%s [%u threads have exited]", text.c_str(), w.exited);
}

}  // namespace

void schedule() {
  Worker& w = *worker;
  const Async async = w.grid->config.async;
  for (;;) {
    if (async == Async::rand && !w.tma.empty() && (w.random() & 3) == 0)
      finish_tma(w.random() % w.tma.size());
    const size_t ready = w.ready.size() - w.ready_head, fresh = w.threads - w.next;
    bool start = fresh != 0;
    if (start && ready != 0) {
      start = w.randomised() ? w.random() % (fresh + ready) < fresh : w.grid->config.order != Order::dfs;
    }
    if (start) return switch_to(take_fiber());
    // Spinning threads are ready for ever: an asynchronous copy must then get its turn.
    if (ready != 0 && (w.tma.empty() || w.spins <= 2ull * w.live)) {
      if (w.spins > 20000000ull) fail("livelock: every thread spins");
      return switch_to(pop_ready());
    }
    if (!w.tma.empty()) {
      finish_tma(async == Async::rand ? w.random() % w.tma.size() : 0);
      continue;
    }
    if (w.live == 0) return switch_to(&w.main);
    report_deadlock();
  }
}

void wait_here(const char* what, const char* file, int line) {
  Fiber* f = worker->current;
  f->waits_for = what;
  f->file = file;
  f->line = line;
  schedule();
}

// In the random orders a thread may lose the core at any synchronising instruction, also one that does not
// block.
void maybe_preempt() {
  Worker& w = *worker;
  if (w.randomised() && (w.random() & 1)) {
    make_ready(w.current);
    schedule();
  }
}

void yield() {
  ++worker->spins;
  make_ready(worker->current);
  schedule();
}

void fiber_main() {
  for (;;) {
    Worker* w = worker;
    Fiber* f = w->current;
    while (w->next < w->threads) {
      const unsigned index = w->order[w->next++];
      const dim3 d = w->grid->block;
      Context& c = f->context;
      c.thread = uint3{index % d.x, index / d.x % d.y, index / (d.x * d.y)};
      c.block = w->block;
      c.block_dim = d;
      c.grid_dim = w->grid->grid;
      c.index = index;
      c.lane = index % 32;
      c.warp = index / 32;
      f->in_thread = true;
      w->grid->thunk(w->grid->closure);
      if (!f->copies.empty()) fail("the thread exits with cp.async copies it never waited for");
      if (!f->stores.empty()) fail("the thread exits with TMA stores it never waited for");
      f->in_thread = false;
      f->groups.clear();
      f->store_groups.clear();
      ++w->exited;
      --w->live;
      if (w->barriers[0].arrived) check_barrier_after_exit();
      if (w->randomised() && w->ready_head < w->ready.size()) break;  // let the scheduler choose
    }
    w->idle.push_back(f);
    schedule();
  }
}

// ---- blocks -------------------------------------------------------------------------------------
namespace {

void run_block(Worker& w, uint64_t position) {
  Grid& g = *w.grid;
  uint64_t b = static_cast<uint64_t>(
      (static_cast<unsigned __int128>(position) * g.block_stride + g.block_offset) % g.blocks);
  if (g.wanted < g.blocks) b = g.wanted == 1 ? 0 : position * (g.blocks - 1) / (g.wanted - 1);
  w.position = position;
  w.block = uint3{static_cast<unsigned>(b % g.grid.x), static_cast<unsigned>(b / g.grid.x % g.grid.y),
                  static_cast<unsigned>(b / (static_cast<uint64_t>(g.grid.x) * g.grid.y))};
  // Of the block alone: neither the number of workers nor who ran what before changes a schedule.
  w.random_state = (g.config.seed * 0x9E3779B97F4A7C15ull) ^ ((b + 1) * 0xD1B54A32D192ED03ull);
  if (!w.random_state) w.random_state = 1;
  w.random();
  w.random();
  w.burst = 0;
  const unsigned n = g.block.x * g.block.y * g.block.z;
  w.threads = w.live = n;
  w.next = w.exited = 0;
  w.spins = 0;
  w.order.resize(n);
  for (unsigned i = 0; i < n; ++i) w.order[i] = g.config.order == Order::rev ? n - 1 - i : i;
  if (w.randomised()) {
    for (unsigned i = n; i > 1; --i) std::swap(w.order[i - 1], w.order[w.random() % i]);
  }
  for (unsigned i = 0; i * 32 < n; ++i) {
    Warp& warp = w.warps[i];
    warp.exist = n - i * 32 >= 32 ? 0xffffffffu : (1u << (n - i * 32)) - 1;
    warp.arrived = 0;
    warp.wgmma.clear();
    warp.wgmma_group = 0;
    warp.needs_wgmma_fence = true;
  }
  for (Barrier& barrier : w.barriers) {
    barrier.arrived = 0;
    barrier.waiting.clear();
  }
  w.ready.clear();
  w.ready_head = 0;
  w.tma.clear();
  w.mbarriers.clear();
  w.mbarrier_waiters.clear();
  open_shared_window();
  PCN_RACE(block_begin(w.window, w.window_bytes, w.dynamic_offset, g.dynamic_bytes, n, b));
  PCN_COUNTS(block_begin(w.window, w.window_bytes, n));
  enter_main_fiber();
  schedule();
  PCN_COUNTS(block_end());
  if (!g.failed) check_redzones();
}

// Runs blocks in the calling thread until there are no more, or one has failed, or go_on() says no.
template <class GoOn>
void work(Worker* w, Grid* g, GoOn go_on) {
  worker = w;
  w->grid = g;
  try {
    while (!g->failed && go_on()) {
      const uint64_t position = g->next++;
      if (position >= g->wanted) break;
      run_block(*w, position);
    }
  } catch (const BlockAbandoned&) {  // recorded by fail()
  }
  if (g->failed) {  // abandoned fibers start afresh in the next launch
    w->idle.clear();
    for (size_t i = 0; i < w->fibers.size(); ++i) {
      prime_fiber(w->fibers[i], i);
      w->idle.push_back(w->fibers[i]);
    }
  }
  w->current = nullptr;
  w->grid = nullptr;
  worker = nullptr;
  context = nullptr;
}

// Idle workers are kept for their stacks and windows. A fork while another thread launches must not leave the
// lock taken in the child: hence the handlers.
std::mutex pool_mutex;
std::mutex launch_mutex;  // flavours race and count: their state knows one launch at a time
std::vector<Worker*>& pool = *new std::vector<Worker*>;

void lock_all() {
  launch_mutex.lock();
  pool_mutex.lock();
  grid_error_mutex.lock();
}
void unlock_all() {
  grid_error_mutex.unlock();
  pool_mutex.unlock();
  launch_mutex.unlock();
}
[[maybe_unused]] const int fork_handlers = pthread_atfork(lock_all, unlock_all, unlock_all);

Worker* take_worker() {
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (pool.empty()) return new Worker;
  Worker* w = pool.back();
  pool.pop_back();
  return w;
}
void give_worker(Worker* w) {
  std::lock_guard<std::mutex> lock(pool_mutex);
  pool.push_back(w);
}

// The calling thread starts alone; others join once there has been, and is left, enough to do for their
// creation to pay.
void run_blocks(Grid& g, int workers) {
  Worker* own = take_worker();
  std::vector<std::thread> threads;
  std::vector<Worker*> others;
  if (workers > 1) {
    const auto begin = std::chrono::steady_clock::now();
    work(own, &g,
         [begin] { return std::chrono::steady_clock::now() - begin < std::chrono::microseconds(200); });
    const uint64_t started = g.next, left = started < g.wanted ? g.wanted - started : 0;
    const uint64_t wanted = std::min<uint64_t>(static_cast<uint64_t>(workers - 1), left);
    while (others.size() < wanted && !g.failed) {
      Worker* w = take_worker();
      try {
        threads.emplace_back([w, &g] { work(w, &g, [] { return true; }); });
        others.push_back(w);
      } catch (const std::system_error&) {  // no more threads to be had: fewer will do
        give_worker(w);
        break;
      }
    }
  }
  work(own, &g, [] { return true; });
  for (std::thread& t : threads) t.join();
  for (Worker* w : others) give_worker(w);
  give_worker(own);
}

uint64_t greatest_common_divisor(uint64_t a, uint64_t b) {
  return b == 0 ? a : greatest_common_divisor(b, a % b);
}

}  // namespace

// ---- grids --------------------------------------------------------------------------------------
cudaError_t run_grid(dim3 grid, dim3 block, size_t dynamic_bytes, SharedRule* asks, KernelThunk thunk,
                     void* closure, [[maybe_unused]] size_t closure_bytes,
                     [[maybe_unused]] const void* kernel, [[maybe_unused]] const char* stem) {
  const auto refuse = [&](const char* what, unsigned long long x, unsigned long long y,
                          unsigned long long z) {
    char text[256];
    snprintf(text, sizeof text, "%s, got (%llu, %llu, %llu)", what, x, y, z);
    set_error(std::string("launch refused: ") + text);
    return cudaErrorInvalidConfiguration;
  };
  set_error("");
  if (worker) {
    set_error("launch refused: a kernel cannot launch another");
    return cudaErrorNotSupported;
  }
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (!threads || block.x > 1024 || block.y > 1024 || block.z > 64 || threads > MAX_THREADS) {
    return refuse("a block must have 1 to 1024 threads, at most (1024, 1024, 64)", block.x, block.y, block.z);
  }
  if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) {
    return refuse("a grid must have 1 to (2^31-1, 65535, 65535) blocks", grid.x, grid.y, grid.z);
  }
  if (dynamic_bytes > SHARED_LIMIT) {
    return refuse("dynamic shared memory must be at most 232448 bytes", dynamic_bytes, 0, 0);
  }
  if (dynamic_bytes > kSharedUnasked && !asks(0, dynamic_bytes)) {
    return refuse("more than 49152 bytes of dynamic shared memory must be asked for", dynamic_bytes, 0, 0);
  }

  Grid g;
  g.grid = grid;
  g.block = block;
  g.dynamic_bytes = dynamic_bytes;
  g.asks = asks;
  g.thunk = thunk;
  g.closure = closure;
  g.config = config();
  if (g.config.image == 0) return cudaErrorNoKernelImageForDevice;
  g.blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  g.wanted = g.blocks;
  g.block_stride = 1;
  g.block_offset = 0;
  if (g.config.order == Order::rev) {
    g.block_stride = g.blocks - 1;
    g.block_offset = g.blocks - 1;
    if (g.blocks == 1) g.block_stride = 1;
  } else if (g.config.order == Order::rand || g.config.order == Order::mix) {
    g.block_stride = (g.config.seed * 0x9E3779B97F4A7C15ull >> 16) % g.blocks | 1;
    while (greatest_common_divisor(g.block_stride, g.blocks) != 1) ++g.block_stride;
    g.block_offset = (g.config.seed * 0xD1B54A32D192ED03ull >> 16) % g.blocks;
  }
  int workers = g.config.workers;
  if (workers == 0) {
    static const unsigned cores = std::thread::hardware_concurrency();  // asks the operating system
    workers = static_cast<int>(std::min(8u, std::max(1u, cores)));
  }
  if (static_cast<uint64_t>(workers) > g.blocks) workers = static_cast<int>(g.blocks);

#if defined(PCN_RACECHECK)
  std::lock_guard<std::mutex> one_launch(launch_mutex);
  racecheck::launch_begin(closure, closure_bytes);
  run_blocks(g, 1);
  const std::string races = racecheck::launch_end();
  if (!races.empty()) {
    g.error += g.error.empty() ? races : "; " + races;
    g.failed = true;
  }
#elif defined(PCN_COUNT)
  std::lock_guard<std::mutex> one_launch(launch_mutex);
  counts::launch_begin(kernel, stem);
  if (counts::block_limit()) g.wanted = std::min(g.blocks, counts::block_limit());
  run_blocks(g, counts::enabled() ? 1 : workers);
  counts::launch_end();
#else
  run_blocks(g, workers);
#endif
  if (!g.failed) return cudaSuccess;
  set_error(g.error);
  return cudaErrorLaunchFailure;
}

}  // namespace emulation
}  // namespace pcn
