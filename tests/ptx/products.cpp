// products.cpp: wgmma
//
// A warp has rows 16 (index % 4) to + 15 of the 64 of its warpgroup. A product that is late reads shared
// memory and writes its registers when it is waited for; until then these are undefined.
#include "products.h"

#include "access.h"
#include "bulk.h"
#include "numbers.h"

namespace ptx {
namespace {

// A matrix in shared memory: element (i, k), i along M or N.
struct Matrix {
  uint64_t start, leading, stride;  // bytes
  int mode;                         // as TensorMap::swizzle
  bool transposed;                  // i is contiguous, not k
  uint64_t address(uint64_t i, uint64_t k_bytes, uint64_t k, uint64_t size) const {
    const uint64_t width = uint64_t{16} << mode;  // of a row of the pattern, 16: a core matrix'
    if (!transposed) {
      const uint64_t a =
          start + i / 8 * stride + i % 8 * width + (mode ? k_bytes : k_bytes / 16 * leading + k_bytes % 16);
      return swizzled(a, mode);
    }
    const uint64_t i_bytes = i * size;
    const uint64_t along_i = mode ? leading : stride, along_k = mode ? stride : leading;
    return swizzled(start + i_bytes / width * along_i + i_bytes % width + k % 8 * width + k / 8 * along_k,
                    mode);
  }
};

Matrix matrix_of(Warp& w, uint64_t d, bool transposed) {
  static const int modes[4] = {0, 3, 2, 1};
  Matrix m{(d & 0x3fff) << 4, (d >> 16 & 0x3fff) << 4, (d >> 32 & 0x3fff) << 4, modes[d >> 62], transposed};
  if (d >> 49 & 7) w.fault(0, "a matrix descriptor with a base offset is not known");
  const uint64_t rows = (uint64_t{1} << m.mode) - 1;
  if (m.mode && (m.start >> 7 & rows)) w.fault(0, "the matrix begins in the middle of its swizzle's pattern");
  return m;
}

struct Source {  // 16 or N rows of K values, and which rows are defined
  std::vector<float> values;
  std::vector<char> known;
};

// Rows [first, first + count) as float.
Source read(Warp& w, const Matrix& m, uint64_t first_row, uint64_t count, uint64_t k_count, bool tf32) {
  const uint64_t size = tf32 ? 4 : 2;
  Source s;
  s.values.resize(count * k_count);
  s.known.assign(count, 1);
  for (uint64_t i = 0; i < count; ++i) {
    for (uint64_t k = 0; k < k_count; ++k) {
      const uint64_t at = m.address(first_row + i, k * size, k, size);
      const Range r = range_of(w, 0, Space::kShared, at, size, size, false);
      for (uint64_t b = 0; b < size; ++b) {
        if (r.shadow[b] == UNFENCED)
          w.fault(0, "wgmma reads what was written without fence.proxy.async after it");
        if (r.shadow[b] != WRITTEN) {
          s.known[i] = 0;
          w.note_undefined(
              0, "row " + std::to_string(first_row + i) + " of a matrix has bytes that nothing has written");
        }
      }
      uint32_t word = 0;
      std::memcpy(&word, r.data, size);
      s.values[i * k_count + k] = tf32 ? float_of(word & 0xffffe000) : float_of(word << 16);
    }
  }
  return s;
}

struct Product {
  int n, k;
  bool tf32, accumulate;
  float scale_a, scale_b;
  uint64_t a, b;
  bool a_transposed, b_transposed;
  const Operand* d;
  const Operand* a_registers;  // null: A lies in shared memory
  int pc;
};

// A from registers ("WGMMA register fragment layout for matrix A"): lane l has of rows l / 4 and l / 4 + 8 what
// fills 32 bits at the l % 4th place of K's first half, then the same of its second half.
Source read_fragment(Warp& w, const Operand* registers, uint64_t k_count, bool tf32) {
  Source s;
  s.values.resize(16 * k_count);
  s.known.assign(16, 1);
  for (int r = 0; r < 4; ++r) {
    const uint32_t* word = row<uint32_t>(w, registers[r]);
    const Mask known = defined<uint32_t>(w, registers[r]);
    for (int lane = 0; lane < LANES; ++lane) {
      const auto i = static_cast<uint64_t>(lane / 4 + (r & 1) * 8);
      const uint64_t k = (static_cast<uint64_t>(lane) % 4 + (r & 2 ? 4 : 0)) * k_count / 8;
      float* to = &s.values[i * k_count + k];
      if (!(known & BIT[lane])) s.known[i] = 0;
      if (tf32) {
        to[0] = float_of(word[lane] & 0xffffe000);
      } else {
        to[0] = float_of(word[lane] << 16), to[1] = float_of(word[lane] & 0xffff0000);
      }
    }
  }
  return s;
}

void multiply(Warp& w, const Product& p) {
  const int at = w.pc;
  w.pc = p.pc;  // of a fault
  const auto n = static_cast<uint64_t>(p.n), k = static_cast<uint64_t>(p.k);
  const Source a = p.a_registers ? read_fragment(w, p.a_registers, k, p.tf32)
                                 : read(w, matrix_of(w, p.a, p.a_transposed),
                                        static_cast<uint64_t>(w.index % 4) * 16, 16, k, p.tf32);
  const Source b = read(w, matrix_of(w, p.b, p.b_transposed), 0, n, k, p.tf32);
  for (int r = 0; r < p.n / 2; ++r) {
    uint32_t* d = row<uint32_t>(w, p.d[r]);
    auto& hidden = w.products->hidden[p.d[r].slot()];
    Mask ok = 0;
    for (int lane = 0; lane < LANES; ++lane) {
      const auto i = static_cast<uint64_t>(lane / 4 + r / 2 % 2 * 8),
                 j = static_cast<uint64_t>(r / 4 * 8 + lane % 4 * 2 + r % 2);
      float sum = p.accumulate ? float_of(d[lane]) : 0.f;
      for (uint64_t x = 0; x < k; ++x)
        sum += p.scale_a * a.values[i * k + x] * (p.scale_b * b.values[j * k + x]);
      d[lane] = bits_of(canonical(sum));
      if (a.known[i] && b.known[j] && (!p.accumulate || hidden.defined & BIT[lane])) ok |= BIT[lane];
    }
    hidden.defined = ok;
    if (--hidden.pending == 0) defined<uint32_t>(w, p.d[r]) = ok;
  }
  w.pc = at;
}

uint64_t uniform(Warp& w, Operand o) {
  const uint64_t* v = row<uint64_t>(w, o);
  if (w.active & ~defined<uint64_t>(w, o))
    w.undefined("a matrix descriptor", w.active & ~defined<uint64_t>(w, o));
  each(w.active, [&](int i) {
    if (v[i] != v[0]) w.fault(i, "a matrix descriptor differs among the lanes of a warp");
  });
  return v[0];
}

Products& products(Warp& w) {
  if (!w.products) w.products = std::make_unique<Products>();
  return *w.products;
}

// in.list: the sums, then A's registers (in.flags & 16); in.a, in.b descriptors; in.c whether to accumulate;
// in.target N.
void issue(Warp& w, const Instr& in) {
  if (!w.whole()) return;
  if (w.block.warps.size() < static_cast<size_t>(w.index / 4 * 4 + 4))
    w.fault(0, "wgmma in an incomplete warpgroup");
  Products& all = products(w);
  if (!all.fenced) w.fault(0, "wgmma without wgmma.fence before it");
  const Mask p = predicate(w, in.c);
  if (~predicate_defined(w, in.c)) w.undefined("whether to accumulate", ~predicate_defined(w, in.c));
  if (p != 0 && p != ALL) w.fault(0, "whether to accumulate differs among the lanes of a warp");
  const bool tf32 = in.bytes == 4, registers = in.flags & 16;
  const Product product{in.target,
                        tf32 ? 8 : 16,
                        tf32,
                        p != 0,
                        in.flags & 1 ? -1.f : 1.f,
                        in.flags & 2 ? -1.f : 1.f,
                        registers ? 0 : uniform(w, in.a),
                        uniform(w, in.b),
                        (in.flags & 4) != 0,
                        (in.flags & 8) != 0,
                        in.list,
                        registers ? in.list + in.target / 2 : nullptr,
                        w.pc};
  for (int r = 0; r < in.target / 2; ++r) {
    auto& hidden = all.hidden[in.list[r].slot()];
    Mask& known = defined<uint32_t>(w, in.list[r]);
    if (hidden.pending++ == 0) hidden.defined = known;
    known = 0;
  }
  w.note_undefined(0, "sums of a wgmma that has not been waited for");
  if (w.block.late() || !all.open.empty() || !all.closed.empty()) {
    all.open.push_back([product](Warp& warp) { multiply(warp, product); });
  } else {
    multiply(w, product);
  }
}

void fence(Warp& w, const Instr&) {
  if (w.whole()) products(w).fenced = true;
}
void commit(Warp& w, const Instr&) {
  if (!w.whole()) return;
  Products& all = products(w);
  all.closed.push_back(std::move(all.open));
  all.open.clear();
}
void wait(Warp& w, const Instr& in) {
  if (!w.whole()) return;
  Products& all = products(w);
  while (all.closed.size() > static_cast<size_t>(in.imm)) {
    for (const auto& product : all.closed.front()) product(w);
    all.closed.pop_front();
  }
  if (all.closed.empty() && all.open.empty()) all.fenced = false;  // the sums may be touched from now on
}

void decode_wgmma(Form& form, Instr& in) {
  form.uses_proxies();
  const std::string what = form.take_next();
  if (!form.take("sync") || !form.take("aligned")) form.unknown();
  if (what == "fence") in.run = fence;
  if (what == "commit_group") in.run = commit;
  if (what == "wait_group") {
    form.arguments(1);
    in.run = wait;
    in.imm = form.immediate(form.args[0]);
  }
  if (what != "mma_async") return;
  const std::string shape = form.take_next(), d = form.take_next(), a = form.take_next(),
                    b = form.take_next();
  const bool tf32 = a == "tf32", brain = a == "bf16";
  if (d != "f32" || a != b || (!tf32 && !brain) || shape.compare(0, 4, "m64n") != 0) form.unknown();
  const size_t k_at = shape.find('k');
  if (k_at == std::string::npos || shape.substr(k_at) != (tf32 ? "k8" : "k16")) form.unknown();
  const int n = std::atoi(shape.substr(4, k_at - 4).c_str());
  if (n < 8 || n > 256 || n % 8) form.unknown();
  const bool registers = form.args.size() > 1 && form.args[1].kind == Arg::kVector;
  form.arguments(tf32 ? 6 : registers ? 7 : 8);
  if (form.args[0].items.size() != static_cast<size_t>(n / 2))
    form.fail("takes " + std::to_string(n / 2) + " sums");
  if (registers && form.args[1].items.size() != 4) form.fail("takes four registers of A");
  std::vector<Operand> list;
  for (const Arg& item : form.args[0].items) list.push_back(form.destination(item, 32));
  for (size_t r = 0; registers && r < 4; ++r) list.push_back(form.source(form.args[1].items[r], 32));
  in.list = form.list(list);
  if (!registers) in.a = form.source(form.args[1], 64);
  in.b = form.source(form.args[2], 64);
  in.c = form.predicate(form.args[3]);
  in.target = n, in.bytes = tf32 ? 4 : 2;
  in.flags = (form.immediate(form.args[4]) == -1) | (form.immediate(form.args[5]) == -1) << 1;
  if (registers) in.flags |= 16;
  if (!tf32 && !registers) in.flags |= static_cast<uint32_t>((form.immediate(form.args[6]) == 1) << 2);
  if (!tf32) in.flags |= static_cast<uint32_t>((form.immediate(form.args.back()) == 1) << 3);
  in.run = issue;
}

}  // namespace

void add_products(std::map<std::string, Decode>& table) { table["wgmma"] = decode_wgmma; }

}  // namespace ptx
