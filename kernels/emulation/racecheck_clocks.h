// racecheck_clocks.h: what happened before what, for racecheck.cpp
#pragma once
#include <cstdint>

#pragma GCC visibility push(hidden)
namespace pcn {
namespace emulation {
namespace racecheck {

typedef uint32_t Clock;

// Who accessed, when, from where. clock == 0: nobody yet.
struct Epoch {
  uint32_t block;
  Clock clock;
  uint32_t pc;  // relative to the module
  uint16_t thread;
  bool atomic;
};

void clocks_launch_begin();
void clocks_block_begin(unsigned threads, uint64_t index);

unsigned agent();   // the copy engine's number: one more than the last thread's
bool agent_acts();  // accesses are the copy engine's
Epoch epoch_of(unsigned actor, uint32_t pc, bool atomic);  // of an access made now
bool ordered(const Epoch& before, unsigned actor);  // whether `before` happened before an access made now
uint32_t proxy_fences_of(unsigned thread);
void atomic_on_global(const void* word, bool write, unsigned thread);

}  // namespace racecheck
}  // namespace emulation
}  // namespace pcn
#pragma GCC visibility pop
