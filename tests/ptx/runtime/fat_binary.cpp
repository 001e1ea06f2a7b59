// fat_binary.cpp: the PTX inside what nvcc embeds in an object file
//
//   wrapper    magic 0x466243b1, version, pointer to the container, ...       (fatbinary_section.h)
//   container  magic 0xba55ed50, version 1, bytes of this header, bytes behind it
//   entry      kind (1: PTX, 2: machine code), version, bytes of this header, bytes behind it, ..., at 28 the
//              architecture, at 40 flags (0x100000: `a`, 0x200000: `f`), at 56 bytes when decompressed
// as tests/support/kernels/fatbin.py reads it from files; the layout is that of nvcc 13.0.
#include <cstring>

#include "state.h"

namespace stand_in {
namespace {

template <class T>
T read(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

struct Wrapper {
  int magic, version;
  const char* data;
  const void* more;
};

}  // namespace

std::string find_ptx(const void* wrapper, int capability, std::string* reason) {
  const auto* w = static_cast<const Wrapper*>(wrapper);
  if (w->magic != 0x466243b1) return *reason = "this is no fat binary", "";
  const char* container = w->data;
  if (read<uint32_t>(container) != 0xba55ed50 || read<uint16_t>(container + 4) != 1)
    return *reason = "the fat binary has another layout than nvcc 13.0's", "";
  const char* at = container + read<uint16_t>(container + 6);
  const char* const end = at + read<uint64_t>(container + 8);
  std::string found, held;
  int best = -1;
  while (at < end) {
    const auto kind = read<uint16_t>(at);
    const auto header = read<uint32_t>(at + 4), arch = read<uint32_t>(at + 28);
    const auto bytes = read<uint64_t>(at + 8), flags = read<uint64_t>(at + 40);
    const bool specific = flags & 0x300000;
    const int version = static_cast<int>(arch);
    held += (held.empty() ? "" : ", ") + std::string(kind == 1 ? "PTX" : "machine code") + " for " +
            std::to_string(version) + (specific ? "a" : "");
    const bool runs = specific ? version == capability : version <= capability;
    if (kind == 1 && runs && version >= best) {
      if (read<uint64_t>(at + 56) != 0)
        return *reason = "its PTX is compressed: build with PYCONVNET_COMPRESS=OFF", "";
      const char* text = at + header;
      found.assign(text, strnlen(text, bytes)), best = version;
    }
    at += header + bytes;
  }
  if (found.empty())
    *reason = "there is no PTX for a device of " + std::to_string(capability) + ": it holds " + held;
  return found;
}

}  // namespace stand_in
