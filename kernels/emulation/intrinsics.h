// intrinsics.h: CUDA's device functions for g++: barriers, warp collectives, atomics, loads, arithmetic
//
// A warp collective is done by the last lane that arrives, for all of them (warp_collective). Where a result
// depends on a lane outside the mask, that lane's part is poison (0xFF bytes: NaN), as on the device it would
// be undefined.
#pragma once
#include "emulation/executor_api.h"

// ---- barriers -----------------------------------------------------------------------------------
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  pcn::emulation::barrier_sync(0, 0, false, file, line);
}
inline int __syncthreads_count(int p, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return pcn::emulation::barrier_sync(0, 0, p != 0, file, line);
}
inline int __syncthreads_or(int p, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return pcn::emulation::barrier_sync(0, 0, p != 0, file, line) != 0;
}
inline int __syncthreads_and(int p, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return pcn::emulation::barrier_sync(0, 0, p == 0, file, line) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  pcn::emulation::syncwarp(mask, file, line);
}
inline void __threadfence() { pcn::emulation::thread_fence(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { pcn::emulation::yield(); }
[[noreturn]] inline void __trap() { pcn::emulation::fail("__trap"); }

// ---- warp collectives ---------------------------------------------------------------------------
namespace pcn {
namespace emulation {

template <class T>
struct ShuffleArg {
  T value, result;
  int source;
};
template <class T>
void shuffle_lanes(void* const* args, unsigned mask) PCN_NO_RACECHECK;
template <class T>
void shuffle_lanes(void* const* args, unsigned mask) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    auto* me = static_cast<ShuffleArg<T>*>(args[lane]);
    if (mask >> me->source & 1) {
      me->result = static_cast<ShuffleArg<T>*>(args[me->source])->value;
    } else {
      std::memset(static_cast<void*>(&me->result), 0xFF, sizeof(T));
    }
  }
}
template <class T>
inline T shuffle(unsigned mask, T value, int source, const char* name) {
  ShuffleArg<T> arg{value, value, source & 31};
  warp_collective(mask, &arg, shuffle_lanes<T>, reinterpret_cast<const void*>(&shuffle_lanes<T>), name);
  return arg.result;
}
inline int own_lane() { return static_cast<int>(context->lane); }

template <class T, class Op>
struct ReduceArg {
  T value;
};
template <class T, class Op>
void reduce_lanes(void* const* args, unsigned mask) PCN_NO_RACECHECK;
template <class T, class Op>
void reduce_lanes(void* const* args, unsigned mask) {
  T result{};
  bool first = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const T value = static_cast<ReduceArg<T, Op>*>(args[lane])->value;
    result = first ? value : Op::apply(result, value, lane);
    if (first) result = Op::first(value, lane);
    first = false;
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) static_cast<ReduceArg<T, Op>*>(args[lane])->value = result;
  }
}
template <class Op, class T>
inline T reduce(unsigned mask, T value, const char* name) {
  ReduceArg<T, Op> arg{value};
  warp_collective(mask, &arg, reduce_lanes<T, Op>, reinterpret_cast<const void*>(&reduce_lanes<T, Op>), name);
  return arg.value;
}
#define PCN_REDUCE_OP(NAME, FIRST, NEXT)                       \
  struct NAME {                                                \
    template <class T>                                         \
    static T first(T b, [[maybe_unused]] unsigned lane) {      \
      return FIRST;                                            \
    }                                                          \
    template <class T>                                         \
    static T apply(T a, T b, [[maybe_unused]] unsigned lane) { \
      return NEXT;                                             \
    }                                                          \
  };
PCN_REDUCE_OP(OpBallot, b ? 1u << lane : 0u, a | (b ? 1u << lane : 0u))
PCN_REDUCE_OP(OpAdd, b, a + b)
PCN_REDUCE_OP(OpMin, b, a < b ? a : b)
PCN_REDUCE_OP(OpMax, b, a > b ? a : b)
PCN_REDUCE_OP(OpAnd, b, a& b)
PCN_REDUCE_OP(OpOr, b, a | b)
PCN_REDUCE_OP(OpXor, b, a ^ b)
#undef PCN_REDUCE_OP

}  // namespace emulation
}  // namespace pcn

template <class T>
inline T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  const int lane = pcn::emulation::own_lane();
  return pcn::emulation::shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)), "__shfl_sync");
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const int lane = pcn::emulation::own_lane(), source = lane - static_cast<int>(delta);
  return pcn::emulation::shuffle(mask, v, source < (lane & ~(width - 1)) ? lane : source, "__shfl_up_sync");
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const int lane = pcn::emulation::own_lane(), source = lane + static_cast<int>(delta);
  return pcn::emulation::shuffle(mask, v, source > (lane | (width - 1)) ? lane : source, "__shfl_down_sync");
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  const int lane = pcn::emulation::own_lane(), source = lane ^ bits;
  return pcn::emulation::shuffle(mask, v, source > (lane | (width - 1)) ? lane : source, "__shfl_xor_sync");
}
inline unsigned __ballot_sync(unsigned mask, int p) {
  return pcn::emulation::reduce<pcn::emulation::OpBallot>(mask, p ? 1u : 0u, "__ballot_sync");
}
inline int __any_sync(unsigned mask, int p) {
  return pcn::emulation::reduce<pcn::emulation::OpOr>(mask, p ? 1 : 0, "__any_sync");
}
inline int __all_sync(unsigned mask, int p) {
  return pcn::emulation::reduce<pcn::emulation::OpAnd>(mask, p ? 1 : 0, "__all_sync");
}
#define PCN_REDUCE(NAME, OP, T) \
  inline T NAME(unsigned mask, T v) { return pcn::emulation::reduce<pcn::emulation::OP>(mask, v, #NAME); }
PCN_REDUCE(__reduce_add_sync, OpAdd, unsigned)
PCN_REDUCE(__reduce_add_sync, OpAdd, int)
PCN_REDUCE(__reduce_min_sync, OpMin, unsigned)
PCN_REDUCE(__reduce_min_sync, OpMin, int)
PCN_REDUCE(__reduce_max_sync, OpMax, unsigned)
PCN_REDUCE(__reduce_max_sync, OpMax, int)
PCN_REDUCE(__reduce_and_sync, OpAnd, unsigned)
PCN_REDUCE(__reduce_or_sync, OpOr, unsigned)
PCN_REDUCE(__reduce_xor_sync, OpXor, unsigned)
#undef PCN_REDUCE

// ---- atomics (integers only: float atomics would make sums depend on the schedule) --------------
#define PCN_ATOMIC_INTEGER(T) \
  static_assert(std::is_integral<T>::value && sizeof(T) >= 4, "integer atomics only")
template <class T>
inline T atomicAdd(T* p, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicSub(T* p, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicOr(T* p, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicAnd(T* p, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  return __atomic_fetch_and(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicXor(T* p, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicExch(T* p, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
template <class T>
inline T atomicMax(T* p, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old < v && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <class T>
inline T atomicMin(T* p, std::common_type_t<T> v) {
  PCN_ATOMIC_INTEGER(T);
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old > v && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  unsigned old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, old >= limit ? 0 : old + 1, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return old;
}
#undef PCN_ATOMIC_INTEGER

// ---- loads and stores with a cache hint ---------------------------------------------------------
// The hardware faults on a misaligned vector load; x86 would not notice.
namespace pcn {
namespace emulation {
template <class T>
inline void check_aligned(const T* p, const char* name) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) {
    fail("misaligned %s of %zu bytes at %p", name, sizeof(T), static_cast<const void*>(p));
  }
}
}  // namespace emulation
}  // namespace pcn
#define PCN_LOAD(NAME)                       \
  template <class T>                         \
  inline T NAME(const T* p) {                \
    pcn::emulation::check_aligned(p, #NAME); \
    return *p;                               \
  }
PCN_LOAD(__ldg)
PCN_LOAD(__ldca)
PCN_LOAD(__ldcg)
PCN_LOAD(__ldcs)
PCN_LOAD(__ldlu)
PCN_LOAD(__ldcv)
#undef PCN_LOAD
#define PCN_STORE(NAME)                      \
  template <class T>                         \
  inline void NAME(T* p, T v) {              \
    pcn::emulation::check_aligned(p, #NAME); \
    *p = v;                                  \
  }
PCN_STORE(__stwb)
PCN_STORE(__stcg)
PCN_STORE(__stcs)
PCN_STORE(__stwt)
#undef PCN_STORE

#include "emulation/arithmetic.h"
