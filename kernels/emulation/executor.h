// executor.h: the executor's own state, shared by its source files
//
// A launch takes a Worker per OS thread. A worker runs one block at a time; the block's threads are fibers of
// that OS thread. Fibers are lazy: one fiber runs thread after thread as a plain loop, and only when a thread
// blocks does the next one get a fiber of its own. Kernels that never synchronise thus cost hardly more than
// the loop.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "emulation/control.h"
#include "emulation/executor_api.h"

#ifdef PCN_RACECHECK
#include "emulation/racecheck.h"
#define PCN_RACE(...) ::pcn::emulation::racecheck::__VA_ARGS__
#else
#define PCN_RACE(...) (void)0
#endif
#ifdef PCN_COUNT
#include "emulation/access_counts.h"
#define PCN_COUNTS(...) ::pcn::emulation::counts::__VA_ARGS__
#else
#define PCN_COUNTS(...) (void)0
#endif

#pragma GCC visibility push(hidden)
namespace pcn {
namespace emulation {

constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned SHARED_LIMIT = 232448;  // 227 KiB, what a block can have on sm_90
constexpr unsigned REDZONE = 64;           // before, after and between shared objects
constexpr unsigned char REDZONE_BYTE = 0xFB;

struct PendingCopy {
  char* target;
  const char* source;
  int bytes, source_bytes;
};

struct PendingStore {
  TensorMap map;
  char* shared;
  int coordinate[5];
};

struct Fiber {
  Context context;
  void* stack_pointer = nullptr;
  char* stack = nullptr;  // lowest address
  size_t stack_bytes = 0;
  void* extra = nullptr;  // ASan's fake stack, or the ucontext
  // What the thread waits for, for the deadlock report; null while it can run.
  const char* waits_for = nullptr;
  const char* file = nullptr;
  int line = 0;
  bool in_thread = false;  // between a thread's start and its end
  int barrier_result = 0;
  uint64_t* mbarrier = nullptr;
  unsigned parity = 0;
  std::vector<PendingCopy> copies;  // cp.async: copies not yet made, and the ends of the groups among them
  std::vector<int> groups;
  std::vector<PendingStore> stores;  // TMA stores, likewise
  std::vector<int> store_groups;
};

struct WgmmaOp {
  std::vector<char> args;     // 32 lanes' arguments
  std::vector<float> parked;  // accumulators while the registers hold poison
  WgmmaFunction function;
  int group, registers;
};

struct Warp {
  unsigned exist, arrived;
  unsigned mask[32];
  const void* operation[32];
  const char* name[32];
  void* arg[32];
  Fiber* fiber[32];
  std::vector<WgmmaOp> wgmma;
  int wgmma_group;
  bool needs_wgmma_fence;
};

struct Barrier {
  std::vector<Fiber*> waiting;
  int arrived, wanted, predicates;
  const char *file, *other_file;
  int line, other_line;
  bool diverged;
};

struct TmaOp {
  TensorMap map;
  char* shared;
  uint64_t* barrier;
  int coordinate[5], offset[2];
};

struct StaticObject {
  const void* tag;
  char* p;
  size_t bytes;
};

struct Grid {
  dim3 grid, block;
  size_t dynamic_bytes;
  SharedRule* asks;
  KernelThunk thunk;
  void* closure;
  Config config;
  uint64_t blocks, wanted;              // of the grid; to be run (fewer only while accesses are counted)
  uint64_t block_stride, block_offset;  // the order in which blocks start
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::string error;  // of the failing block with the smallest position in the order
  uint64_t error_position = ~0ull;
};

struct Worker {
  Fiber main;
  Fiber* current = nullptr;
  Fiber* previous = nullptr;
  std::vector<Fiber*> fibers, idle;
  std::vector<Fiber*> ready;
  size_t ready_head = 0;
  std::vector<unsigned> order;  // thread indices in starting order
  unsigned next = 0, threads = 0, live = 0, exited = 0;
  Warp warps[MAX_THREADS / 32];
  Barrier barriers[16];
  std::vector<TmaOp> tma;
  std::vector<uint64_t*> mbarriers;
  std::vector<Fiber*> mbarrier_waiters;
  Grid* grid = nullptr;
  uint3 block;
  uint64_t position = 0;  // of the block in the launch's order
  uint64_t random_state = 1, spins = 0;
  int burst = 0;  // what `mix` is doing
  // The shared window. It starts with a redzone, then come the dynamic part and the static objects.
  char* window = nullptr;
  unsigned window_bytes = 0, dynamic_offset = 0, used = 0;
  std::vector<StaticObject> statics;

  uint64_t random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
  }
  bool randomised() const { return grid->config.order == Order::rand || grid->config.order == Order::mix; }
};
extern __thread Worker* worker __attribute__((tls_model("initial-exec")));

// ---- fiber.cpp ----------------------------------------------------------------------------------
Fiber* take_fiber();                     // an idle one, or a new one
void prime_fiber(Fiber*, size_t index);  // makes it start afresh in fiber_main()
void switch_to(Fiber*);
void enter_main_fiber();  // the calling OS thread becomes worker->main

// ---- executor.cpp -------------------------------------------------------------------------------
[[noreturn]] void fiber_main();
void schedule();  // gives the core away; returns when the current fiber is resumed
void make_ready(Fiber*);
void make_all_ready(std::vector<Fiber*>&);  // in random order where the schedule is random; clears the list
void wait_here(const char* what, const char* file, int line);
void maybe_preempt();

// ---- barriers.cpp -------------------------------------------------------------------------------
void check_barrier_after_exit();

// ---- shared_window.cpp --------------------------------------------------------------------------
void open_shared_window();
void check_redzones();

// ---- async.cpp ----------------------------------------------------------------------------------
void finish_tma(size_t index);
const char* short_path(const char* file);

}  // namespace emulation
}  // namespace pcn
#pragma GCC visibility pop
