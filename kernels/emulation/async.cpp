// async.cpp: cp.async and mbarrier
//
// In the late mode the destination of a copy is poison until the copy is waited for.
#include "emulation/executor.h"

#include <algorithm>
#include <cstring>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace pcn {
namespace emulation {

// ---- accesses made for the running thread -------------------------------------------------------
void note_read(const void* p, size_t bytes) {
  PCN_RACE(access(p, bytes, false));
#ifdef __SANITIZE_ADDRESS__
  if (void* bad = __asan_region_is_poisoned(const_cast<void*>(p), bytes)) {
    fail("an emulated instruction reads out of bounds at %p", bad);
  }
#endif
  (void)p;
  (void)bytes;
}
void note_write(void* p, size_t bytes) {
  PCN_RACE(access(p, bytes, true));
#ifdef __SANITIZE_ADDRESS__
  if (void* bad = __asan_region_is_poisoned(p, bytes)) {
    fail("an emulated instruction writes out of bounds at %p", bad);
  }
#endif
  (void)p;
  (void)bytes;
}
void note_read_async(const void* p, size_t bytes) {
  PCN_RACE(async_read = true);
  note_read(p, bytes);
  PCN_RACE(async_read = false);
}

void read_in_vain([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
  PCN_RACE(read_in_vain(p, bytes));
}

// ---- cp.async -----------------------------------------------------------------------------------
static void make_copy(const PendingCopy& c) {
  if (c.source_bytes) note_read(c.source, static_cast<size_t>(c.source_bytes));
  note_write(c.target, static_cast<size_t>(c.bytes));
  memcpy(c.target, c.source, static_cast<size_t>(c.source_bytes));
  memset(c.target + c.source_bytes, 0, static_cast<size_t>(c.bytes - c.source_bytes));
}

void cp_async(void* shared, const void* global, int bytes, int source_bytes) {
  if ((bytes != 4 && bytes != 8 && bytes != 16) || source_bytes < 0 || source_bytes > bytes) {
    fail("cp.async of %d bytes with %d from global memory", bytes, source_bytes);
  }
  const uintptr_t size = static_cast<uintptr_t>(bytes);
  if (reinterpret_cast<uintptr_t>(shared) % size ||
      (source_bytes && reinterpret_cast<uintptr_t>(global) % size)) {
    fail("misaligned cp.async of %d bytes: shared %p, global %p", bytes, shared, global);
  }
  shared_pointer(shared_address(shared), size);
  PCN_COUNTS(access(shared, size, counts::kStore, __builtin_return_address(0)));
  if (source_bytes) {
    PCN_COUNTS(access(global, static_cast<size_t>(source_bytes), counts::kLoad, __builtin_return_address(0)));
  }
  const PendingCopy copy{static_cast<char*>(shared), static_cast<const char*>(global), bytes, source_bytes};
  const Async async = worker->grid->config.async;
  if (async == Async::eager || (async == Async::rand && (worker->random() & 1))) return make_copy(copy);
  note_write(shared, size);
  memset(shared, 0xFF, size);  // undefined until waited for
  worker->current->copies.push_back(copy);
}

void cp_async_commit() {
  maybe_preempt();
  worker->current->groups.push_back(static_cast<int>(worker->current->copies.size()));
}

void cp_async_wait(int newest) {
  Fiber& f = *worker->current;
  const int complete = static_cast<int>(f.groups.size()) - newest;
  if (complete <= 0) return;
  const int upto = f.groups[static_cast<size_t>(complete - 1)];
  for (int i = 0; i < upto; ++i) make_copy(f.copies[static_cast<size_t>(i)]);
  f.copies.erase(f.copies.begin(), f.copies.begin() + upto);
  f.groups.erase(f.groups.begin(), f.groups.begin() + complete);
  for (int& end : f.groups) end -= upto;
}

// ---- mbarrier -----------------------------------------------------------------------------------
// The 64-bit object in shared memory holds the state, as on the device (though not in the device's format).
namespace {

struct State {
  uint64_t phase : 1, expected : 20, pending : 20;
  int64_t bytes : 23;
};

State load(uint64_t* barrier) {
  shared_address(barrier);
  if (reinterpret_cast<uintptr_t>(barrier) % 8)
    fail("misaligned mbarrier at %p", static_cast<void*>(barrier));
  const auto& known = worker->mbarriers;
  if (std::find(known.begin(), known.end(), barrier) == known.end()) {
    fail("mbarrier at %p used before mbarrier.init", static_cast<void*>(barrier));
  }
  State s;
  memcpy(&s, barrier, sizeof s);
  return s;
}

void store(uint64_t* barrier, State s) {
  const bool complete = s.pending == 0 && s.bytes == 0;
  if (complete) {
    s.phase ^= 1;
    s.pending = s.expected;
  }
  memcpy(barrier, &s, sizeof s);
  if (!complete) return;
  std::vector<Fiber*> released;
  auto& waiters = worker->mbarrier_waiters;
  for (size_t i = 0; i < waiters.size();) {
    if (waiters[i]->mbarrier == barrier && waiters[i]->parity != s.phase) {
      released.push_back(waiters[i]);
      waiters.erase(waiters.begin() + static_cast<ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  make_all_ready(released);
}

}  // namespace

void mbarrier_init(uint64_t* barrier, unsigned count) {
  shared_pointer(shared_address(barrier), sizeof *barrier);
  if (reinterpret_cast<uintptr_t>(barrier) % 8)
    fail("misaligned mbarrier at %p", static_cast<void*>(barrier));
  if (count == 0 || count >= 1u << 20) fail("mbarrier count %u: must be 1 to 2^20-1", count);
  State s{0, count, count, 0};
  memcpy(barrier, &s, sizeof s);
  auto& known = worker->mbarriers;
  if (std::find(known.begin(), known.end(), barrier) == known.end()) known.push_back(barrier);
}

void mbarrier_invalidate(uint64_t* barrier) {
  load(barrier);
  auto& known = worker->mbarriers;
  known.erase(std::find(known.begin(), known.end(), barrier));
}

void mbarrier_arrive(uint64_t* barrier, int expected_bytes) {
  PCN_RACE(release(barrier, context->index));
  State s = load(barrier);
  if (s.pending == 0)
    fail("mbarrier at %p: more arrivals than its count of %u", static_cast<void*>(barrier),
         static_cast<unsigned>(s.expected));
  if (expected_bytes < 0 || s.bytes + expected_bytes >= 1 << 20) {
    fail("mbarrier at %p: expects %d bytes, %lld in all; the transaction count ends at 2^20-1",
         static_cast<void*>(barrier), expected_bytes, static_cast<long long>(s.bytes) + expected_bytes);
  }
  s.bytes += expected_bytes;
  s.pending -= 1;
  store(barrier, s);
  maybe_preempt();
}

void mbarrier_complete_bytes(uint64_t* barrier, int bytes) {
  State s = load(barrier);
  s.bytes -= bytes;
  store(barrier, s);
}

void mbarrier_wait(uint64_t* barrier, unsigned parity, const char* file, int line) {
  if (load(barrier).phase == (parity & 1)) {
    Fiber* f = worker->current;
    f->mbarrier = barrier;
    f->parity = parity & 1;
    worker->mbarrier_waiters.push_back(f);
    wait_here("mbarrier", file, line);
  }
  PCN_RACE(acquire(barrier, context->index));
}

}  // namespace emulation
}  // namespace pcn
