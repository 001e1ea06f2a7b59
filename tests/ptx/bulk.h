// bulk.h: mbarriers, and the bulk copies that arrive at them
#pragma once
#include <deque>
#include <functional>
#include <map>

#include "machine.h"

namespace ptx {

struct Mbarrier {
  uint32_t count = 0;             // arrivals a phase
  int64_t pending = 0, bytes = 0; // that the present phase still waits for
  uint64_t phase = 0;
};

// A bulk copy that has been issued: what it moves when it lands.
struct BulkCopy {
  uint64_t barrier = 0;  // shared address; 0: a store
  uint64_t bytes = 0;
  std::function<void()> land;
};

// A thread's bulk stores, group by group.
struct StoreGroups {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> closed;
};

struct AsyncState {
  std::map<uint64_t, Mbarrier> mbarriers;  // by shared address
  std::deque<BulkCopy> loads;
  std::map<int, StoreGroups> stores;  // by thread
  void reset() { mbarriers.clear(), loads.clear(), stores.clear(); }
  // Lands the oldest load; false: there is none.
  bool land(Block& block);
};

}  // namespace ptx
