// block.cpp: a block's memory, its barriers, and whose turn it is
#include <algorithm>

#include "bulk.h"
#include "machine.h"

namespace ptx {

Block::Block(const Code& c, const Launch& l, const Options& o, const std::vector<Extent>& g)
    : code(c), launch(l), options(o), global(g), async(std::make_unique<AsyncState>()) {
  const size_t bytes = code.dynamic_begin - SHARED_BASE + launch.dynamic_shared;
  shared_bytes.resize(bytes + 64);
  shared_shadow.resize(bytes + 64);
  const auto place = [](std::vector<uint8_t>& v, uint64_t begin) {
    return static_cast<intptr_t>(reinterpret_cast<uintptr_t>(v.data()) - begin);
  };
  const auto object = [&](uint64_t begin, uint64_t size, const std::string& name) {
    if (size)
      shared.push_back({begin, begin + size, place(shared_bytes, SHARED_BASE),
                        place(shared_shadow, SHARED_BASE), 0, true, true, name.c_str()});
  };
  for (const auto& s : code.shared) {
    if (!s.dynamic) object(s.address, s.bytes, s.name);
  }
  static const std::string dynamic = "dynamic shared memory";
  object(code.dynamic_begin, launch.dynamic_shared, dynamic);
  if (launch.param_bytes) {
    auto* data = static_cast<const uint8_t*>(launch.params);
    param.push_back(
        {0, launch.param_bytes, reinterpret_cast<intptr_t>(data), 0, 0, false, false, "the parameters"});
  }
  const Dim3& n = launch.block;
  const auto threads = static_cast<int>(n.count());
  const int count = (threads + LANES - 1) / LANES;
  for (auto& t : tid) t.resize(static_cast<size_t>(count) * LANES);
  for (uint32_t t = 0; t < n.count(); ++t) {
    tid[0][t] = t % n.x, tid[1][t] = t / n.x % n.y, tid[2][t] = t / n.x / n.y;
  }
  for (int i = 0; i < count; ++i) {
    const int left = threads - i * LANES;
    warps.push_back(std::make_unique<Warp>(*this, i, left >= LANES ? ALL : BIT[left] - 1));
  }
  if (code.local_bytes) {
    local.push_back(
        {LOCAL_BASE, LOCAL_BASE + code.local_bytes, 0, 0, code.local_bytes, true, true, "local memory"});
    local_bytes.assign(warps.size(), std::vector<uint8_t>(code.local_bytes * LANES));
    local_shadow = local_bytes;
  }
  cache.resize(2 * code.instrs.size());
}
Block::~Block() = default;

const Extent* Block::find(const std::vector<Extent>& extents, uint64_t address) const {
  auto e = std::upper_bound(extents.begin(), extents.end(), address,
                            [](uint64_t a, const Extent& extent) { return a < extent.begin; });
  if (e == extents.begin() || address >= (--e)->end) return nullptr;
  return &*e;
}

bool Block::late() {
  return options.async == Async::kLate || (options.async == Async::kRandom && random() % 2);
}

void Block::written(Warp& warp, int lane, uint8_t* shadow, size_t bytes) {
  if (shadow >= shared_shadow.data() && shadow < shared_shadow.data() + shared_shadow.size()) {
    warp.unfenced.push_back({shadow, bytes, lane});
  }
}

void Block::run(uint64_t which) {
  number = which;
  ctaid[0] = static_cast<uint32_t>(which % launch.grid.x);
  ctaid[1] = static_cast<uint32_t>(which / launch.grid.x % launch.grid.y);
  ctaid[2] = static_cast<uint32_t>(which / launch.grid.x / launch.grid.y);
  random.seed(options.seed * 0x9e3779b97f4a7c15u + which);
  std::fill(shared_bytes.begin(), shared_bytes.end(), uint8_t{0xff});
  std::fill(shared_shadow.begin(), shared_shadow.end(), UNDEFINED);
  for (auto& s : local_shadow) std::fill(s.begin(), s.end(), UNDEFINED);
  for (auto& b : barriers) b = NamedBarrier{};
  async->reset();
  for (auto& w : warps) w->reset();
  std::vector<int> order(warps.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  if (options.order == Order::kReverse) std::reverse(order.begin(), order.end());
  for (bool alive = true; alive;) {
    alive = false;
    const uint64_t before = events;
    if (options.order == Order::kRandom) std::shuffle(order.begin(), order.end(), random);
    for (const int i : order) {
      Warp& w = *warps[static_cast<size_t>(i)];
      if (w.state == Warp::kReady || w.state == Warp::kPolling) {
        const bool polling = w.state == Warp::kPolling;
        w.run();
        events += !polling || w.state != Warp::kPolling;
      }
      alive |= w.state != Warp::kDone;
    }
    if (alive && events == before && !async->land(*this)) stuck();
    if (options.async == Async::kRandom && random() % 4 == 0) async->land(*this);
  }
  check_end();
  for (const auto& w : warps) {
    stats.warp_instructions += w->executed;
    stats.lane_instructions += w->executed_lanes;
  }
  ++stats.blocks;
}

// What a block may not leave behind.
void Block::check_end() {
  for (const auto& [thread, groups] : async->stores) {
    if (groups.open.empty() && groups.closed.empty()) continue;
    Warp& w = *warps[static_cast<size_t>(thread / LANES)];
    w.pc = static_cast<int>(code.instrs.size()) - 1;
    w.fault(thread % LANES, "ends while its bulk stores may still read shared memory");
  }
  if (!async->loads.empty()) {
    warps[0]->pc = static_cast<int>(code.instrs.size()) - 1;
    warps[0]->fault(0, "the block ends while bulk copies into its shared memory are under way");
  }
}

void Block::stuck() {
  std::string where;
  Warp* one = nullptr;
  for (const auto& w : warps) {
    if (w->state == Warp::kDone) {
      where += " warp " + std::to_string(w->index) + " has ended;";
      continue;
    }
    one = w.get();
    const int at =
        w->state == Warp::kBarrier || w->groups.empty() ? w->pc - !w->resumed : w->groups[0].pc - 1;
    where += " warp " + std::to_string(w->index) +
             (w->state == Warp::kBarrier ? " waits in barrier " + std::to_string(w->barrier)
                                         : std::string(" tests in vain")) +
             " at line " + std::to_string(code.instrs[static_cast<size_t>(std::max(at, 0))].line) + ";";
    w->pc = std::max(at, 0);
  }
  one->fault(first(one->lanes), "deadlock:" + where);
}

void Block::arrive(Warp& w, int64_t id, int64_t threads, bool wait, bool again, int trues) {
  const int lane = first(w.active);
  if (id < 0 || id > 15) w.fault(lane, "barrier " + std::to_string(id) + ": there are 0 to 15");
  const auto all = static_cast<int64_t>(warps.size()) * LANES;
  if (threads == 0 && !wait) w.fault(lane, "bar.arrive without a number of threads");
  if (threads == 0) threads = all;
  if (threads % LANES || threads > all) {
    w.fault(lane, "barrier of " + std::to_string(threads) +
                      " threads: no multiple of 32, or more than the block has");
  }
  NamedBarrier& b = barriers[id];
  if (b.arrived && b.expected != threads) {
    w.fault(lane, "barrier " + std::to_string(id) + " of " + std::to_string(threads) +
                      " threads, where others said " + std::to_string(b.expected));
  }
  b.expected = static_cast<int>(threads);
  b.arrived += LANES;
  b.true_now += trues;
  ++events;
  if (wait) {
    b.waiting.push_back(w.index);
    w.barrier = static_cast<int>(id);
    w.wait(again);
  }
  if (b.arrived < b.expected) return;
  for (const int i : b.waiting) warps[static_cast<size_t>(i)]->state = Warp::kReady;
  b.waiting.clear();
  b.arrived = 0;
  b.true_then = b.true_now, b.true_now = 0;
  b.threads_then = 0;
  for (const auto& one : warps) b.threads_then += popcount(one->lanes);
}

}  // namespace ptx
