// racecheck_hooks.cpp: the functions that the compiler's -fsanitize=thread instrumentation calls, in
// libtsan's place: for the race detector, or for access_counts.cpp
#if defined(PCN_RACECHECK) || defined(PCN_COUNT)
#include <cstdint>

#ifdef PCN_RACECHECK
#include "emulation/racecheck.h"

using pcn::emulation::racecheck::touch;
using pcn::emulation::racecheck::touch_atomic;
#else
#include "emulation/access_counts.h"

namespace counts = pcn::emulation::counts;

static void touch(const void* p, unsigned long bytes, bool write, const void* pc, bool) {
  counts::access(p, bytes, write ? counts::kStore : counts::kLoad, pc);
}
static void touch_atomic(const void* p, unsigned long bytes, bool, const void* pc) {
  counts::access(p, bytes, counts::kAtomic, pc);
}
#endif

#define PC __builtin_return_address(0)
#define PCN_ACCESS(NAME, BYTES)                                                    \
  void __tsan_read##NAME(void* p) { touch(p, BYTES, false, PC, false); }           \
  void __tsan_write##NAME(void* p) { touch(p, BYTES, true, PC, false); }           \
  void __tsan_unaligned_read##NAME(void* p) { touch(p, BYTES, false, PC, false); } \
  void __tsan_unaligned_write##NAME(void* p) { touch(p, BYTES, true, PC, false); } \
  void __tsan_volatile_read##NAME(void* p) { touch(p, BYTES, false, PC, false); }  \
  void __tsan_volatile_write##NAME(void* p) { touch(p, BYTES, true, PC, false); }
#define PCN_ATOMIC_RMW(BITS, T, NAME)                       \
  T __tsan_atomic##BITS##_##NAME(volatile T* p, T v, int) { \
    touch_atomic(const_cast<T*>(p), sizeof(T), true, PC);   \
    return __atomic_##NAME(p, v, __ATOMIC_SEQ_CST);         \
  }
#define PCN_ATOMIC(BITS, T)                                                                        \
  T __tsan_atomic##BITS##_load(const volatile T* p, int) {                                         \
    touch_atomic(const_cast<T*>(p), sizeof(T), false, PC);                                         \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  void __tsan_atomic##BITS##_store(volatile T* p, T v, int) {                                      \
    touch_atomic(const_cast<T*>(p), sizeof(T), true, PC);                                          \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                \
  T __tsan_atomic##BITS##_exchange(volatile T* p, T v, int) {                                      \
    touch_atomic(const_cast<T*>(p), sizeof(T), true, PC);                                          \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                \
  PCN_ATOMIC_RMW(BITS, T, fetch_add)                                                               \
  PCN_ATOMIC_RMW(BITS, T, fetch_sub)                                                               \
  PCN_ATOMIC_RMW(BITS, T, fetch_or)                                                                \
  PCN_ATOMIC_RMW(BITS, T, fetch_and)                                                               \
  PCN_ATOMIC_RMW(BITS, T, fetch_xor)                                                               \
  int __tsan_atomic##BITS##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {   \
    touch_atomic(const_cast<T*>(p), sizeof(T), true, PC);                                          \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                                \
  int __tsan_atomic##BITS##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {     \
    touch_atomic(const_cast<T*>(p), sizeof(T), true, PC);                                          \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }

#pragma GCC visibility push(hidden)
extern "C" {
void __tsan_init() {}
#ifdef PCN_COUNT
void __tsan_func_entry(void* caller) { counts::enter_function(caller); }
void __tsan_func_exit() { counts::leave_function(); }
void __sanitizer_cov_trace_pc() { counts::basic_block(PC); }
#else
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#endif
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, unsigned long bytes) { touch(p, bytes, false, PC, false); }
void __tsan_write_range(void* p, unsigned long bytes) { touch(p, bytes, true, PC, false); }
PCN_ACCESS(1, 1)
PCN_ACCESS(2, 2)
PCN_ACCESS(4, 4)
PCN_ACCESS(8, 8)
PCN_ACCESS(16, 16)
PCN_ATOMIC(8, uint8_t)
PCN_ATOMIC(16, uint16_t)
PCN_ATOMIC(32, uint32_t)
PCN_ATOMIC(64, uint64_t)
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}
}
#pragma GCC visibility pop
#endif
