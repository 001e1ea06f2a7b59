// What the roles of a block of wgmma_tile.h have in common: their place in a ring, and how stages are given back.
#pragma once
#include "common/primitives.h"

namespace pcn::conv {

// A role's place in a ring of stages, or of buffers. Who fills a stage waits for the parity before, which a fresh barrier counts as
// passed.
template <int STAGES>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance(int steps = 1) {
    if ((stage += steps) == STAGES) stage = 0, parity ^= 1;
  }
};

// A consumer's number; the compiler knows that it is the warp's.
template <class T>
__device__ __forceinline__ int own_warpgroup() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / T::WARPGROUP, 0);
}

// A warp gives back a stage that it has multiplied.
__device__ __forceinline__ void release(uint64_t* empty) {
  if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
}

// A descriptor so much further on: an address stays within its low word.
__device__ __forceinline__ uint64_t further(uint64_t descriptor, uint32_t by) {
  return (descriptor & 0xffffffff00000000u) | (static_cast<uint32_t>(descriptor) + by);
}

}  // namespace pcn::conv
