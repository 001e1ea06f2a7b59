// bulk.h: mbarriers, and the bulk copies that arrive at them
#pragma once
#include <deque>
#include <functional>
#include <map>

#include "machine.h"

namespace ptx {

struct Mbarrier {
  uint32_t count = 0;              // arrivals a phase
  int64_t pending = 0, bytes = 0;  // arrivals and bytes that the present phase still waits for
  uint64_t phase = 0;
  bool visible = false;  // to the asynchronous proxy, since its initialisation
};

// A row of a box: where it begins in shared memory, before swizzling, and in global memory.
struct BoxRow {
  uint64_t shared = 0;
  size_t bytes = 0;             // of the box
  size_t skip = 0, copied = 0;  // of them outside the tensor before, and inside
  uint8_t* global = nullptr;
  uint8_t* shadow = nullptr;  // of global memory; null: all written
};
struct Box {
  std::vector<BoxRow> rows;
  uint64_t bytes = 0;
  int swizzle = 0, element_bytes = 4;
  bool to_tf32 = false, nan_fill = false;
  uint64_t barrier = 0;
};

// A thread's bulk stores, group by group, and how many groups' sources have been read.
struct StoreGroups {
  std::vector<Box> open;
  std::deque<std::vector<Box>> closed;
};

struct AsyncState {
  std::map<uint64_t, Mbarrier> mbarriers;  // by shared address
  std::deque<Box> loads;
  std::map<int, StoreGroups> stores;  // by thread
  void reset() { mbarriers.clear(), loads.clear(), stores.clear(); }
  bool land(Block& block);  // the oldest load; false: there is none
};

// The address at which a byte of a swizzled row lies: chunks of 16 bytes change places within 128, 64 or 32.
inline uint64_t swizzled(uint64_t address, int mode) {
  const uint64_t bits = (uint64_t{1} << mode) - 1;
  return address ^ ((address >> 7 & bits) << 4);
}

// Counts what arrives at an mbarrier, and turns to its next phase when all has.
void arrive(Block& block, Mbarrier& barrier, int64_t arrivals, int64_t bytes);

}  // namespace ptx
