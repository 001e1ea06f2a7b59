// warp.cpp: a warp's control: groups of lanes that are at one place, the one furthest behind first
#include <climits>

#include "bulk.h"
#include "machine.h"
#include "products.h"

namespace ptx {

Warp::Warp(Block& b, int i, Mask all) : lanes(all), block(b), code(b.code), index(i) {
  // A row more of each for `_`.
  word_file_.resize((size_t{code.words} + 1) * LANES);
  double_file_.resize((size_t{code.doubles} + 1) * LANES);
  masks_.resize(size_t{code.words} + code.doubles + 2 * size_t{code.predicates} + 4);
  auto& c = const_cast<Code&>(code);  // never written
  words[0] = word_file_.data(), words[1] = c.word_constants.data();
  doubles[0] = double_file_.data(), doubles[1] = c.double_constants.data();
  Mask* m = masks_.data();
  word_defined[0] = m, m += code.words + 1;
  double_defined[0] = m, m += code.doubles + 1;
  predicates[0] = m, m += code.predicates + 1;
  predicate_defined[0] = m;
  predicates[1] = c.predicate_constants;
  word_defined[1] = double_defined[1] = predicate_defined[1] = c.defined.data();
  open_group.resize(LANES);
}
Warp::~Warp() = default;

void Warp::reset() {
  std::fill(masks_.begin(), masks_.end(), 0);
  std::fill(open_group.begin(), open_group.end(), 0);
  copies.clear();
  products.reset();
  unfenced.clear();
  groups.clear();
  mask = lanes;
  exited = 0;
  pc = 0;
  state = kReady;
  resumed = false;
  executed = executed_lanes = 0;
  undefined_line_ = 0;
}

void Warp::run() {
  if (block.local.size()) {
    auto& e = block.local[0];
    e.data = reinterpret_cast<intptr_t>(block.local_bytes[index].data()) - static_cast<intptr_t>(LOCAL_BASE);
    e.shadow =
        reinterpret_cast<intptr_t>(block.local_shadow[index].data()) - static_cast<intptr_t>(LOCAL_BASE);
  }
  const Instr* const instrs = code.instrs.data();
  state = kReady;
  for (Group& g : groups) g.failed = false;
  regroup();
  while (state == kReady) {
    do {
      const Instr& in = instrs[pc];
      next = pc + 1;
      active = mask;
      if (in.guard >= 0) {
        const Mask lacking = mask & ~predicate_defined[0][in.guard];
        if (lacking) undefined("a predicate that decides whether to execute", lacking);
        active = mask & (in.guard_negated ? ~predicates[0][in.guard] : predicates[0][in.guard]);
      }
      ++executed;
      executed_lanes += static_cast<uint64_t>(popcount(active));
      if (active) in.run(*this, in);
      pc = next;
    } while (pc < stop);
    if (state == kReady) regroup();
  }
}

// Merges groups at one place and goes on with the one at the lowest.
void Warp::regroup() {
  if (mask) groups.push_back({pc, mask, false, false});
  for (size_t i = 0; i < groups.size(); ++i) {
    for (size_t j = i + 1; j < groups.size();) {
      if (groups[j].pc != groups[i].pc) {
        ++j;
        continue;
      }
      groups[i].mask |= groups[j].mask;
      groups[i].waits = false;
      groups[i].failed &= groups[j].failed;
      groups.erase(groups.begin() + static_cast<ptrdiff_t>(j));
    }
  }
  mask = 0;
  stop = INT_MAX;
  if (groups.empty()) {
    state = kDone;
    return;
  }
  int best = -1;
  bool failed = false;
  for (size_t i = 0; i < groups.size(); ++i) {
    const Group& g = groups[i];
    failed |= g.failed;
    if (!g.waits && !g.failed && (best < 0 || g.pc < groups[static_cast<size_t>(best)].pc))
      best = static_cast<int>(i);
  }
  if (best < 0 && failed) {
    state = kPolling;
    return;
  }
  if (best < 0) {
    pc = groups[0].pc;
    std::string where;
    for (size_t i = 1; i < groups.size(); ++i) {
      where += (i > 1 ? ", " : "; others of its warp wait at line ") +
               std::to_string(code.instrs[static_cast<size_t>(groups[i].pc)].line);
    }
    fault(first(groups[0].mask), "the lanes that have to be here together never are" + where);
  }
  pc = groups[static_cast<size_t>(best)].pc;
  mask = groups[static_cast<size_t>(best)].mask;
  groups.erase(groups.begin() + best);
  for (const Group& g : groups) {
    if (g.pc > pc) stop = std::min(stop, g.pc);
  }
}

void Warp::jump(int target) {
  if (target <= pc) {
    if (block.cancelled && block.cancelled->load(std::memory_order_relaxed)) throw Fault("");
    if (block.options.max_instructions && executed > block.options.max_instructions) {
      fault(first(active), "more than " + std::to_string(block.options.max_instructions) +
                               " instructions: a loop without end?");
    }
  }
  if (active == mask) {
    next = target;
    if (target <= pc && !groups.empty()) stop = 0;  // others may stand in between
    return;
  }
  groups.push_back({target, active, false, false});
  mask &= ~active;
  stop = 0;
}

void Warp::leave(Mask who) {
  exited |= who;
  mask &= ~who;
  if (!mask) stop = 0;
}

bool Warp::together(Mask needed) {
  if ((active & needed) == needed) return true;
  const Mask gone = needed & ~lanes;
  const Mask ended = needed & exited;
  if (gone || ended) {
    fault(first(active),
          std::string("names lanes that ") + (gone ? "the block does not have" : "have ended"));
  }
  if (needed & mask & ~active)
    fault(first(active), "lanes that have to be here together are kept out by the predicate");
  groups.push_back({pc, mask, true, false});
  mask = 0;
  stop = 0;
  return false;
}
bool Warp::whole() {
  if (exited) fault(first(active), "lanes of the warp have ended, all must be here");
  return together(lanes);
}

void Warp::poll() {
  groups.push_back({next, mask, false, true});
  mask = 0;
  stop = 0;
}
void Warp::wait(bool again) {
  state = kBarrier;
  if (again) next = pc, resumed = true;
  stop = 0;
}

void Warp::fault(int lane, const std::string& what) const {
  const Instr& in = code.instrs[static_cast<size_t>(pc)];
  const auto three = [](uint64_t x, uint64_t y, uint64_t z) {
    return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
  };
  const size_t t = static_cast<size_t>(index) * LANES + static_cast<size_t>(lane);
  const std::string& source = code.text->lines[static_cast<size_t>(in.line) - 1];
  const size_t begin = source.find_first_not_of(" \t");
  throw Fault("kernel " + code.function->info.name + ", " + code.text->name + ":" + std::to_string(in.line) +
              " [" + (begin == std::string::npos ? "" : source.substr(begin)) + "], block " +
              three(block.ctaid[0], block.ctaid[1], block.ctaid[2]) + ", thread " +
              three(block.tid[0][t], block.tid[1][t], block.tid[2][t]) + ": " + what);
}
void Warp::undefined(const char* what, Mask lacking) const {
  std::string text = std::string(what) + " is undefined";
  if (undefined_line_) {
    text += "; the last undefined value came from line " + std::to_string(undefined_line_) + ": " +
            undefined_what_;
  }
  fault(first(lacking), text);
}
void Warp::note_undefined(int lane, const std::string& what) {
  undefined_line_ = code.instrs[static_cast<size_t>(pc)].line;
  undefined_what_ = "lane " + std::to_string(lane) + ", " + what;
}

}  // namespace ptx
