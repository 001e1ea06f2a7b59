// racecheck.h: the race detector of the race flavour
//
// Kernels are compiled with -fsanitize=thread, which makes the compiler call a function before each access;
// linked without libtsan, those functions are racecheck.cpp's. It keeps who last wrote and read each word of
// shared memory and of the registered global ranges, and what each thread knows of the others' progress
// (vector clocks).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#pragma GCC visibility push(hidden)
namespace pcn {
namespace emulation {
namespace racecheck {

void register_range(const void* p, size_t bytes, bool writable);
void unregister_range(const void* p);

void launch_begin(const void* closure, size_t closure_bytes);
std::string launch_end();  // the races found; empty if none
void block_begin(char* window, size_t window_bytes, size_t dynamic_offset, size_t dynamic_bytes,
                 unsigned threads, uint64_t block);
void fresh(char* p, size_t bytes);               // newly allocated shared memory: nobody wrote it
void read_in_vain(const void* p, size_t bytes);  // of it what may be read all the same

// An access by the running thread, or by the copy engine between agent_begin and agent_end.
void access(const void* p, size_t bytes, bool write);
// The same for instrumented code, which says where it is.
void touch(const void* p, size_t bytes, bool write, const void* return_address, bool atomic);
void touch_atomic(const void* p, size_t bytes, bool write, const void* return_address);
extern bool async_read;  // the access is by the async proxy: generic writes before it need fence.proxy.async

// Synchronisation. Full barriers make everything before known to everybody; the others go by what each one
// knows.
void full_barrier();
void named_barrier_arrive(int id, unsigned thread, bool waits);
void named_barrier_complete(int id);
void warp_sync(unsigned warp, unsigned mask);
void release(const void* object, unsigned thread);
void acquire(const void* object, unsigned thread);
void release_to_agent(unsigned thread);
void agent_begin();
void agent_end(const void* barrier);
void fence(unsigned thread);        // __threadfence
void proxy_fence(unsigned thread);  // fence.proxy.async

}  // namespace racecheck
}  // namespace emulation
}  // namespace pcn
#pragma GCC visibility pop
