// racecheck_clocks.cpp: vector clocks
//
// Between full barriers a thread's knowledge of the others is a row of clocks, made only when it takes part
// in a partial synchronisation (warp, named barrier, mbarrier); a full barrier raises one common floor
// instead. Blocks learn of one another in one way only: write, __threadfence, atomic on one side; atomic on
// the same word, __threadfence, read on the other.
#ifdef PCN_RACECHECK
#include "emulation/racecheck_clocks.h"

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "emulation/racecheck.h"

namespace pcn {
namespace emulation {
namespace racecheck {
namespace {

// ---- state --------------------------------------------------------------------------------------
unsigned threads;
uint32_t block;  // 1 + index
Clock floor_clock;
std::vector<Clock> own;                // [threads]
std::vector<std::vector<Clock>> rows;  // [threads][threads], valid if ...
std::vector<uint64_t> row_version;     // ... made since the last full barrier
uint64_t version = 1;
std::vector<Clock> agent_row;  // what the copy engine knows; it takes part in no barrier
Clock agent_clock;
std::vector<Clock> knows_agent;  // [threads]
struct Knowledge {
  std::vector<Clock> of_threads;
  Clock of_agent = 0;
};
std::unordered_map<const void*, Knowledge> objects;  // mbarriers
Knowledge to_agent;
struct NamedBarrier {
  Knowledge gathered;
  std::vector<unsigned> waiting;
};
NamedBarrier named[16];
// What is known of other blocks: by block, its threads' clocks.
typedef std::unordered_map<uint32_t, std::shared_ptr<const std::vector<Clock>>> Blocks;
struct Event {  // of this block; a thread that knows `thread` up to `clock` profits from it
  unsigned thread;
  Clock clock;
  Blocks blocks;
};
std::vector<Event> fences;                      // __threadfence: what it covers, and what it acquired
std::vector<Event> observed;                    // atomics: what was published at that word
std::unordered_map<const void*, Blocks> words;  // by address: what atomics published there
std::vector<uint32_t> proxy_fences;             // [threads]
bool agent_active;

// ---- order --------------------------------------------------------------------------------------
Clock knows(unsigned t, unsigned of) {
  if (t == of) return own[t];
  const Clock partial = row_version[t] == version ? rows[t][of] : 0;
  return std::max(partial, floor_clock);
}
std::vector<Clock>& row(unsigned t) {
  if (row_version[t] != version) {
    rows[t].assign(threads, floor_clock);
    row_version[t] = version;
  }
  return rows[t];
}
void raise(std::vector<Clock>& a, const std::vector<Clock>& b) {
  if (a.size() < b.size()) a.resize(b.size(), 0);
  for (size_t i = 0; i < b.size(); ++i) a[i] = std::max(a[i], b[i]);
}
// Adds what thread t knows, itself included, and starts a new period of t.
void publish(Knowledge& k, unsigned t) {
  k.of_threads.resize(threads, 0);
  for (unsigned u = 0; u < threads; ++u) k.of_threads[u] = std::max(k.of_threads[u], knows(t, u));
  k.of_agent = std::max(k.of_agent, knows_agent[t]);
  ++own[t];
}
void learn(unsigned t, const Knowledge& k) {
  std::vector<Clock>& r = row(t);
  raise(r, k.of_threads);
  knows_agent[t] = std::max(knows_agent[t], k.of_agent);
}

void merge(Blocks& a, const Blocks& b) {
  for (const auto& entry : b) {
    auto& mine = a[entry.first];
    if (mine == entry.second) continue;
    if (!mine) {
      mine = entry.second;
    } else {
      std::vector<Clock> both = *mine;
      raise(both, *entry.second);
      mine = std::make_shared<const std::vector<Clock>>(std::move(both));
    }
  }
}
Blocks gather(const std::vector<Event>& events, unsigned t) {
  Blocks all;
  for (const Event& e : events) {
    if (knows(t, e.thread) >= e.clock) merge(all, e.blocks);
  }
  return all;
}

}  // namespace

bool ordered(const Epoch& e, unsigned actor_now) {
  if (!e.clock) return true;
  if (e.block != block) {
    if (actor_now == threads) return true;  // the copy engine acts for a thread; its blocks are not tracked
    for (const Event& f : fences) {
      if (knows(actor_now, f.thread) < f.clock) continue;
      const auto it = f.blocks.find(e.block);
      if (it != f.blocks.end() && e.thread < it->second->size() && (*it->second)[e.thread] >= e.clock)
        return true;
    }
    return false;
  }
  if (actor_now == threads) return e.thread == threads || agent_row[e.thread] >= e.clock;
  if (e.thread == threads) return knows_agent[actor_now] >= e.clock;
  return knows(actor_now, e.thread) >= e.clock;
}

Epoch epoch_of(unsigned actor, uint32_t pc, bool atomic) {
  return {block, agent_active ? agent_clock : own[actor], pc, static_cast<uint16_t>(actor), atomic};
}
unsigned agent() { return threads; }
bool agent_acts() { return agent_active; }
uint32_t proxy_fences_of(unsigned t) { return proxy_fences[t]; }

void clocks_launch_begin() {
  floor_clock = 0;
  agent_clock = 1;
  own.clear();
  words.clear();
  agent_active = false;
}

void clocks_block_begin(unsigned count, uint64_t index) {
  block = static_cast<uint32_t>(index) + 1;
  threads = count;
  Clock latest = floor_clock;
  for (Clock c : own) latest = std::max(latest, c);
  floor_clock = latest;
  own.assign(threads, latest + 1);
  if (rows.size() < threads) rows.resize(threads);
  row_version.assign(threads, 0);
  ++version;
  agent_row.assign(threads, 0);
  knows_agent.assign(threads, 0);
  objects.clear();
  to_agent = Knowledge{};
  for (NamedBarrier& b : named) b = NamedBarrier{};
  fences.clear();
  observed.clear();
  proxy_fences.assign(threads, 0);
  agent_active = false;
}

// ---- synchronisation ----------------------------------------------------------------------------
void full_barrier() {
  Clock latest = floor_clock, agent = 0;
  for (Clock c : own) latest = std::max(latest, c);
  for (Clock c : knows_agent) agent = std::max(agent, c);
  floor_clock = latest;
  std::fill(own.begin(), own.end(), latest + 1);
  std::fill(knows_agent.begin(), knows_agent.end(), agent);
  ++version;
}

void named_barrier_arrive(int id, unsigned t, bool waits) {
  publish(named[id].gathered, t);
  if (waits) named[id].waiting.push_back(t);
}
void named_barrier_complete(int id) {
  for (unsigned t : named[id].waiting) learn(t, named[id].gathered);
  named[id] = NamedBarrier{};
}

void warp_sync(unsigned warp, unsigned mask) {
  Knowledge k;
  for (unsigned m = mask; m; m &= m - 1) publish(k, warp * 32 + static_cast<unsigned>(__builtin_ctz(m)));
  for (unsigned m = mask; m; m &= m - 1) learn(warp * 32 + static_cast<unsigned>(__builtin_ctz(m)), k);
}

void release(const void* object, unsigned t) { publish(objects[object], t); }
void acquire(const void* object, unsigned t) {
  const auto it = objects.find(object);
  if (it != objects.end()) learn(t, it->second);
}

void release_to_agent(unsigned t) { publish(to_agent, t); }
void agent_begin() {
  agent_active = true;
  raise(agent_row, to_agent.of_threads);
}
void agent_end(const void* barrier) {
  Knowledge& k = objects[barrier];
  raise(k.of_threads, agent_row);
  k.of_agent = std::max(k.of_agent, agent_clock);
  ++agent_clock;
  agent_active = false;
}

void fence(unsigned t) {
  Event event{t, 0, gather(observed, t)};
  std::vector<Clock> covered(threads);
  for (unsigned u = 0; u < threads; ++u) covered[u] = knows(t, u);
  event.blocks[block] = std::make_shared<const std::vector<Clock>>(std::move(covered));
  event.clock = ++own[t];
  fences.push_back(std::move(event));
}
void proxy_fence(unsigned t) { ++proxy_fences[t]; }

// An atomic on a global word passes on what its thread has fenced, and shows it what others passed on.
void atomic_on_global(const void* p, bool write, unsigned t) {
  const auto there = words.find(p);
  if (there != words.end()) observed.push_back({t, ++own[t], there->second});
  if (!write || fences.empty()) return;
  Blocks passed_on = gather(fences, t);
  if (passed_on.empty()) return;
  if (const auto& mine = passed_on[block]) {  // the atomic itself too
    std::vector<Clock> clocks = *mine;
    clocks[t] = own[t];
    passed_on[block] = std::make_shared<const std::vector<Clock>>(std::move(clocks));
    ++own[t];
  }
  merge(words[p], passed_on);
}

}  // namespace racecheck
}  // namespace emulation
}  // namespace pcn
#endif
