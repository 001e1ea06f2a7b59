// matrix.cpp: ldmatrix and mma.sync
//
// A lane's place in a fragment, by the ISA's figures: group = lane / 4, member = lane % 4. Of A (16 x K) a register
// holds rows group and group + 8, of B (K x 8) column group, of the sums (16 x 8) row group and columns 2 member, + 1.
#include "access.h"
#include "numbers.h"

namespace ptx {
namespace {

// ---- ldmatrix -----------------------------------------------------------------------------------

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
    alignas(64) uint32_t out[LANES];
    alignas(64) uint16_t matrix[8][8];
    bool written = true;
    for (int r = 0; r < 8; ++r) {
      std::memcpy(matrix[r], p.data[8 * m + r], 16);
      if (p.shadow[8 * m + r] && p.has_shadow) written &= all_written(p.shadow[8 * m + r], 16);
    }
    Mask ok = ALL;
    for (int lane = 0; lane < LANES; ++lane) {
      const int group = lane / 4, member = lane % 4;
      out[lane] = TRANSPOSED ? matrix[2 * member][group] | uint32_t{matrix[2 * member + 1][group]} << 16
                             : matrix[group][2 * member] | uint32_t{matrix[group][2 * member + 1]} << 16;
      if (written) continue;
      for (int k = 0; k < 2; ++k) {
        const int r = TRANSPOSED ? 2 * member + k : group, c = TRANSPOSED ? group : 2 * member + k;
        if (all_written(p.shadow[8 * m + r] + 2 * c, 2)) continue;
        ok &= ~BIT[lane];
        w.note_undefined(lane, "row " + std::to_string(r) + " of matrix " + std::to_string(m) +
                                   " has bytes that nothing has written, or a copy not waited for");
      }
    }
    const Operand d = in.list[m];
    define<uint32_t>(w, d, ok);
    store_lanes<uint32_t>(w, d, [&](int i) { return out[i]; });
  }
}

void decode_ldmatrix(Form& form, Instr& in) {
  if (!form.take("sync") || !form.take("aligned") || !form.take("m8n8")) form.unknown();
  const std::string count = form.take_any({"x1", "x2", "x4"});
  const bool trans = form.take("trans");
  const Space space = take_space(form);
  if (count.empty() || form.take_type() != "b16" || space != Space::kShared) form.unknown();
  form.arguments(2);
  form.address(form.args[1], space, in);
  const size_t n = static_cast<size_t>(count[1] - '0');
  if (form.args[0].items.size() != n) form.fail("takes " + std::to_string(n) + " registers");
  std::vector<Operand> list;
  for (const Arg& item : form.args[0].items) list.push_back(form.destination(item, 32));
  in.list = form.list(list);
  in.run = n == 1   ? (trans ? ldmatrix<1, true> : ldmatrix<1, false>)
           : n == 2 ? (trans ? ldmatrix<2, true> : ldmatrix<2, false>)
                    : (trans ? ldmatrix<4, true> : ldmatrix<4, false>);
}

// ---- mma ----------------------------------------------------------------------------------------

typedef float V8 __attribute__((vector_size(32)));
enum Kind { kTf32, kBf16, kF16 };

// Elements of a fragment's register: one of TF32, of which the upper 19 bits count, or two of 16 bits.
template <Kind KIND>
inline float element(uint32_t word, int k) {
  if (KIND == kTf32) return float_of(word & 0xffffe000);
  const auto h = static_cast<uint16_t>(word >> (16 * k));
  return KIND == kBf16 ? float_of(uint32_t{h} << 16) : Half::widen(h);
}

// Which sums are known where not all inputs are: those whose row of A, column of B and addend are.
void known_sums(Warp& w, const Operand* a, int na, const Operand* b, int nb, const Operand* c, Mask (&known)[4]) {
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
      if (!(rows & BIT[lane / 4 + r / 2 * 8]) || !(columns & BIT[lane % 4 * 2 + r % 2])) known[r] &= ~BIT[lane];
    }
  }
}

template <Kind KIND, int K>
void mma(Warp& w, const Instr& in) {
  constexpr int PER = KIND == kTf32 ? 1 : 2;    // elements in a register
  constexpr int STEP = 4 * PER;                 // of K that a register of the fragment covers
  constexpr int NA = 2 * K / STEP, NB = K / STEP;
  if (!w.whole()) return;
  if (w.active != ALL) w.fault(first(w.active), "a warp of fewer than 32 lanes");
  const Operand *const d = in.list, *const a = d + 4, *const b = a + NA, *const c = b + NB;
  alignas(64) float A[16][K], B[K][8], C[16][8];
  Mask ok = ALL;
  for (int r = 0; r < NA; ++r) {
    const uint32_t* v = row<uint32_t>(w, a[r]);
    ok &= defined<uint32_t>(w, a[r]);
    for (int lane = 0; lane < LANES; ++lane) {
      for (int k = 0; k < PER; ++k) {
        A[lane / 4 + r % 2 * 8][r / 2 * STEP + lane % 4 * PER + k] = element<KIND>(v[lane], k);
      }
    }
  }
  for (int r = 0; r < NB; ++r) {
    const uint32_t* v = row<uint32_t>(w, b[r]);
    ok &= defined<uint32_t>(w, b[r]);
    for (int lane = 0; lane < LANES; ++lane) {
      for (int k = 0; k < PER; ++k) B[r * STEP + lane % 4 * PER + k][lane / 4] = element<KIND>(v[lane], k);
    }
  }
  for (int r = 0; r < 4; ++r) {
    const uint32_t* v = row<uint32_t>(w, c[r]);
    ok &= defined<uint32_t>(w, c[r]);
    for (int lane = 0; lane < LANES; ++lane) C[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2] = float_of(v[lane]);
  }
  // Products are exact; sums are rounded one by one, in the order of k. (The ISA leaves order and rounding open.)
  V8 column[K];
  std::memcpy(column, B, sizeof column);
  for (int half = 0; half < 16; half += 8) {
    V8 sum[8];
    std::memcpy(sum, C[half], sizeof sum);
    for (int k = 0; k < K; ++k) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sum[i] += A[half + i][k] * column[k];
    }
    std::memcpy(C[half], sum, sizeof sum);
  }
  Mask known[4] = {ALL, ALL, ALL, ALL};
  if (ok != ALL) known_sums(w, a, NA, b, NB, c, known);
  for (int r = 0; r < 4; ++r) {
    uint32_t* out = row<uint32_t>(w, d[r]);
    defined<uint32_t>(w, d[r]) = known[r];
    for (int lane = 0; lane < LANES; ++lane) {
      out[lane] = bits_of(canonical(C[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2]));
    }
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
    if (form.args[i].items.size() != counts[i]) form.fail("a fragment of " + std::to_string(counts[i]) + " registers expected");
    for (const Arg& item : form.args[i].items) {
      list.push_back(i == 0 ? form.destination(item, 32) : i == 3 ? form.any_source(item, "f32") : form.source(item, 32));
    }
  }
  in.list = form.list(list);
}

}  // namespace

void add_matrix(std::map<std::string, Decode>& table) {
  table["ldmatrix"] = decode_ldmatrix;
  table["mma"] = decode_mma;
}

}  // namespace ptx
