// shared_window.cpp: a block's shared memory
//
// One window per worker: redzone, dynamic part, and then the static objects, each followed by a redzone.
// Fresh memory is 0xFF bytes (a NaN). Redzones are poisoned under ASan; everywhere a pattern shows at the end
// of the block whether somebody wrote there.
#include "emulation/executor.h"

#include <sys/mman.h>

#include <cstring>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace pcn {
namespace emulation {
namespace {

constexpr unsigned FRONT =
    1024;  // distance of the dynamic part from the window's start, before it is staggered
constexpr unsigned SLACK = 64 << 10;

void poison([[maybe_unused]] char* p, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(p, bytes);
#endif
}
void unpoison([[maybe_unused]] char* p, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(p, bytes);
#endif
}
void make_redzone(char* p) {
  unpoison(p, REDZONE);
  memset(p, REDZONE_BYTE, REDZONE);
  poison(p, REDZONE);
}
[[maybe_unused]] bool intact(const char* p) {
  for (unsigned i = 0; i < REDZONE; ++i) {
    if (static_cast<unsigned char>(p[i]) != REDZONE_BYTE) return false;
  }
  return true;
}

}  // namespace

void open_shared_window() {
  Worker& w = *worker;
  if (!w.window) {
    w.window_bytes = SHARED_LIMIT + SLACK;
    void* p = mmap(nullptr, w.window_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) fail("out of memory for the shared window");
    w.window = static_cast<char*>(p);
  }
  w.statics.clear();
  // Only 16-byte aligned, so that a kernel that needs more must align it itself; `fwd` is the friendly case.
  const size_t bytes = (w.grid->dynamic_bytes + 15) & ~size_t(15);
  w.dynamic_offset = FRONT;
  if (w.grid->config.order != Order::fwd) w.dynamic_offset += 16 * static_cast<unsigned>(w.random() % 64);
  w.used = w.dynamic_offset + static_cast<unsigned>(bytes);
  poison(w.window, w.window_bytes);
  unpoison(w.window + w.dynamic_offset, w.grid->dynamic_bytes);
  memset(w.window + w.dynamic_offset, 0xFF, w.grid->dynamic_bytes);
  make_redzone(w.window + w.dynamic_offset - REDZONE);
  make_redzone(w.window + w.used);
}

void check_redzones() {
#ifndef __SANITIZE_ADDRESS__  // there the write itself was reported
  Worker& w = *worker;
  if (!intact(w.window + w.dynamic_offset - REDZONE))
    fail("a write out of bounds before the dynamic shared memory");
  const unsigned end = w.dynamic_offset + ((static_cast<unsigned>(w.grid->dynamic_bytes) + 15) & ~15u);
  if (!intact(w.window + end)) {
    fail("a write out of bounds behind the dynamic shared memory (%zu bytes) or before a static object",
         w.grid->dynamic_bytes);
  }
  for (const StaticObject& s : w.statics) {
    if (!intact(s.p + s.bytes))
      fail("a write out of bounds behind a static shared object of %zu bytes", s.bytes);
    if (!intact(s.p - REDZONE))
      fail("a write out of bounds before a static shared object of %zu bytes", s.bytes);
  }
#endif
}

void* dynamic_shared_window() {
  Worker& w = *worker;
  return w.window + w.dynamic_offset;
}

void* static_shared(const void* tag, size_t bytes, size_t align) {
  Worker& w = *worker;
  size_t fixed = bytes;
  for (const StaticObject& s : w.statics) {
    if (s.tag == tag) return s.p;
    fixed += s.bytes;
  }
  const size_t dynamic = w.grid->dynamic_bytes, total = fixed + dynamic;
  if (fixed > kSharedUnasked)
    fail("%zu bytes of static shared memory; the limit is %zu", fixed, kSharedUnasked);
  if (total > SHARED_LIMIT)
    fail("%zu bytes of shared memory, static and dynamic together; the limit is %u", total, SHARED_LIMIT);
  if (total > kSharedUnasked && !w.grid->asks(fixed, dynamic)) {
    fail("%zu bytes of shared memory, %zu static and %zu dynamic: more than %zu must be asked for", total,
         fixed, dynamic, kSharedUnasked);
  }
  // Alignment is that of the address, as the window itself is page-aligned.
  size_t offset = w.used + 2 * REDZONE;
  offset = (offset + align - 1) / align * align;
  if (offset + bytes + REDZONE > w.window_bytes) fail("shared memory exhausted by alignment");
  char* p = w.window + offset;
  make_redzone(p - REDZONE);
  unpoison(p, bytes);
  memset(p, 0xFF, bytes);
  make_redzone(p + bytes);
  w.used = static_cast<unsigned>(offset + bytes + 15) & ~15u;
  w.statics.push_back({tag, p, bytes});
  PCN_RACE(fresh(p, bytes));
  return p;
}

uint32_t shared_address(const void* p) {
  Worker& w = *worker;
  const char* c = static_cast<const char*>(p);
  if (c < w.window || c > w.window + w.used) {
    fail(
        "address %p is not in shared memory (operands of cp.async, ldmatrix, TMA, wgmma and mbarriers must "
        "be)",
        p);
  }
  return static_cast<uint32_t>(c - w.window);
}

void* shared_pointer(uint32_t address, size_t bytes) {
  Worker& w = *worker;
  if (address < w.dynamic_offset || address + bytes > w.used) {
    fail("shared access of %zu bytes at window offset %u is out of bounds [%u, %u)", bytes, address,
         w.dynamic_offset, w.used);
  }
  return w.window + address;
}

}  // namespace emulation
}  // namespace pcn
