// copy.cpp: cp.async of a few bytes a thread, and waiting for it
//
// Where a copy is late, its bytes are undefined until the thread that issued it has waited for its group, and
// its source is read no earlier. Where it is early, both happens at once.
#include "access.h"

namespace ptx {
namespace {

void land(PendingCopy& copy, Mask which) {
  each(which & copy.pending, [&](int i) {
    const size_t n = copy.from_bytes[i], rest = copy.bytes - n;
    if (n == 16 && !copy.from_shadow[i]) {  // the usual one
      std::memcpy(copy.to[i], copy.from[i], 16);
      std::memset(copy.to_shadow[i], WRITTEN, 16);
      return;
    }
    std::memmove(copy.to[i], copy.from[i], n);
    std::memset(copy.to[i] + n, 0, rest);
    for (size_t k = 0; k < n; ++k) {
      copy.to_shadow[i][k] = !copy.from_shadow[i] || is_written(copy.from_shadow[i][k]) ? WRITTEN : UNDEFINED;
    }
    std::memset(copy.to_shadow[i] + n, WRITTEN, rest);
  });
  copy.pending &= ~which;
}

// in.a source, in.b destination, in.c its source bytes where in.count; in.bytes.
void copy(Warp& w, const Instr& in) {
  Places to, from;
  PendingCopy c;
  load_addresses(w, in.b, in.flags & 1, in.second_imm, to.at);
  place_at(w, in, Space::kShared, in.bytes, in.bytes, true, to);
  c.bytes = in.bytes;
  c.line = in.line;
  c.pending = w.active;
  Mask reading = w.active;
  std::memset(c.from_bytes, in.bytes, sizeof c.from_bytes);
  if (in.count) {
    const uint32_t* n = row<uint32_t>(w, in.c);
    const Mask lacking = w.active & ~defined<uint32_t>(w, in.c);
    if (lacking) w.undefined("how many bytes are copied", lacking);
    each(w.active, [&](int i) {
      if (n[i] > in.bytes)
        w.fault(i, "copies " + std::to_string(n[i]) + " of " + std::to_string(in.bytes) + " bytes");
      c.from_bytes[i] = static_cast<uint8_t>(n[i]);
      if (!n[i]) reading &= ~BIT[i];
    });
  }
  if (reading) {
    const Mask active = w.active;
    w.active = reading;  // where nothing is read, the address is not looked at
    load_addresses(w, in.a, true, in.imm, from.at);
    bool whole = true;
    each(reading, [&](int i) { whole &= c.from_bytes[i] == in.bytes; });
    if (whole) {
      place_at(w, in, static_cast<Space>(in.space), in.bytes, in.bytes, false, from, 1);
      for (int i = 0; i < LANES; ++i) c.from[i] = from.data(i), c.from_shadow[i] = from.shadow(i);
    } else {
      each(reading, [&](int i) {
        const Range r =
            range_of(w, i, static_cast<Space>(in.space), from.at[i], c.from_bytes[i], in.bytes, false);
        c.from[i] = r.data, c.from_shadow[i] = r.shadow;
      });
    }
    w.active = active;
  }
  for (int i = 0; i < LANES; ++i) {
    c.to[i] = to.data(i), c.to_shadow[i] = to.shadow(i);
    c.group[i] = w.open_group[static_cast<size_t>(i)];
    if (!(reading & BIT[i])) c.from[i] = c.to[i], c.from_shadow[i] = nullptr;
  }
  if (!w.block.late()) return land(c, c.pending);
  each(c.pending, [&](int i) { std::memset(c.to_shadow[i], UNDEFINED, c.bytes); });
  w.copies.push_back(c);
}

void commit(Warp& w, const Instr&) {
  each(w.active, [&](int i) { ++w.open_group[static_cast<size_t>(i)]; });
}
// in.imm: how many of the newest groups may still be under way; -1: nothing, committed or not.
void wait(Warp& w, const Instr& in) {
  for (PendingCopy& c : w.copies) {
    Mask which = 0;
    each(w.active & c.pending, [&](int i) {
      const int64_t open = w.open_group[static_cast<size_t>(i)];
      if (in.imm < 0 || c.group[i] < open - in.imm) which |= BIT[i];
    });
    land(c, which);
  }
  while (!w.copies.empty() && !w.copies.front().pending) w.copies.pop_front();
}

}  // namespace

void decode_bulk(Form& form, Instr& in);

void add_copy(std::map<std::string, Decode>& table) {
  table["cp"] = [](Form& form, Instr& in) {
    if (!form.take("async")) form.unknown();
    if (form.peek() == "bulk") return decode_bulk(form, in);
    if (form.take("commit_group")) {
      form.arguments(0);
      in.run = commit;
    } else if (form.take("wait_group")) {
      form.arguments(1);
      in.run = wait;
      in.imm = form.immediate(form.args[0]);
    } else if (form.take("wait_all")) {
      form.arguments(0);
      in.run = wait;
      in.imm = -1;
    } else {
      const std::string cache = form.take_any({"ca", "cg"});
      if (cache.empty() || (!form.take("shared") && !form.take("shared::cta")) || !form.take("global"))
        form.unknown();
      form.take_any({"L2::64B", "L2::128B", "L2::256B"});
      form.arguments(3, 4);
      form.address(form.args[0], Space::kShared, in);
      in.b = in.a, in.second_imm = in.imm;
      const bool wide = in.flags & WIDE_ADDRESS;
      in.flags = 0;
      form.address(form.args[1], Space::kGlobal, in);
      in.flags |= wide;
      const int64_t bytes = form.immediate(form.args[2]);
      if (bytes != 16 && (cache == "cg" || (bytes != 4 && bytes != 8)))
        form.fail("cp.async of " + std::to_string(bytes) + " bytes");
      in.bytes = static_cast<uint8_t>(bytes);
      if (form.args.size() == 4) {
        in.count = 1;
        in.c = form.source(form.args[3], 32);
      }
      in.run = copy;
    }
  };
}

}  // namespace ptx
