// Vectors of the level being compiled, in GCC's and Clang's vector extension.
#pragma once

#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "host/host.h"

#if defined(__AVX512F__)
#define PCN_HOST_BYTES 64
#elif defined(__AVX2__)
#define PCN_HOST_BYTES 32
#else
#define PCN_HOST_BYTES 16
#endif
#define PCN_INLINE static inline __attribute__((always_inline))
#define PCN_ALL _Pragma("GCC unroll 16")

namespace pcn_host {
namespace {

constexpr long kLanes = PCN_HOST_BYTES / 4;

typedef float V __attribute__((vector_size(PCN_HOST_BYTES)));
typedef int VInt __attribute__((vector_size(PCN_HOST_BYTES)));
typedef float VAnywhere __attribute__((vector_size(PCN_HOST_BYTES), aligned(4), may_alias));
typedef unsigned char VByte __attribute__((vector_size(PCN_HOST_BYTES / 4)));
typedef unsigned char VByteAnywhere __attribute__((vector_size(PCN_HOST_BYTES / 4), aligned(1), may_alias));

PCN_INLINE V load(const float* at) { return *reinterpret_cast<const VAnywhere*>(at); }
PCN_INLINE void store(float* at, V value) { *reinterpret_cast<VAnywhere*>(at) = value; }
PCN_INLINE V every(float value) { return value - V{}; }  // -0 stays -0
PCN_INLINE VInt load_bytes(const unsigned char* at) {
#if defined(__AVX512F__)
  return reinterpret_cast<VInt>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
#elif defined(__AVX2__)
  return reinterpret_cast<VInt>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
#else  // which GCC 12 does byte by byte everywhere
  return __builtin_convertvector(*reinterpret_cast<const VByteAnywhere*>(at), VInt);
#endif
}
PCN_INLINE void store_bytes(unsigned char* at, VInt value) {
  *reinterpret_cast<VByteAnywhere*>(at) = __builtin_convertvector(value, VByte);
}

PCN_INLINE V relu(V value) { return value < V{} ? V{} : value; }  // NaN stays NaN
// 0 where mask <= 0, else the value: where the mask is NaN, too
PCN_INLINE V masked(V value, V mask) { return mask <= V{} ? V{} : value; }

PCN_INLINE long least(long a, long b) { return a < b ? a : b; }
PCN_INLINE long most(long a, long b) { return a > b ? a : b; }
PCN_INLINE long up(long a, long b) { return (a + b - 1) / b; }

// The taps [first, last) of a window at `corner` that lie in [0, extent).
struct Taps {
  long first, last;
};
PCN_INLINE Taps taps_inside(long corner, long taps, long extent) {
  const long first = most(0, -corner), last = least(taps, extent - corner);
  return last <= first ? Taps{0, 0} : Taps{first, last};
}

}  // namespace
}  // namespace pcn_host
