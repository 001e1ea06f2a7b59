// numbers.h: floating-point numbers as PTX has them
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace ptx {

inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline uint64_t bits_of(double x) {
  uint64_t u;
  std::memcpy(&u, &x, 8);
  return u;
}
inline double double_of(uint64_t u) {
  double x;
  std::memcpy(&x, &u, 8);
  return x;
}

// .ftz: subnormal numbers become zeros of their sign.
inline float flushed(float x) {
  const uint32_t u = bits_of(x);
  return float_of(u & 0x7f800000 ? u : u & 0x80000000);
}
// A NaN that single-precision arithmetic makes is 0x7fffffff.
inline float canonical(float x) { return x != x ? float_of(0x7fffffff) : x; }
inline double canonical(double x) { return x; }
// .sat
template <class T>
inline T saturated(T x) {
  return x > T{0} ? (x < T{1} ? x : T{1}) : T{0};  // NaN too becomes 0
}

// Binary floating-point formats of at most 16 bits.
template <int EXPONENT, int MANTISSA>
struct Small {
  static constexpr int BIAS = (1 << (EXPONENT - 1)) - 1;
  static constexpr uint32_t MAX_EXPONENT = (1u << EXPONENT) - 1;

  static float widen(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h >> (EXPONENT + MANTISSA)) << 31;
    const uint32_t exponent = h >> MANTISSA & MAX_EXPONENT;
    const uint32_t mantissa = h & ((1u << MANTISSA) - 1);
    if (exponent == MAX_EXPONENT) return float_of(sign | 0x7f800000 | mantissa << (23 - MANTISSA));
    if (exponent == 0) {
      const float x = std::ldexp(static_cast<float>(mantissa), 1 - BIAS - MANTISSA);
      return float_of(sign | bits_of(x));
    }
    return float_of(sign | (exponent + 127 - BIAS) << 23 | mantissa << (23 - MANTISSA));
  }

  // Rounds to nearest even ('n'), toward zero ('z'), down ('m') or up ('p').
  static uint16_t narrow(double x, char mode) {
    const auto sign = static_cast<uint32_t>(std::signbit(x)) << (EXPONENT + MANTISSA);
    if (x != x) return static_cast<uint16_t>((1u << (EXPONENT + MANTISSA)) - 1);  // 0x7fff
    const double a = std::fabs(x);
    const bool up = (mode == 'p' && !sign) || (mode == 'm' && sign);
    const uint32_t infinity = MAX_EXPONENT << MANTISSA;
    if (a == 0) return static_cast<uint16_t>(sign);
    if (std::isinf(a)) return static_cast<uint16_t>(sign | infinity);
    int e;
    std::frexp(a, &e);  // a in [2^(e-1), 2^e)
    const int ulp = std::max(e - 1, 1 - BIAS) - MANTISSA;
    const double scaled = std::ldexp(a, -ulp);  // exact
    double whole = std::floor(scaled);
    const double rest = scaled - whole;
    if (mode == 'n' ? rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2) == 1) : up && rest > 0) whole += 1;
    const double rounded = std::ldexp(whole, ulp);
    const double largest = std::ldexp(2.0 - std::ldexp(1.0, -MANTISSA), BIAS);
    if (rounded > largest) return static_cast<uint16_t>(sign | (mode == 'n' || up ? infinity : infinity - 1));
    // The bits of whole * 2^ulp: a carry into the exponent comes out right.
    const auto w = static_cast<uint32_t>(whole);
    const int biased = ulp + MANTISSA + BIAS;  // at least 1
    const uint32_t u =
        w < (1u << MANTISSA) ? w : (static_cast<uint32_t>(biased) << MANTISSA) + (w - (1u << MANTISSA));
    return static_cast<uint16_t>(sign | u);
  }
};
using Half = Small<5, 10>;
using Bfloat16 = Small<8, 7>;

// A float32 rounded to bfloat16, to nearest even, as bits: what vectorises.
inline uint32_t bfloat16_rn(float x) {
  const uint32_t u = bits_of(x);
  return x != x ? 0x7fffu : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
// .rna.tf32: 10 bits of mantissa, ties away from zero; the low 13 bits are zero.
inline uint32_t tf32_rna(float x) {
  const uint32_t u = bits_of(x);
  const uint32_t magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fffffff;
  if (magnitude == 0x7f800000) return u;
  return (u + 0x1000) & 0xffffe000;
}

}  // namespace ptx
