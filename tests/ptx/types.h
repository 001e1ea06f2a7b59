// types.h: from the name of a type to the type
#pragma once
#include <cstdint>
#include <string>

namespace ptx {

// Calls f with a value of the integer type of that name (bit types are unsigned); whether it is one.
template <class F>
bool with_integer(const std::string& name, F f) {
  if (name == "s16") return f(int16_t{}), true;
  if (name == "u16" || name == "b16") return f(uint16_t{}), true;
  if (name == "s32") return f(int32_t{}), true;
  if (name == "u32" || name == "b32") return f(uint32_t{}), true;
  if (name == "s64") return f(int64_t{}), true;
  if (name == "u64" || name == "b64") return f(uint64_t{}), true;
  return false;
}
template <class F>
bool with_signed(const std::string& name, F f) {
  if (name == "s16") return f(int16_t{}), true;
  if (name == "s32") return f(int32_t{}), true;
  if (name == "s64") return f(int64_t{}), true;
  return false;
}
template <class F>
bool with_bits(const std::string& name, F f) {
  if (name == "b16") return f(uint16_t{}), true;
  if (name == "b32") return f(uint32_t{}), true;
  if (name == "b64") return f(uint64_t{}), true;
  return false;
}

}  // namespace ptx
