// control.h: how the host (bindings, tests) steers the emulator. Host-safe: no kernel vocabulary, no macros.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#pragma GCC visibility push(hidden)
namespace pcn {
namespace emulation {

// In which order the threads of a block run between synchronisations.
//   fwd  0, 1, 2, ... as far as each can go         rev   the same from the last thread and the last block
//   dfs  whoever became ready last                  rand  uniformly random
//   mix  bursts of lock step, of running ahead and of chaos; preempts at synchronising instructions that do
//   not block
enum class Order { fwd, rev, dfs, rand, mix };
// When asynchronous copies and wgmma take effect: as late as allowed (poisoned until then), at once, or at
// random.
enum class Async { late, eager, rand };

struct Config {
  Order order = Order::fwd;
  uint64_t seed = 1;
  Async async = Async::late;
  int workers = 0;  // OS threads that run blocks; 0: as many as there are cores, at most 8
  // The compute capability that the kernels' code is said to be compiled for. Rows that need newer code are
  // refused, and nothing else changes. 0: there is no code for the device, every launch fails.
  int image = 90;
};

// The setting every later launch of this process uses. The first call of config() or of a launch reads the
// defaults from PYCONVNET_EMULATOR_ORDER, _SEED, _ASYNC, _WORKERS and _IMAGE.
Config config();
// Names as in the enums. Throws std::invalid_argument naming the argument, what was wanted and what came.
void configure(const std::string& order, uint64_t seed, const std::string& async, int workers, int image);
const char* order_name(Order);
const char* async_name(Async);

// What went wrong in this OS thread's last failed launch, with kernel, block and thread; empty if nothing.
// Clears it.
std::string take_error();

// Which build this is: "plain", "asan", "race" or "count".
const char* flavour();

// The arrays of the call that is about to be launched. Only the race flavour looks at them: accesses to
// registered ranges are checked for races, and once any range is registered, an access to global memory
// outside all of them, or a write inside read-only ones only, fails the launch. Registrations count:
// unregister as often as registered.
void register_global(const void* pointer, size_t bytes, bool writable);
void unregister_global(const void* pointer);

// ---- flavour `count` ----------------------------------------------------------------------------
// What the warps of a launch did at one place of the program. A request is one access of a warp: of the lanes
// that make it together.
struct SiteCounts {
  std::vector<uint32_t> frames;  // offsets in the module: the access, the call of its function, ...
  bool shared;                   // else global memory
  int kind;                      // 0 load, 1 store, 2 atomic
  int bytes;                     // of one lane
  uint64_t requests, lanes;
  // Shared memory: passes over the banks, and what they would be without conflicts. Global memory: sectors of
  // 32 bytes touched, and what the bytes asked for (each counted once) would fill.
  uint64_t cost, ideal;
  uint64_t lines, ideal_lines;  // the same in lines of 128 bytes; global memory alone
  uint64_t worst;               // largest cost - ideal of a request
};
struct LaunchCounts {
  std::string stem;
  uint64_t kernel;  // its offset in the module
  unsigned grid[3], block[3];
  size_t dynamic_bytes, static_bytes;  // of shared memory
  std::vector<SiteCounts> sites;
};

// Starts afresh or stops. Throws std::runtime_error in builds that cannot count. While it is on, launches
// take one OS thread. With `blocks`, only so many blocks of a launch run, spread evenly over the grid: what
// they access is the same, but what the launch computes is incomplete.
void count_accesses(bool on, uint64_t blocks = 0);
std::vector<LaunchCounts> take_access_counts();  // of the launches since; clears them

}  // namespace emulation
}  // namespace pcn
#pragma GCC visibility pop
