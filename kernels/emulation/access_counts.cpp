// access_counts.cpp: traces of a block's threads, their replay as warps, and what the accesses cost; see
// access_counts.h
#ifdef PCN_COUNT
#include "emulation/access_counts.h"

#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "emulation/executor.h"

namespace pcn {
namespace emulation {
namespace counts {
namespace {

struct Event {
  uint64_t address;
  uint32_t node;  // the basic block
  uint32_t pc;    // relative to the module; 0: the block begins
  Kind kind;
  uint8_t bytes;
  bool shared;
};

struct Trace {
  std::vector<Event> events;
  size_t next = 0;               // to be replayed
  uint32_t stack = 0, node = 0;  // where the thread is
  uint32_t replayed = 0;         // the block the replay is in
};

// The calls that led somewhere.
struct Call {
  uint32_t parent, pc;
};

// A basic block under its calls, and the blocks that some thread went to from it.
struct Node {
  uint32_t stack, pc;
  std::vector<uint32_t> next;
};

constexpr unsigned LANES = 32, BANKS = 32, WORD = 4, SECTOR = 32, LINE = 128;

// ---- state: one launch at a time, on one OS thread ----------------------------------------------
bool on = false;
uint64_t blocks_wanted = 0;
bool recording = false;
std::vector<LaunchCounts> finished;
LaunchCounts current;
std::map<std::tuple<uint32_t, uint32_t, uint8_t, uint8_t, bool>, SiteCounts> sites;  // by node, pc, ...
std::vector<Trace> traces;
unsigned thread_count;
char *window_lo, *window_hi;
uintptr_t image_base;

std::vector<Call> calls;  // [0]: no call
std::unordered_map<uint64_t, uint32_t> call_index;

std::vector<Node> nodes;  // [0]: where every thread starts
std::unordered_map<uint64_t, uint32_t> node_index;
bool nodes_changed;
// The nodes in an order in which loops are in one piece, and every other way leads forward.
std::vector<uint32_t> rank;
std::vector<uint32_t> loop_end;  // of a loop's head: the rank of its last node; else 0

struct Range {
  const char *lo, *hi;
};
std::mutex ranges_mutex;
std::vector<Range>& registered = *new std::vector<Range>;
std::vector<Range> ranges;  // of this launch

uint32_t offset_of(const void* return_address) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(return_address) - image_base);
}

// ---- order of the replay ------------------------------------------------------------------------
// Bourdoncle's weak topological order of the graph of blocks ("Efficient chaotic iteration strategies with
// widenings", 1993).
struct Order {
  std::vector<uint32_t> number, stack;
  std::vector<uint32_t> reversed;                    // the order, last node first
  std::vector<std::pair<uint32_t, uint32_t>> loops;  // head, how many nodes `reversed` had before its loop
  uint32_t count = 0;
  static constexpr uint32_t DONE = ~0u;

  uint32_t visit(uint32_t v) {
    stack.push_back(v);
    uint32_t head = number[v] = ++count;
    const uint32_t own = head;
    bool loop = false;
    for (const uint32_t n : nodes[v].next) {
      const uint32_t least = number[n] == 0 ? visit(n) : number[n];
      if (least <= head) {
        head = least;
        loop = true;
      }
    }
    if (head != own) return head;
    number[v] = DONE;
    uint32_t top = stack.back();
    stack.pop_back();
    if (loop) {
      for (; top != v; stack.pop_back()) {
        number[top] = 0;
        top = stack.back();
      }
      loops.emplace_back(v, static_cast<uint32_t>(reversed.size()));
      for (const uint32_t n : nodes[v].next) {
        if (number[n] == 0) visit(n);
      }
    }
    reversed.push_back(v);
    return head;
  }
};

void order_nodes() {
  nodes_changed = false;
  Order order;
  order.number.assign(nodes.size(), 0);
  // On a stack of its own: a fiber's is small.
  std::thread([&order] { order.visit(0); }).join();
  const uint32_t last = static_cast<uint32_t>(order.reversed.size()) - 1;
  rank.assign(nodes.size(), last);
  loop_end.assign(nodes.size(), 0);
  for (uint32_t i = 0; i <= last; ++i) rank[order.reversed[i]] = last - i;
  for (const auto& loop : order.loops) loop_end[loop.first] = last - loop.second;
}

// Which of two events comes first in the program. A thread that goes back to the head of a loop comes after
// everything in the loop, so that it waits for those still on their way there.
struct Turn {
  uint32_t turn, inner, pc, kind;
  bool operator<(const Turn& o) const {
    return std::tie(turn, inner, pc, kind) < std::tie(o.turn, o.inner, o.pc, o.kind);
  }
  bool operator==(const Turn& o) const {
    return turn == o.turn && inner == o.inner && pc == o.pc && kind == o.kind;
  }
};
Turn turn_of(const Trace& t) {
  const Event& e = t.events[t.next];
  const uint32_t at = rank[e.node], from = rank[t.replayed];
  const bool back = e.kind == kBlock && loop_end[e.node] && from >= at && from <= loop_end[e.node];
  // Of loops that end together the inner one goes on first.
  return {back ? 2 * loop_end[e.node] + 1 : 2 * at, back ? ~at : 0, e.pc, e.kind};
}

// ---- what an access costs -----------------------------------------------------------------------
struct Lane {
  uint64_t address;
  unsigned lane, bytes;
};

unsigned distinct(uint64_t* values, unsigned n) {
  if (!std::is_sorted(values, values + n)) std::sort(values, values + n);
  return static_cast<unsigned>(std::unique(values, values + n) - values);
}

// Distinct aligned pieces of `unit` bytes that the lanes touch.
unsigned touched(const Lane* lanes, unsigned n, unsigned unit) {
  uint64_t pieces[2 * LANES];
  unsigned count = 0;
  for (unsigned i = 0; i < n; ++i) {
    const uint64_t first = lanes[i].address / unit, last = (lanes[i].address + lanes[i].bytes - 1) / unit;
    if (count == 0 || pieces[count - 1] != first) pieces[count++] = first;
    if (last != first) pieces[count++] = last;
  }
  return distinct(pieces, count);
}

unsigned distinct_bytes(Lane* lanes, unsigned n) {
  const auto by_address = [](const Lane& a, const Lane& b) { return a.address < b.address; };
  if (!std::is_sorted(lanes, lanes + n, by_address)) std::sort(lanes, lanes + n, by_address);
  uint64_t end = 0;
  unsigned bytes = 0;
  for (unsigned i = 0; i < n; ++i) {
    const uint64_t lo = std::max(lanes[i].address, end), hi = lanes[i].address + lanes[i].bytes;
    if (hi > lo) bytes += static_cast<unsigned>(hi - lo);
    end = std::max(end, hi);
  }
  return bytes;
}

// Passes over the banks: lanes are served 32, 16 or 8 at a time (4, 8 or 16 bytes each), and of each bank a
// pass reads one word, for whoever wants it.
unsigned passes_of(const Lane* lanes, unsigned n, unsigned per_pass, unsigned& ideal) {
  unsigned passes = 0;
  for (unsigned first = 0; first < LANES; first += per_pass) {
    uint64_t words[LANES * 2];
    unsigned count = 0;
    for (unsigned i = 0; i < n; ++i) {
      if (lanes[i].lane < first || lanes[i].lane >= first + per_pass) continue;
      for (uint64_t w = lanes[i].address / WORD; w <= (lanes[i].address + lanes[i].bytes - 1) / WORD; ++w) {
        if (count < sizeof words / sizeof *words) words[count++] = w;
      }
    }
    if (!count) continue;
    unsigned in_bank[BANKS] = {}, most = 0;
    uint64_t seen[BANKS][LANES * 2];
    for (unsigned i = 0; i < count; ++i) {
      const unsigned bank = static_cast<unsigned>(words[i] % BANKS);
      unsigned& held = in_bank[bank];
      if (std::find(seen[bank], seen[bank] + held, words[i]) != seen[bank] + held) continue;
      seen[bank][held++] = words[i];
      most = std::max(most, held);
    }
    passes += most;
    ++ideal;
  }
  return passes;
}

void charge(const Event& e, Lane* lanes, unsigned n) {
  SiteCounts& site = sites[{e.node, e.pc, e.kind, e.bytes, e.shared}];
  if (site.requests == 0) {
    site.shared = e.shared;
    site.kind = e.kind == kLoad ? 0 : e.kind == kStore ? 1 : 2;
    site.bytes = e.bytes;
    site.frames.push_back(e.pc);
    for (uint32_t s = nodes[e.node].stack; s; s = calls[s].parent) site.frames.push_back(calls[s].pc);
  }
  ++site.requests;
  site.lanes += n;
  unsigned cost, ideal = 0;
  if (e.shared) {
    cost = passes_of(lanes, n, e.bytes > 8 ? 8 : e.bytes > 4 ? 16 : 32, ideal);
  } else {
    cost = touched(lanes, n, SECTOR);
    site.lines += touched(lanes, n, LINE);
    const unsigned bytes = distinct_bytes(lanes, n);
    ideal = (bytes + SECTOR - 1) / SECTOR;
    site.ideal_lines += (bytes + LINE - 1) / LINE;
  }
  site.cost += cost;
  site.ideal += ideal;
  site.worst = std::max<uint64_t>(site.worst, cost - ideal);
}

// Lets the lanes that are furthest behind in the program go first, so that lanes that took different ways
// meet again where these join.
void replay(unsigned warp) {
  if (nodes_changed) order_nodes();
  const unsigned first = warp * LANES, count = std::min(LANES, thread_count - first);
  Turn turns[LANES];
  bool left[LANES];
  for (unsigned i = 0; i < count; ++i) {
    const Trace& t = traces[first + i];
    left[i] = t.next < t.events.size();
    if (left[i]) turns[i] = turn_of(t);
  }
  for (;;) {
    unsigned least = LANES;
    for (unsigned i = 0; i < count; ++i) {
      if (left[i] && (least == LANES || turns[i] < turns[least])) least = i;
    }
    if (least == LANES) break;
    const Turn turn = turns[least];
    const Event place = traces[first + least].events[traces[first + least].next];
    Lane lanes[LANES];
    unsigned n = 0;
    for (unsigned i = least; i < count; ++i) {
      if (!left[i] || !(turns[i] == turn)) continue;
      Trace& t = traces[first + i];
      const Event& e = t.events[t.next];
      // One instruction may reach shared memory in some lanes and global memory in others: two accesses.
      if (e.shared != place.shared || e.bytes != place.bytes) continue;
      if (e.kind == kBlock) {
        t.replayed = e.node;
      } else {
        lanes[n++] = {e.address, i, e.bytes};
      }
      left[i] = ++t.next < t.events.size();
      if (left[i]) turns[i] = turn_of(t);
    }
    if (n) charge(place, lanes, n);
  }
  for (unsigned i = 0; i < count; ++i) {
    traces[first + i].events.clear();
    traces[first + i].next = 0;
  }
}

// The thread goes on in another basic block.
void go_to(Trace& t, uint32_t pc) {
  for (const uint32_t n : nodes[t.node].next) {
    if (nodes[n].pc == pc && nodes[n].stack == t.stack) {
      t.node = n;
      t.events.push_back({0, n, 0, kBlock, 0, false});
      return;
    }
  }
  const uint64_t key = static_cast<uint64_t>(t.stack) << 32 | pc;
  const auto found = node_index.emplace(key, static_cast<uint32_t>(nodes.size()));
  if (found.second) nodes.push_back({t.stack, pc, {}});
  const uint32_t n = found.first->second;
  nodes[t.node].next.push_back(n);
  nodes_changed = true;
  t.node = n;
  t.events.push_back({0, n, 0, kBlock, 0, false});
}

Trace* running() {
  if (!recording || !worker || worker->current == &worker->main) return nullptr;
  return &traces[worker->current->context.index];
}

}  // namespace

// ---- what the compiler's calls report -----------------------------------------------------------
void access(const void* address, size_t bytes, Kind kind, const void* return_address) {
  Trace* t = running();
  if (!t) return;
  const char* p = static_cast<const char*>(address);
  const bool shared = p >= window_lo && p < window_hi;
  if (!shared) {
    auto it = std::upper_bound(ranges.begin(), ranges.end(), p,
                               [](const char* x, const Range& r) { return x < r.lo; });
    // Neither shared nor an array of the call: registers, arguments, constants.
    if (it == ranges.begin() || p >= (it - 1)->hi) return;
  }
  const uint64_t place = shared ? static_cast<uint64_t>(p - window_lo) : reinterpret_cast<uintptr_t>(p);
  for (size_t done = 0; done < bytes; done += 16) {  // the widest access there is
    t->events.push_back({place + done, t->node, offset_of(return_address), kind,
                         static_cast<uint8_t>(std::min<size_t>(16, bytes - done)), shared});
  }
}

void basic_block(const void* return_address) {
  if (Trace* t = running()) go_to(*t, offset_of(return_address));
}

void enter_function(const void* return_address) {
  Trace* t = running();
  if (!t) return;
  const uint32_t pc = offset_of(return_address);
  const uint64_t key = static_cast<uint64_t>(t->stack) << 32 | pc;
  auto it = call_index.find(key);
  if (it == call_index.end()) {
    it = call_index.emplace(key, static_cast<uint32_t>(calls.size())).first;
    calls.push_back({t->stack, pc});
  }
  t->stack = it->second;
}

void leave_function() {
  Trace* t = running();
  if (!t) return;
  const uint32_t pc = calls[t->stack].pc;
  t->stack = calls[t->stack].parent;
  go_to(*t, pc);  // behind the call a block goes on
}

// ---- launches and blocks ------------------------------------------------------------------------
bool enabled() { return on; }
uint64_t block_limit() { return on ? blocks_wanted : 0; }

void launch_begin(const void* kernel, const char* stem) {
  if (!on) return;
  if (!image_base) {
    Dl_info own;
    dladdr(reinterpret_cast<void*>(&launch_begin), &own);
    image_base = reinterpret_cast<uintptr_t>(own.dli_fbase);
  }
  {
    std::lock_guard<std::mutex> lock(ranges_mutex);
    ranges = registered;
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.lo < b.lo; });
  current = LaunchCounts{};
  current.stem = stem ? stem : "";
  current.kernel = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(kernel) - image_base);
  sites.clear();
  calls.assign(1, Call{0, 0});
  call_index.clear();
  nodes.assign(1, Node{0, 0, {}});
  node_index.clear();
  nodes_changed = true;
  recording = true;
}

void launch_end() {
  if (!recording) return;
  recording = false;
  for (auto& site : sites) current.sites.push_back(site.second);
  finished.push_back(current);
  traces.clear();
}

void block_begin(char* window, size_t window_bytes, unsigned threads) {
  if (!recording) return;
  const Grid& g = *worker->grid;
  current.grid[0] = g.grid.x, current.grid[1] = g.grid.y, current.grid[2] = g.grid.z;
  current.block[0] = g.block.x, current.block[1] = g.block.y, current.block[2] = g.block.z;
  current.dynamic_bytes = g.dynamic_bytes;
  window_lo = window;
  window_hi = window + window_bytes;
  thread_count = threads;
  traces.resize(std::max<size_t>(traces.size(), threads));
  for (Trace& t : traces) {
    t.events.clear();
    t.next = 0;
    t.stack = t.node = t.replayed = 0;
  }
}

void block_end() {
  if (!recording) return;
  block_point();
  size_t bytes = 0;
  for (const StaticObject& s : worker->statics) bytes += s.bytes;
  current.static_bytes = std::max(current.static_bytes, bytes);
}

void warp_point(unsigned warp) {
  if (recording) replay(warp);
}

void block_point() {
  if (!recording) return;
  for (unsigned warp = 0; warp * LANES < thread_count; ++warp) replay(warp);
}

// ---- ranges -------------------------------------------------------------------------------------
void register_range(const void* p, size_t bytes) {
  std::lock_guard<std::mutex> lock(ranges_mutex);
  registered.push_back({static_cast<const char*>(p), static_cast<const char*>(p) + bytes});
}
void unregister_range(const void* p) {
  std::lock_guard<std::mutex> lock(ranges_mutex);
  for (size_t i = registered.size(); i-- > 0;) {
    if (registered[i].lo != p) continue;
    registered.erase(registered.begin() + static_cast<ptrdiff_t>(i));
    return;
  }
}

}  // namespace counts

// ---- control.h ----------------------------------------------------------------------------------
void count_accesses(bool on, uint64_t blocks) {
  counts::on = on;
  counts::blocks_wanted = blocks;
  counts::finished.clear();
}
std::vector<LaunchCounts> take_access_counts() {
  std::vector<LaunchCounts> taken;
  taken.swap(counts::finished);
  return taken;
}

}  // namespace emulation
}  // namespace pcn
#else
#include <stdexcept>

#include "emulation/control.h"

namespace pcn {
namespace emulation {
void count_accesses(bool on, uint64_t) {
  if (on) {
    throw std::runtime_error(
        "this emulator does not count accesses: build it with -DPYCONVNET_EMULATOR_FLAVOUR=count");
  }
}
std::vector<LaunchCounts> take_access_counts() { return {}; }
}  // namespace emulation
}  // namespace pcn
#endif
