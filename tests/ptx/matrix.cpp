// matrix.cpp: ldmatrix and mma.sync
//
// A lane's place in a fragment, by the ISA's figures: group = lane / 4, member = lane % 4. Of A (16 x K) a
// register holds rows group and group + 8, of B (K x 8) column group, of the sums (16 x 8) row group and
// columns 2 member, + 1.
#include "access.h"
#include "numbers.h"

namespace ptx {
namespace {

// ---- ldmatrix -----------------------------------------------------------------------------------

// The lanes whose two elements of a matrix have been written.
template <bool TRANSPOSED>
Mask known_elements(Warp& w, const Places& p, int m) {
  Mask ok = ALL;
  for (int lane = 0; lane < LANES; ++lane) {
    const int group = lane / 4, member = lane % 4;
    for (int k = 0; k < 2; ++k) {
      const int r = TRANSPOSED ? 2 * member + k : group, c = TRANSPOSED ? group : 2 * member + k;
      if (all_written(p.shadow(8 * m + r) + 2 * c, 2)) continue;
      ok &= ~BIT[lane];
      w.note_undefined(lane, "row " + std::to_string(r) + " of matrix " + std::to_string(m) +
                                 " has bytes that nothing has written, or a copy not waited for");
    }
  }
  return ok;
}

template <int COUNT, bool TRANSPOSED>
void ldmatrix(Warp& w, const Instr& in) {
  if (!w.whole()) return;
  if (w.active != ALL) w.fault(first(w.active), "a warp of fewer than 32 lanes");
  Places p;
  const Mask used = COUNT == 4 ? ALL : BIT[8 * COUNT] - 1;  // whose addresses count
  w.active = used;
  load_addresses(w, in.a, in.flags & WIDE_ADDRESS, in.imm, p.at);
  place_at(w, in, static_cast<Space>(in.space), 16, 16, false, p);
  w.active = ALL;
  for (int m = 0; m < COUNT; ++m) {
    alignas(64) uint16_t matrix[8][8];
    alignas(64) uint32_t out[LANES];
    bool written = true;
    for (int r = 0; r < 8; ++r) {
      std::memcpy(matrix[r], p.data(8 * m + r), 16);
      if (const uint8_t* shadow = p.shadow(8 * m + r)) written &= all_written(shadow, 16);
    }
    if (TRANSPOSED) {
      for (int lane = 0; lane < LANES; ++lane) {
        const int group = lane / 4, member = lane % 4;
        out[lane] = matrix[2 * member][group] | uint32_t{matrix[2 * member + 1][group]} << 16;
      }
    } else {
      std::memcpy(out, matrix, sizeof out);
    }
    const Operand d = in.list[m];
    defined<uint32_t>(w, d) = written ? ALL : known_elements<TRANSPOSED>(w, p, m);
    std::memcpy(row<uint32_t>(w, d), out, sizeof out);
  }
}

// What ldmatrix and stmatrix say alike: how many matrices, one a register, whether transposed, and where they are.
struct Matrices {
  uint8_t count;
  bool trans;
  Matrices(Form& form, Instr& in, int registers, int address) {
    if (!form.take("sync") || !form.take("aligned") || !form.take("m8n8")) form.unknown();
    const std::string times = form.take_any({"x1", "x2", "x4"});
    trans = form.take("trans");
    const Space space = take_space(form);
    if (times.empty() || form.take_type() != "b16" || space != Space::kShared) form.unknown();
    form.arguments(2);
    form.address(form.args[address], space, in);
    count = static_cast<uint8_t>(times[1] - '0');
    if (form.args[registers].items.size() != count) form.fail("takes " + times.substr(1) + " registers");
  }
};

void decode_ldmatrix(Form& form, Instr& in) {
  const auto [n, trans] = Matrices(form, in, 0, 1);
  std::vector<Operand> list;
  for (const Arg& item : form.args[0].items) list.push_back(form.destination(item, 32));
  in.list = form.list(list);
  in.run = n == 1   ? (trans ? ldmatrix<1, true> : ldmatrix<1, false>)
           : n == 2 ? (trans ? ldmatrix<2, true> : ldmatrix<2, false>)
                    : (trans ? ldmatrix<4, true> : ldmatrix<4, false>);
}

// ---- stmatrix -----------------------------------------------------------------------------------

// Row r of matrix m goes to lane 8 m + r's address; its elements come from where ldmatrix would take them.
template <bool TRANSPOSED>
void stmatrix(Warp& w, const Instr& in) {
  if (!w.whole()) return;
  if (w.active != ALL) w.fault(first(w.active), "a warp of fewer than 32 lanes");
  uint64_t at[LANES];
  w.active = in.count == 4 ? ALL : BIT[8 * in.count] - 1;
  load_addresses(w, in.a, in.flags & WIDE_ADDRESS, in.imm, at);
  w.active = ALL;
  for (int place = 0; place < 8 * in.count; ++place) {
    const Operand from = in.list[place / 8];
    const int r = place % 8;
    const Range range = range_of(w, place, Space::kShared, at[place], 16, 16, true);
    for (int c = 0; c < 8; ++c) {
      const int lane = TRANSPOSED ? 4 * c + r / 2 : 4 * r + c / 2, half = (TRANSPOSED ? r : c) % 2;
      const auto element = static_cast<uint16_t>(row<uint32_t>(w, from)[lane] >> (16 * half));
      std::memcpy(range.data + 2 * c, &element, 2);
      const bool known = defined<uint32_t>(w, from) & BIT[lane];
      std::memset(range.shadow + 2 * c, !known ? UNDEFINED : w.code.proxies ? UNFENCED : WRITTEN, 2);
    }
    if (w.code.proxies) w.block.written(w, place, range.shadow, 16);
  }
}

void decode_stmatrix(Form& form, Instr& in) {
  const auto [n, trans] = Matrices(form, in, 1, 0);
  in.count = n;
  std::vector<Operand> list;
  for (const Arg& item : form.args[1].items) list.push_back(form.source(item, 32));
  in.list = form.list(list);
  in.run = trans ? stmatrix<true> : stmatrix<false>;
}

// ---- mma ----------------------------------------------------------------------------------------

typedef float V8 __attribute__((vector_size(32)));
enum Kind { kTf32, kBf16, kF16 };

// Element k of a fragment's registers: one of TF32, of which the upper 19 bits count, or two of 16 bits.
template <Kind KIND>
inline void elements(const uint32_t* words, int k, float* out) {
  for (int lane = 0; lane < LANES; ++lane) {
    const uint32_t w = words[lane];
    if constexpr (KIND == kTf32) out[lane] = float_of(w & 0xffffe000);
    if constexpr (KIND == kBf16) out[lane] = float_of(k ? w & 0xffff0000 : w << 16);
    if constexpr (KIND == kF16) out[lane] = Half::widen(static_cast<uint16_t>(w >> (16 * k)));
  }
}

// Which sums are known where not all inputs are: those whose row of A, column of B and addend are.
void known_sums(Warp& w, const Operand* a, int na, const Operand* b, int nb, const Operand* c,
                Mask (&known)[4]) {
  uint32_t rows = 0xffff, columns = 0xff;
  for (int r = 0; r < na; ++r) {
    each(~defined<uint32_t>(w, a[r]), [&](int lane) { rows &= ~BIT[lane / 4 + r % 2 * 8]; });
  }
  for (int r = 0; r < nb; ++r) {
    each(~defined<uint32_t>(w, b[r]), [&](int lane) { columns &= ~BIT[lane / 4]; });
  }
  for (int r = 0; r < 4; ++r) {
    known[r] &= defined<uint32_t>(w, c[r]);
    for (int lane = 0; lane < LANES; ++lane) {
      if (!(rows & BIT[lane / 4 + r / 2 * 8]) || !(columns & BIT[lane % 4 * 2 + r % 2]))
        known[r] &= ~BIT[lane];
    }
  }
}

template <Kind KIND, int K>
void mma(Warp& w, const Instr& in) {
  constexpr int PER = KIND == kTf32 ? 1 : 2;  // elements in a register
  constexpr int STEP = 4 * PER;               // of K that a register of the fragment covers
  constexpr int NA = 2 * K / STEP, NB = K / STEP;
  if (!w.whole()) return;
  if (w.active != ALL) w.fault(first(w.active), "a warp of fewer than 32 lanes");
  const Operand *const d = in.list, *const a = d + 4, *const b = a + NA, *const c = b + NB;
  // Four lanes hold neighbours of one row: a register's 32 words are 8 rows of 4.
  alignas(64) float A[NA][PER][LANES], B[NB][PER][LANES];
  Mask ok = ALL;
  for (int r = 0; r < NA; ++r) {
    ok &= defined<uint32_t>(w, a[r]);
    for (int k = 0; k < PER; ++k) elements<KIND>(row<uint32_t>(w, a[r]), k, A[r][k]);
  }
  for (int r = 0; r < NB; ++r) {
    ok &= defined<uint32_t>(w, b[r]);
    for (int k = 0; k < PER; ++k) elements<KIND>(row<uint32_t>(w, b[r]), k, B[r][k]);
  }
  for (int r = 0; r < 4; ++r) ok &= defined<uint32_t>(w, c[r]);
  alignas(64) float columns[K][8];  // of B: the 8 values at one k
  for (int k = 0; k < K; ++k) {
    const float* from = B[k / STEP][k % PER] + k % STEP / PER;
    for (int n = 0; n < 8; ++n) columns[k][n] = from[4 * n];
  }
  V8 column[K];
  std::memcpy(column, columns, sizeof column);
  // Products are exact; sums are rounded one by one, in the order of k. (The ISA leaves order and rounding
  // open.)
  Mask known[4] = {ALL, ALL, ALL, ALL};
  if (ok != ALL) known_sums(w, a, NA, b, NB, c, known);
  alignas(64) float out[4][LANES];
  for (int half = 0; half < 2; ++half) {
    const auto* even = row<float>(w, c[2 * half]);
    const auto* odd = row<float>(w, c[2 * half + 1]);
    alignas(64) float rows[8][8];
    for (int lane = 0; lane < LANES; ++lane) {
      rows[lane / 4][lane % 4 * 2] = get<float>(even, lane);
      rows[lane / 4][lane % 4 * 2 + 1] = get<float>(odd, lane);
    }
    V8 sum[8];
    std::memcpy(sum, rows, sizeof sum);
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) {
      const float* from = A[k / STEP * 2 + half][k % PER] + k % STEP / PER;
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sum[i] += from[4 * i] * column[k];
    }
    std::memcpy(rows, sum, sizeof sum);
    for (int lane = 0; lane < LANES; ++lane) {
      out[2 * half][lane] = rows[lane / 4][lane % 4 * 2];
      out[2 * half + 1][lane] = rows[lane / 4][lane % 4 * 2 + 1];
    }
  }
  for (int r = 0; r < 4; ++r) {
    uint32_t* to = row<uint32_t>(w, d[r]);
    defined<uint32_t>(w, d[r]) = known[r];
    for (int lane = 0; lane < LANES; ++lane) to[lane] = bits_of(canonical(out[r][lane]));
  }
}

void decode_mma(Form& form, Instr& in) {
  if (!form.take("sync") || !form.take("aligned")) form.unknown();
  const std::string shape = form.take_next();
  if (form.take_next() != "row" || form.take_next() != "col") form.unknown();
  const std::string d = form.take_next(), a = form.take_next(), b = form.take_next(), c = form.take_next();
  if (d != "f32" || c != "f32" || a != b) form.unknown();
  in.run = a == "tf32" && shape == "m16n8k8"    ? mma<kTf32, 8>
           : a == "tf32" && shape == "m16n8k4"  ? mma<kTf32, 4>
           : a == "bf16" && shape == "m16n8k16" ? mma<kBf16, 16>
           : a == "bf16" && shape == "m16n8k8"  ? mma<kBf16, 8>
           : a == "f16" && shape == "m16n8k16"  ? mma<kF16, 16>
           : a == "f16" && shape == "m16n8k8"   ? mma<kF16, 8>
                                                : nullptr;
  if (!in.run) form.unknown();
  form.arguments(4);
  const size_t wide = shape == "m16n8k4" || (shape == "m16n8k8" && a != "tf32") ? 2 : 4;
  const size_t counts[4] = {4, wide, wide / 2, 4};
  std::vector<Operand> list;
  for (size_t i = 0; i < 4; ++i) {
    if (form.args[i].items.size() != counts[i])
      form.fail("a fragment of " + std::to_string(counts[i]) + " registers expected");
    for (const Arg& item : form.args[i].items) {
      list.push_back(i == 0   ? form.destination(item, 32)
                     : i == 3 ? form.any_source(item, "f32")
                              : form.source(item, 32));
    }
  }
  in.list = form.list(list);
}

}  // namespace

void add_matrix(std::map<std::string, Decode>& table) {
  table["ldmatrix"] = decode_ldmatrix;
  table["stmatrix"] = decode_stmatrix;
  table["mma"] = decode_mma;
}

}  // namespace ptx
