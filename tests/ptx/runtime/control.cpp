// control.cpp: what tests ask of the stand-in beyond CUDA's interface
#include <cstdlib>
#include <cstring>

#include "state.h"

using stand_in::state;
typedef std::lock_guard<std::recursive_mutex> Lock;

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

// Kernels that ran (different ones), launches, blocks, instructions of warps, of threads.
void stand_in_counts(uint64_t* counts) {
  Lock lock(state().mutex);
  const ptx::Stats& s = state().stats;
  const uint64_t found[] = {s.kernels.size(), s.launches, s.blocks, s.warp_instructions, s.lane_instructions};
  std::memcpy(counts, found, sizeof found);
}

#pragma GCC visibility pop
}
