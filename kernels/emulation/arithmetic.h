// arithmetic.h: CUDA's scalar device functions for g++
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// ---- bits ---------------------------------------------------------------------------------------
namespace pcn {
namespace emulation {
template <class D, class S>
inline D bit_cast(S s) {
  static_assert(sizeof(D) == sizeof(S), "sizes differ");
  D d;
  std::memcpy(static_cast<void*>(&d), &s, sizeof d);
  return d;
}
// Keeps g++ from contracting a*b+c over a function that CUDA promises to round on its own.
inline float rounded(float x) {
#if defined(__x86_64__)
  asm("" : "+x"(x));
  return x;
#else
  volatile float y = x;
  return y;
#endif
}
inline double rounded(double x) {
#if defined(__x86_64__)
  asm("" : "+x"(x));
  return x;
#else
  volatile double y = x;
  return y;
#endif
}
}  // namespace emulation
}  // namespace pcn

inline int __float_as_int(float f) { return pcn::emulation::bit_cast<int>(f); }
inline unsigned __float_as_uint(float f) { return pcn::emulation::bit_cast<unsigned>(f); }
inline float __int_as_float(int i) { return pcn::emulation::bit_cast<float>(i); }
inline float __uint_as_float(unsigned i) { return pcn::emulation::bit_cast<float>(i); }
inline long long __double_as_longlong(double d) { return pcn::emulation::bit_cast<long long>(d); }
inline double __longlong_as_double(long long i) { return pcn::emulation::bit_cast<double>(i); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
  return static_cast<unsigned>(((static_cast<uint64_t>(hi) << 32 | lo) << (n & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
  return static_cast<unsigned>((static_cast<uint64_t>(hi) << 32 | lo) >> (n & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i)
    r |= static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return r;
}

// ---- rounded arithmetic -------------------------------------------------------------------------
inline float __fadd_rn(float a, float b) { return pcn::emulation::rounded(a + b); }
inline float __fsub_rn(float a, float b) { return pcn::emulation::rounded(a - b); }
inline float __fmul_rn(float a, float b) { return pcn::emulation::rounded(a * b); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return pcn::emulation::rounded(a + b); }
inline double __dmul_rn(double a, double b) { return pcn::emulation::rounded(a * b); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

// ---- fast approximations: exact here, so comparisons with the device need a tolerance -----------
inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return std::pow(10.0f, x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __log10f(float x) { return std::log10(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }

// ---- conversions --------------------------------------------------------------------------------
// The device saturates where a C++ conversion would be undefined, and turns NaN into 0 (int) on the way.
namespace pcn {
namespace emulation {
template <class I>
inline I saturated(double x) {
  if (std::isnan(x)) return 0;
  const double lo = static_cast<double>(std::is_signed<I>::value ? -2147483648.0 : 0.0);
  const double hi = static_cast<double>(std::is_signed<I>::value ? 2147483647.0 : 4294967295.0);
  return static_cast<I>(x < lo ? lo : x > hi ? hi : x);
}
}  // namespace emulation
}  // namespace pcn
inline int __float2int_rn(float x) { return pcn::emulation::saturated<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return pcn::emulation::saturated<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return pcn::emulation::saturated<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return pcn::emulation::saturated<int>(std::ceil(x)); }
inline unsigned __float2uint_rn(float x) { return pcn::emulation::saturated<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return pcn::emulation::saturated<unsigned>(std::trunc(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

// ---- min and max, as the device declares them: mixed integer types, and floats where a NaN loses
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  typedef std::common_type_t<A, B> T;
  if constexpr (std::is_floating_point<T>::value) {
    return a != a                                  ? static_cast<T>(b)
           : static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b)
                                                   : static_cast<T>(a);
  } else {
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
  }
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  typedef std::common_type_t<A, B> T;
  if constexpr (std::is_floating_point<T>::value) {
    return a != a                                  ? static_cast<T>(b)
           : static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b)
                                                   : static_cast<T>(a);
  } else {
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
  }
}
