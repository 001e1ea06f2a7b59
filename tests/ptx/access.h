// access.h: where the lanes of an access find their bytes
#pragma once
#include "lanes.h"

namespace ptx {

// Of each lane: its bytes, and their shadow, in memory of the host. Idle lanes have places of their own.
struct Places {
  alignas(64) uint64_t at[LANES];  // addresses in their space
  alignas(64) uint8_t* data[LANES];
  alignas(64) uint8_t* shadow[LANES];  // only where has_shadow; null for a lane without
  bool has_shadow = false;
  bool mixed = false;   // lanes in several allocations or spaces: some have no shadow
  bool global = false;  // some lane's bytes are in global memory
  alignas(64) uint8_t idle[64], idle_shadow[64];
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
