// liveness.cpp: rows of the register files, shared by registers that are never alive together
//
// nvcc's PTX gives every value a register of its own, thousands of them; in as many rows of 128 bytes they
// would not fit a cache. Writes are by lane, so lanes that are at different places do not disturb each
// other's rows. Registers that may be read before they are written keep a row to themselves, so that their
// being undefined is noticed.
#include <algorithm>
#include <set>

#include "decode.h"

namespace ptx {
namespace {

struct Uses {
  std::vector<int> read, written;
  bool kills = true;  // what is written is overwritten in all lanes that come here
};

void collect(const Arg& arg, std::vector<int>& out) {
  if (arg.reg >= 0) out.push_back(arg.reg);
  for (const Arg& item : arg.items) collect(item, out);
  if (arg.second) collect(*arg.second, out);
}

bool has_destination(const Statement& s) {
  static const std::set<std::string> without = {
      "st",    "red",     "bra",      "ret",   "exit",       "cp",        "fence",          "membar",  "trap",
      "brkpt", "pmevent", "prefetch", "wgmma", "setmaxnreg", "nanosleep", "griddepcontrol", "stmatrix"};
  if (s.op[0] == "bar" || s.op[0] == "barrier") return std::count(s.op.begin(), s.op.end(), "red") > 0;
  return !without.count(s.op[0]) && !s.args.empty() && s.args[0].kind != Arg::kAddress;
}

Uses uses_of(const Statement& s) {
  Uses u;
  const bool destination = has_destination(s);
  for (size_t i = 0; i < s.args.size(); ++i) collect(s.args[i], i == 0 && destination ? u.written : u.read);
  if (s.guard >= 0) {
    u.read.push_back(s.guard);
    u.kills = false;
    u.read.insert(u.read.end(), u.written.begin(), u.written.end());
  }
  return u;
}

class Bits {
 public:
  explicit Bits(size_t n = 0) : words_((n + 63) / 64) {}
  bool has(int i) const { return words_[static_cast<size_t>(i) / 64] >> (i % 64) & 1; }
  void add(int i) { words_[static_cast<size_t>(i) / 64] |= uint64_t{1} << (i % 64); }
  void remove(int i) { words_[static_cast<size_t>(i) / 64] &= ~(uint64_t{1} << (i % 64)); }
  bool add_all(const Bits& other, const Bits* but = nullptr) {
    bool grown = false;
    for (size_t w = 0; w < words_.size(); ++w) {
      const uint64_t more = words_[w] | (but ? other.words_[w] & ~but->words_[w] : other.words_[w]);
      grown |= more != words_[w];
      words_[w] = more;
    }
    return grown;
  }
  template <class F>
  void each(F f) const {
    for (size_t w = 0; w < words_.size(); ++w) {
      for (uint64_t m = words_[w]; m; m &= m - 1) f(static_cast<int>(w * 64) + __builtin_ctzll(m));
    }
  }

 private:
  std::vector<uint64_t> words_;
};

struct Part {  // statements without a jump in or out between
  int begin = 0, end = 0;
  std::vector<int> after;
  Bits in, out, read, killed;
};

bool jumps(const Statement& s) { return s.op[0] == "bra" || s.op[0] == "ret" || s.op[0] == "exit"; }

std::vector<Part> parts_of(const Function& f) {
  const int n = static_cast<int>(f.body.size());
  std::vector<char> leader(static_cast<size_t>(n) + 1);
  leader[0] = leader[static_cast<size_t>(n)] = 1;
  for (const auto& [name, at] : f.labels) leader[static_cast<size_t>(at)] = 1;
  for (int i = 0; i < n; ++i) {
    if (jumps(f.body[static_cast<size_t>(i)])) leader[static_cast<size_t>(i) + 1] = 1;
  }
  std::vector<Part> parts;
  std::vector<int> part_at(static_cast<size_t>(n) + 1, -1);
  for (int i = 0; i < n; ++i) {
    if (leader[static_cast<size_t>(i)]) parts.emplace_back(), parts.back().begin = i;
    parts.back().end = i + 1;
    part_at[static_cast<size_t>(i)] = static_cast<int>(parts.size()) - 1;
  }
  for (Part& p : parts) {
    const Statement& last = f.body[static_cast<size_t>(p.end) - 1];
    if (last.op[0] == "bra" && !last.args.empty()) {
      const auto label = f.labels.find(last.args[0].name);
      if (label != f.labels.end() && label->second < n)
        p.after.push_back(part_at[static_cast<size_t>(label->second)]);
    }
    if ((!jumps(last) || last.guard >= 0) && p.end < n)
      p.after.push_back(part_at[static_cast<size_t>(p.end)]);
  }
  return parts;
}

struct Interval {
  int reg, begin, end;
};

}  // namespace

void check_fences(const Text& text, const Function& f) {
  std::vector<char> label(f.body.size() + 1);
  for (const auto& [name, at] : f.labels) label[static_cast<size_t>(at)] = 1;
  bool fenced = false;
  std::set<int> written;  // since
  for (size_t i = 0; i < f.body.size(); ++i) {
    const Statement& s = f.body[i];
    if (label[i]) fenced = false;
    if (s.op[0] != "wgmma" || s.op.size() < 2) {
      for (int r : uses_of(s).written) written.insert(r);
      continue;
    }
    if (s.op[1] == "fence") fenced = true, written.clear();
    if (s.op[1] != "mma_async" || !fenced) continue;
    std::vector<int> registers;
    for (size_t a = 0; a < s.args.size() && a < 2; ++a) {
      if (s.args[a].kind == Arg::kVector) collect(s.args[a], registers);
    }
    for (int r : registers) {
      if (!written.count(r)) continue;
      fail_at(text, s.line,
              "a register of wgmma, " + f.registers[static_cast<size_t>(r)].name +
                  ", is written between wgmma.fence and it");
    }
  }
}

Rows allocate_rows(const Text&, const Function& f) {
  const size_t n = f.registers.size();
  std::vector<Uses> uses;
  for (const Statement& s : f.body) uses.push_back(uses_of(s));
  std::vector<Part> parts = parts_of(f);
  for (Part& p : parts) {
    p.in = p.out = p.read = p.killed = Bits(n);
    for (int i = p.begin; i < p.end; ++i) {
      const Uses& u = uses[static_cast<size_t>(i)];
      for (int r : u.read) {
        if (!p.killed.has(r)) p.read.add(r);
      }
      for (int r : u.written) {
        if (u.kills) p.killed.add(r);
      }
    }
    p.in = p.read;
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (auto p = parts.rbegin(); p != parts.rend(); ++p) {
      for (int after : p->after) p->out.add_all(parts[static_cast<size_t>(after)].in);
      changed |= p->in.add_all(p->out, &p->killed);
    }
  }
  // The stretch over which each is alive; reads of statement i at 2i, writes at 2i + 1.
  std::vector<Interval> intervals(n);
  for (size_t r = 0; r < n; ++r) intervals[r] = {static_cast<int>(r), -1, -1};
  const auto touch = [&](int r, int at) {
    Interval& v = intervals[static_cast<size_t>(r)];
    v.begin = v.begin < 0 ? at : std::min(v.begin, at);
    v.end = std::max(v.end, at);
  };
  for (const Part& p : parts) {
    p.in.each([&](int r) { touch(r, 2 * p.begin); });
    p.out.each([&](int r) { touch(r, 2 * p.end - 1); });
    for (int i = p.begin; i < p.end; ++i) {
      for (int r : uses[static_cast<size_t>(i)].read) touch(r, 2 * i);
      for (int r : uses[static_cast<size_t>(i)].written) touch(r, 2 * i + 1);
    }
  }
  Bits alone(n);
  if (!parts.empty()) alone.add_all(parts[0].in);
  for (const Statement& s : f.body) {  // written when they are waited for
    if (s.op[0] != "wgmma") continue;
    std::vector<int> regs;
    for (const Arg& arg : s.args) collect(arg, regs);
    for (int r : regs) alone.add(r);
  }
  std::sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.reg < b.reg;
  });
  Rows rows;
  rows.of.assign(n, 0);
  std::vector<uint32_t> free[3];
  std::multimap<int, Interval> alive;  // by their end
  for (const Interval& v : intervals) {
    if (v.begin < 0) continue;
    while (!alive.empty() && alive.begin()->first < v.begin) {
      const int r = alive.begin()->second.reg;
      free[static_cast<int>(f.registers[static_cast<size_t>(r)].kind)].push_back(
          rows.of[static_cast<size_t>(r)]);
      alive.erase(alive.begin());
    }
    const int kind = static_cast<int>(f.registers[static_cast<size_t>(v.reg)].kind);
    if (!alone.has(v.reg) && !free[kind].empty()) {
      rows.of[static_cast<size_t>(v.reg)] = free[kind].back();
      free[kind].pop_back();
    } else {
      rows.of[static_cast<size_t>(v.reg)] = rows.count[kind]++;
    }
    if (!alone.has(v.reg)) alive.emplace(v.end, v);
  }
  return rows;
}

}  // namespace ptx
