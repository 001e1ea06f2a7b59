// access_counts.h: the memory accesses of a warp, as the hardware would serve them (flavour `count`)
//
// Kernels are compiled so that the compiler calls a function before each access (as for the race detector),
// at the start of each basic block, and at the start and end of each function. Each thread's calls are kept
// as a trace; at points that all lanes of a warp have reached, the 32 traces are replayed side by side like
// the instructions of a warp, and the lanes that make one access together are looked at together.
#pragma once
#include <cstddef>
#include <cstdint>

#pragma GCC visibility push(hidden)
namespace pcn {
namespace emulation {
namespace counts {

enum Kind : uint8_t { kBlock, kStore, kLoad, kAtomic };  // cp.async: its store, then its load

void launch_begin(const void* kernel, const char* stem);
void launch_end();
void block_begin(char* window, size_t window_bytes, unsigned threads);
void block_end();

// All live lanes of a warp, or of all warps, are at the same place.
void warp_point(unsigned warp);
void block_point();

// Of the running thread.
void access(const void* p, size_t bytes, Kind kind, const void* return_address);
void basic_block(const void* return_address);
void enter_function(const void* return_address);
void leave_function();

void register_range(const void* p, size_t bytes);
void unregister_range(const void* p);
bool enabled();
uint64_t block_limit();  // of a launch; the blocks that run are spread over the grid

}  // namespace counts
}  // namespace emulation
}  // namespace pcn
#pragma GCC visibility pop
