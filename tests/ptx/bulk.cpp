// bulk.cpp: cp.async.bulk.tensor, tiled and im2col
//
// A load that is late lands when no warp of the block can go on; until then its bytes are undefined. A store
// that is late reads shared memory when its thread waits for the reading.
//
// Rows of a box lie one after the other in shared memory; where they are swizzled, the width of the swizzle
// apart (CUDA's programming guide: "if the swizzle width exceeds the inner dimension, ensure that the shared
// memory is allocated to accommodate the full swizzle width"), and chunks of 16 bytes trade places by bits 7
// to 9 of their addresses.
#include <cmath>

#include "access.h"
#include "bulk.h"

#include "numbers.h"

namespace ptx {
namespace {

constexpr size_t CHUNK = 16;

// The shared bytes of a row, chunk by chunk as they lie: f(address, offset in the row, bytes).
template <class F>
void chunks(const Box& box, const BoxRow& row, F f) {
  for (size_t at = 0; at < row.bytes; at += CHUNK) {
    f(swizzled(row.shared + at, box.swizzle), at, std::min(CHUNK, row.bytes - at));
  }
}
uint8_t* shared_data(Block& b, uint64_t address) { return b.shared_bytes.data() + (address - SHARED_BASE); }
uint8_t* shared_shadow(Block& b, uint64_t address) {
  return b.shared_shadow.data() + (address - SHARED_BASE);
}

void land_load(Block& block, const Box& box) {
  std::vector<uint8_t> bytes, shadow;
  for (const BoxRow& row : box.rows) {
    bytes.assign(row.bytes, 0);
    shadow.assign(row.bytes, WRITTEN);
    if (box.nan_fill) {
      for (size_t k = 0; k < row.bytes; k += static_cast<size_t>(box.element_bytes)) {
        const uint32_t nan = box.element_bytes == 4 ? 0x7fffffff : 0x7fff;
        std::memcpy(&bytes[k], &nan, static_cast<size_t>(box.element_bytes));
      }
    }
    if (row.copied) {
      std::memcpy(&bytes[row.skip], row.global, row.copied);
      for (size_t k = 0; row.shadow && k < row.copied; ++k) {
        if (!is_written(row.shadow[k])) shadow[row.skip + k] = UNDEFINED;
      }
    }
    if (box.to_tf32) {
      for (size_t k = 0; k + 4 <= row.bytes; k += 4) {
        float x;
        std::memcpy(&x, &bytes[k], 4);
        const uint32_t r = tf32_rna(x);
        std::memcpy(&bytes[k], &r, 4);
      }
    }
    chunks(box, row, [&](uint64_t address, size_t at, size_t n) {
      std::memcpy(shared_data(block, address), &bytes[at], n);
      std::memcpy(shared_shadow(block, address), &shadow[at], n);
    });
  }
  const auto b = block.async->mbarriers.find(box.barrier);
  if (b != block.async->mbarriers.end()) arrive(block, b->second, 0, static_cast<int64_t>(box.bytes));
  ++block.events;
}

void land_store(Warp& w, int lane, const Box& box) {
  for (const BoxRow& row : box.rows) {
    chunks(box, row, [&](uint64_t address, size_t at, size_t n) {
      for (size_t k = 0; k < n; ++k) {
        if (at + k < row.skip || at + k >= row.skip + row.copied) continue;
        const uint8_t state = *(shared_shadow(w.block, address) + k);
        if (state == UNFENCED)
          w.fault(lane, "a bulk store reads what was written without fence.proxy.async after it");
        if (state != WRITTEN) w.fault(lane, "a bulk store reads shared bytes that nothing has written");
        const size_t to = at + k - row.skip;
        row.global[to] = *(shared_data(w.block, address) + k);
        if (row.shadow) row.shadow[to] = WRITTEN;
      }
    });
  }
}

TensorMap map_of(Warp& w, int lane, uint64_t address) {
  const Range r = range_of(w, lane, Space::kGeneric, address, sizeof(TensorMap), 64, false);
  TensorMap map;
  std::memcpy(&map, r.data, sizeof map);
  if (map.magic != TensorMap::MAGIC) w.fault(lane, "there is no tensor map at this address");
  return map;
}

// What createpolicy makes; the ISA calls it opaque.
constexpr uint64_t POLICY = 0x504f'4c49'0000'0000;

void check_policy(Warp& w, int lane, Operand o) {
  if (!(defined<uint64_t>(w, o) & BIT[lane])) w.undefined("a cache policy", BIT[lane]);
  const uint64_t policy = row<uint64_t>(w, o)[lane];
  if (policy <= POLICY || policy > POLICY + 4) w.fault(lane, "a cache policy that createpolicy has not made");
}

// A row from `first` (coordinate of dimension 0) on; inside: its other coordinates are.
BoxRow row_of(Warp& w, int lane, const TensorMap& m, int64_t first, size_t elements, uint64_t offset,
              bool inside, bool write) {
  BoxRow row;
  const int64_t extent = int64_t{m.dim[0]} + 1, size = m.element_bytes;
  row.bytes = elements * m.element_bytes;
  const int64_t from = std::clamp<int64_t>(first, 0, extent),
                to = std::clamp<int64_t>(first + static_cast<int64_t>(elements), 0, extent);
  if (!inside || from >= to) return row;
  row.skip = static_cast<size_t>((from - first) * size);
  row.copied = static_cast<size_t>((to - from) * size);
  const Range r = range_of(w, lane, Space::kGlobal, m.base + offset + static_cast<uint64_t>(from * size),
                           row.copied, 1, write);
  row.global = r.data, row.shadow = r.shadow;
  return row;
}

void tiled_rows(Warp& w, int lane, const TensorMap& m, const int32_t* at, bool write, Box& box) {
  uint64_t rows = 1;
  for (int d = 1; d < m.rank; ++d) rows *= m.box[d];
  for (uint64_t r = 0; r < rows; ++r) {
    uint64_t rest = r, offset = 0;
    bool inside = true;
    for (int d = 1; d < m.rank; ++d) {
      const int64_t c = at[d] + static_cast<int64_t>(rest % m.box[d]);
      rest /= m.box[d];
      inside &= c >= 0 && c <= m.dim[d];
      offset += static_cast<uint64_t>(c) * m.stride[d];
    }
    box.rows.push_back(row_of(w, lane, m, at[0], m.box[0], offset, inside, write));
  }
}

// Pixels from {w, h, ...} on, inside the bounding box, which is left at its end for the next row and image.
void im2col_rows(Warp& w, int lane, const TensorMap& m, const int32_t* at, const int32_t* offsets, Box& box) {
  const int spatial = m.rank - 2;
  int64_t c[5];
  for (int d = 0; d < m.rank; ++d) c[d] = at[d];
  for (int pixel = 0; pixel < m.box[1]; ++pixel) {
    uint64_t offset = 0;
    bool inside = true;
    for (int d = 1; d < m.rank; ++d) {
      const int64_t x = c[d] + (d <= spatial ? offsets[d - 1] : 0);
      inside &= x >= 0 && x <= m.dim[d];
      offset += static_cast<uint64_t>(x) * m.stride[d];
    }
    box.rows.push_back(row_of(w, lane, m, at[0], m.box[0], offset, inside, false));
    for (int d = 1; d < m.rank; ++d) {
      c[d] += m.element_stride[d];
      if (d > spatial || c[d] <= int64_t{m.dim[d]} + m.upper[d - 1]) break;
      c[d] = m.lower[d - 1];
    }
  }
}

enum Shape : uint8_t { kLoad = 1, kIm2col = 2, kHint = 4 };

// in.a shared address, in.b the map, in.list: the mbarrier's address (of a load), coordinates, offsets; in.c the
// cache policy.
void transfer(Warp& w, const Instr& in) {
  const bool load = in.count & kLoad, im2col = in.count & kIm2col;
  const int rank = in.target;
  uint64_t shared[LANES], maps[LANES], barriers[LANES] = {};
  load_addresses(w, in.a, in.flags & WIDE_ADDRESS, in.imm, shared);
  load_addresses(w, in.b, true, 0, maps);
  if (load) load_addresses(w, in.list[0], in.flags & 1, in.second_imm, barriers);
  each(w.active, [&](int i) {
    int32_t at[5] = {}, offsets[3] = {};
    const auto word = [&](Operand o) {
      if (!(defined<uint32_t>(w, o) & BIT[i])) w.undefined("a coordinate of a bulk copy", BIT[i]);
      return row<uint32_t>(w, o)[i];
    };
    for (int d = 0; d < rank; ++d) at[d] = static_cast<int32_t>(word(in.list[1 + d]));
    for (int d = 0; im2col && d < rank - 2; ++d)
      offsets[d] = static_cast<uint16_t>(word(in.list[1 + rank + d]));
    if (in.count & kHint) check_policy(w, i, in.c);
    const TensorMap m = map_of(w, i, maps[i]);
    if (m.rank != rank || m.im2col != im2col) w.fault(i, "the tensor map is of another rank or mode");
    if (im2col && at[0] < 0) w.fault(i, "a channel of an im2col copy is negative");
    Box box;
    box.swizzle = m.swizzle, box.element_bytes = m.element_bytes;
    box.to_tf32 = load && m.to_tf32, box.nan_fill = m.nan_fill;
    im2col ? im2col_rows(w, i, m, at, offsets, box) : tiled_rows(w, i, m, at, !load, box);
    const uint64_t inner = box.rows[0].bytes, pitch = m.swizzle ? uint64_t{16} << m.swizzle : inner;
    if (inner % 16 || inner > pitch) w.fault(i, "a box of " + std::to_string(inner) + " bytes a row");
    range_of(w, i, Space::kShared, shared[i], pitch * (box.rows.size() - 1) + inner, 128, load);
    for (size_t r = 0; r < box.rows.size(); ++r) {
      box.rows[r].shared = shared[i] + pitch * r;
      box.bytes += inner;
      chunks(box, box.rows[r], [&](uint64_t address, size_t, size_t n) {
        range_of(w, i, Space::kShared, address, n, 1, load);
      });
    }
    if (!load) {
      auto& groups = w.block.async->stores[w.index * LANES + i];
      if (!w.block.late()) return land_store(w, i, box);
      groups.open.push_back(std::move(box));
      return;
    }
    const auto b = w.block.async->mbarriers.find(barriers[i]);
    if (b == w.block.async->mbarriers.end())
      w.fault(i, "there is no initialised mbarrier at the address that the copy arrives at");
    if (!b->second.visible)
      w.fault(i, "the mbarrier's initialisation has not been fenced for the asynchronous proxy");
    box.barrier = barriers[i];
    for (uint64_t k = 0;
         k < pitch * box.rows.size() && shared[i] + k - SHARED_BASE < w.block.shared_shadow.size(); ++k) {
      *shared_shadow(w.block, shared[i] + k) = UNDEFINED;
    }
    w.block.late() ? w.block.async->loads.push_back(std::move(box)) : land_load(w.block, box);
  });
}

void commit(Warp& w, const Instr&) {
  each(w.active, [&](int i) {
    auto& groups = w.block.async->stores[w.index * LANES + i];
    groups.closed.push_back(std::move(groups.open));
    groups.open.clear();
  });
}
void wait(Warp& w, const Instr& in) {
  each(w.active, [&](int i) {
    auto& groups = w.block.async->stores[w.index * LANES + i];
    while (groups.closed.size() > static_cast<size_t>(in.imm)) {
      for (const Box& box : groups.closed.front()) land_store(w, i, box);
      groups.closed.pop_front();
    }
  });
}

}  // namespace

bool AsyncState::land(Block& block) {
  if (loads.empty()) return false;
  const Box box = std::move(loads.front());
  loads.pop_front();
  land_load(block, box);
  return true;
}

void decode_bulk(Form& form, Instr& in) {
  form.uses_proxies();
  form.take("bulk");
  if (form.take("commit_group")) {
    form.arguments(0);
    in.run = commit;
    return;
  }
  if (form.take("wait_group")) {
    form.take("read");
    form.arguments(1);
    in.run = wait;
    in.imm = form.immediate(form.args[0]);
    return;
  }
  if (!form.take("tensor")) form.unknown();
  const std::string rank = form.take_any({"1d", "2d", "3d", "4d", "5d"});
  if (rank.empty()) form.unknown();
  in.target = rank[0] - '0';
  const std::string to = form.take_next(), from = form.take_next();
  const bool load = from == "global" && (to == "shared::cluster" || to == "shared::cta");
  if (!load && !(to == "global" && from == "shared::cta")) form.unknown();
  const bool im2col = form.take("im2col");
  form.take("tile");
  if (!form.take(load ? "mbarrier::complete_tx::bytes" : "bulk_group") || (im2col && !load)) form.unknown();
  const bool hint = form.take("L2::cache_hint");
  in.count = static_cast<uint8_t>((load ? kLoad : 0) | (im2col ? kIm2col : 0) | (hint ? kHint : 0));
  form.arguments(static_cast<size_t>((load ? (im2col ? 4 : 3) : 2) + hint));
  if (hint) in.c = form.source(form.args.back(), 64);
  const Arg &tensor = form.args[load ? 1 : 0], &shared = form.args[load ? 0 : 1];
  form.address(tensor, Space::kGeneric, in);
  if (in.imm || tensor.items.size() != 1 || tensor.items[0].items.size() != static_cast<size_t>(in.target)) {
    form.fail("a tensor map and " + rank.substr(0, 1) + " coordinates expected");
  }
  in.b = in.a;
  std::vector<Operand> list(1);
  in.flags = 0;
  bool wide_barrier = false;
  if (load) {
    form.address(form.args[2], Space::kShared, in);
    list[0] = in.a, in.second_imm = in.imm;
    wide_barrier = in.flags & WIDE_ADDRESS;
  }
  in.flags = 0;
  form.address(shared, Space::kShared, in);
  in.flags |= wide_barrier;
  for (const Arg& c : tensor.items[0].items) list.push_back(form.source(c, 32));
  if (im2col) {
    if (form.args[3].items.size() != static_cast<size_t>(in.target - 2))
      form.fail("an offset for each spatial dimension expected");
    for (const Arg& o : form.args[3].items) list.push_back(form.source(o, 16));
  }
  in.list = form.list(list);
  in.run = transfer;
}

void add_bulk(std::map<std::string, Decode>& table) {
  table["createpolicy"] = [](Form& form, Instr& in) {
    if (!form.take("fractional")) form.unknown();
    const std::string priority = form.take_next();
    const std::vector<std::string> known = {"L2::evict_last", "L2::evict_normal", "L2::evict_first",
                                            "L2::evict_unchanged"};
    const auto found = std::find(known.begin(), known.end(), priority);
    if (found == known.end() || form.take_type() != "b64") form.unknown();
    form.arguments(1, 2);  // the fraction, 1.0 where it is left out, changes no result
    in.d = form.destination(form.args[0], 64);
    in.imm = static_cast<int64_t>(POLICY + 1) + (found - known.begin());
    in.run = [](Warp& w, const Instr& instr) {
      define<uint64_t>(w, instr.d, ALL);
      store_lanes<uint64_t>(w, instr.d, [&](int) { return static_cast<uint64_t>(instr.imm); });
    };
  };
  table["prefetch"] = [](Form& form, Instr& in) {
    const Space space = take_space(form);
    const std::string what = form.take_any({"tensormap", "L1", "L2"});
    if (what.empty()) form.unknown();
    form.arguments(1);
    form.address(form.args[0], space, in);
    in.run = [](Warp&, const Instr&) {};
    if (what != "tensormap") return;
    if (space != Space::kGeneric) form.unknown();
    in.run = [](Warp& w, const Instr& instr) {
      uint64_t at[LANES];
      load_addresses(w, instr.a, instr.flags & WIDE_ADDRESS, instr.imm, at);
      each(w.active, [&](int i) { map_of(w, i, at[i]); });
    };
  };
}

}  // namespace ptx
