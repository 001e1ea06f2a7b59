// control.cpp: what tests ask of the stand-in beyond CUDA's interface
#include <cstdlib>
#include <cstring>
#include <string>

#include "state.h"

using stand_in::state;
typedef std::lock_guard<std::recursive_mutex> Lock;

extern "C" int stand_in_configure(const char* order, const char* async, uint64_t seed, int threads);

namespace {

// One of a list of names, or -1.
int index_of(const char* name, std::initializer_list<const char*> names) {
  int i = 0;
  for (const char* other : names) {
    if (std::strcmp(name, other) == 0) return i;
    ++i;
  }
  return -1;
}

// What the environment says of how to run, for programs without Python.
const bool configured = [] {
  const char *order = std::getenv("PYCONVNET_PTX_ORDER"), *async = std::getenv("PYCONVNET_PTX_ASYNC");
  if (stand_in_configure(order ? order : "forward", async ? async : "late", 1, 1)) return true;
  stand_in::say(
      "PYCONVNET_PTX_ORDER must be forward, reverse or random, PYCONVNET_PTX_ASYNC late, early or random");
  std::abort();
}();

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

// How the executor runs what is launched from now on; 0 where it cannot.
int stand_in_configure(const char* order, const char* async, uint64_t seed, int threads) {
  Lock lock(state().mutex);
  const int o = index_of(order, {"forward", "reverse", "random"}),
            a = index_of(async, {"late", "early", "random"});
  if (o < 0 || a < 0 || threads < 0) return 0;
  ptx::Options& options = state().options;
  options.order = static_cast<ptx::Order>(o), options.async = static_cast<ptx::Async>(a);
  options.seed = seed, options.threads = threads;
  return 1;
}

// The device's compute capability, 10 * major + minor: to be set before anything is loaded.
void stand_in_set_capability(int capability) { state().capability = capability; }

// The newest error in words.
const char* stand_in_explanation() { return state().explanation.c_str(); }

// Forgets a kernel's fault: a new context, in which the memory is still there.
void stand_in_reset() {
  Lock lock(state().mutex);
  state().sticky = cudaSuccess;
  state().explanation.clear();
  cudaGetLastError();
}

// What the host has written past CUDA's functions, and what a pool hands out again.
void stand_in_mark(void* pointer, size_t bytes, int initialised) {
  Lock lock(state().mutex);
  if (initialised)
    state().memory.mark_initialised(pointer, bytes);
  else
    state().memory.mark_uninitialised(pointer, bytes);
}

int stand_in_initialised(const void* pointer, size_t bytes) {
  Lock lock(state().mutex);
  return state().memory.initialised(pointer, bytes);
}

// The mangled names of the kernels that ran, a line each.
const char* stand_in_kernels() {
  static std::string names;
  Lock lock(state().mutex);
  names.clear();
  for (const auto& [name, _] : state().stats.kernels) names += name + "\n";
  return names.c_str();
}

// Launches, blocks, instructions of warps, of threads.
void stand_in_counts(uint64_t* counts) {
  Lock lock(state().mutex);
  const ptx::Stats& s = state().stats;
  const uint64_t found[] = {s.launches, s.blocks, s.warp_instructions, s.lane_instructions};
  std::memcpy(counts, found, sizeof found);
}

#pragma GCC visibility pop
}
