// access.h: where the lanes of an access find their bytes
#pragma once
#include "lanes.h"

namespace ptx {

// Of each lane: its bytes, and their shadow, in memory of the host.
struct Places {
  alignas(64) uint64_t at[LANES];  // addresses in their space; idle lanes have an active one's
  bool has_shadow = false;
  bool mixed = false;  // lanes in several allocations or spaces, or in local memory: `one` says where each is
  bool global = false;                  // some lane's bytes are in global memory
  uint64_t to_data = 0, to_shadow = 0;  // from addresses, where not mixed
  struct One {
    uint8_t* data;
    uint8_t* shadow;  // null: all is written
  } one[LANES];
  uint8_t* data(int i) const { return mixed ? one[i].data : reinterpret_cast<uint8_t*>(at[i] + to_data); }
  uint8_t* shadow(int i) const {
    return mixed ? one[i].shadow : has_shadow ? reinterpret_cast<uint8_t*>(at[i] + to_shadow) : nullptr;
  }
};

// Checks the addresses in in.a + in.imm: defined, aligned to `bytes`, within one allocation each, writable.
void place(Warp& w, const Instr& in, Space space, size_t bytes, bool write, Places& places);
// The same for addresses already in places.at; an instruction of two accesses names them by `slot`.
void place_at(Warp& w, const Instr& in, Space space, size_t bytes, size_t align, bool write, Places& places,
              size_t slot = 0);
void load_addresses(Warp& w, Operand address, bool wide, int64_t offset, uint64_t* at);

// One range of bytes of a lane's; throws as place() does.
struct Range {
  uint8_t* data;
  uint8_t* shadow;  // null: all written
};
Range range_of(Warp& w, int lane, Space space, uint64_t address, size_t bytes, size_t align, bool write);

// Whether all bytes were written.
inline bool all_written(const uint8_t* shadow, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (!is_written(shadow[i])) return false;
  }
  return true;
}

// Takes the modifiers that choose a state space, and those that only advise caches or order accesses.
Space take_space(Form& form);
void take_cache_hints(Form& form);

}  // namespace ptx
