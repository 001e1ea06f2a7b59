// racecheck.cpp: shadow memory of the race flavour; see racecheck.h
//
// Each word of the shared window and of the arrays of the call remembers its last writer and two of its
// readers since; racecheck_clocks.cpp says whether those happened before the access at hand.
#ifdef PCN_RACECHECK
#include "emulation/racecheck.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "emulation/executor.h"
#include "emulation/racecheck_clocks.h"

namespace pcn {
namespace emulation {
namespace racecheck {
namespace {

enum State : uint8_t { kUnallocated, kUninitialised, kInitialised };
struct Cell {
  Epoch written, read[2];
  uint32_t fences;  // the writer's count of proxy fences plus one; 0: not written by the generic proxy
  uint8_t state;
};

// One cell per four bytes; per byte once somebody accesses less than a whole word.
struct Shadow {
  char *lo = nullptr, *hi = nullptr;
  int shift = 2;
  Cell* cells = nullptr;

  size_t count() const { return (static_cast<size_t>(hi - lo) + (size_t{1} << shift) - 1) >> shift; }
  void open(char* from, char* to) {
    lo = from;
    hi = to;
    shift = 2;
    cells = static_cast<Cell*>(calloc(count() + 1, sizeof(Cell)));
  }
  void close() {
    free(cells);
    cells = nullptr;
  }
  void refine() {
    const size_t words = count();
    Cell* coarse = cells;
    shift = 0;
    cells = static_cast<Cell*>(calloc(count() + 4, sizeof(Cell)));
    for (size_t i = 0; i < count(); ++i) cells[i] = coarse[std::min(i / 4, words - 1)];
    free(coarse);
  }
};

struct Range {
  char *lo, *hi;
  bool writable;
  int references;
};

// ---- state --------------------------------------------------------------------------------------
std::mutex ranges_mutex;
std::vector<Range>& registered = *new std::vector<Range>;
[[maybe_unused]] const int fork_handlers =
    pthread_atfork([] { ranges_mutex.lock(); }, [] { ranges_mutex.unlock(); }, [] { ranges_mutex.unlock(); });

std::vector<Range> ranges;  // of this launch
std::vector<Shadow> segments;
Shadow* last_segment;
const char *closure_lo, *closure_hi;
std::vector<std::pair<const char*, const char*>> image;  // the module's own code and data
uintptr_t image_base;

Shadow window;
std::vector<std::pair<size_t, size_t>> allocated;  // parts of the window that this block uses

unsigned race_count;
std::set<std::pair<uint32_t, uint32_t>> reported;
std::vector<std::string> reports;
constexpr size_t MAX_REPORTS = 10;

// ---- reports ------------------------------------------------------------------------------------
// "file.cu:12" where addr2line is at hand, else the offset in the module.
std::string where(uint32_t pc) {
  if (pc == 0) return "an asynchronous or matrix instruction";
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(image_base + pc), &info) || !info.dli_fname) return "?";
  char command[1200];
  const unsigned long address = pc - 1ul;
  snprintf(command, sizeof command, "addr2line -s -i -e '%s' 0x%lx 2>/dev/null", info.dli_fname, address);
  std::string found;
  if (FILE* pipe = popen(command, "r")) {
    char line[512];
    while (fgets(line, sizeof line, pipe)) {
      std::string text(line);
      while (!text.empty() && text.back() == '\n') text.pop_back();
      const size_t note = text.find(" (");
      if (note != std::string::npos) text.resize(note);
      if (text.empty() || text[0] == '?') continue;
      if (found.empty() || text.find(".cu") != std::string::npos) {
        found += (found.empty() ? "" : " < ") + text;
        if (text.find(".cu") != std::string::npos) break;
      }
    }
    pclose(pipe);
  }
  if (!found.empty()) return found;
  snprintf(command, sizeof command, "%s+0x%lx", info.dli_fname, address);
  return command;
}

std::string actor(const Epoch& e) {
  std::string who = "block " + std::to_string(e.block - 1);
  who += e.thread == agent() ? " copy engine" : " thread " + std::to_string(e.thread);
  return who;
}

void report(const char* kind, const Epoch& before, const Epoch& now, const void* p) {
  ++race_count;
  if (reports.size() >= MAX_REPORTS || !reported.insert({before.pc, now.pc}).second) return;
  const bool shared = p >= window.lo && p < window.hi;
  char place[64];
  snprintf(place, sizeof place, "%s memory at %p", shared ? "shared" : "global", p);
  reports.push_back(std::string(kind) + " on " + place + ": " + actor(before) + " (" + where(before.pc) +
                    "), then " + actor(now) + " (" + where(now.pc) +
                    "), with nothing in between that orders them");
}

void visit(Cell& c, const Epoch& now, bool write, bool shared, const void* p) {
  const unsigned t = now.thread;
  if (shared && c.state == kUnallocated) {
    fail("%s out of bounds of shared memory at %p (%s)", write ? "write" : "read", p, where(now.pc).c_str());
  }
  if (!(now.atomic && c.written.atomic) && !ordered(c.written, t)) {
    report(write ? "write-after-write race" : "read-after-write race", c.written, now, p);
  }
  if (write) {
    for (const Epoch& r : c.read) {
      if (!(now.atomic && r.atomic) && !ordered(r, t)) report("write-after-read race", r, now, p);
    }
    c.written = now;
    c.read[0].clock = c.read[1].clock = 0;
    c.state = kInitialised;
    c.fences = t == agent() ? 0 : proxy_fences_of(t) + 1;
    return;
  }
  if (shared && c.state == kUninitialised) {
    ++race_count;
    if (reports.size() < MAX_REPORTS && reported.insert({0, now.pc}).second) {
      reports.push_back("read of uninitialised shared memory by " + actor(now) + " (" + where(now.pc) + ")");
    }
  }
  if (async_read && c.fences && c.written.block == now.block &&
      c.fences == proxy_fences_of(c.written.thread) + 1) {
    report("missing fence.proxy.async between a write and an asynchronous read", c.written, now, p);
  }
  Epoch& slot =
      c.read[0].clock == 0 || (c.read[0].thread == t && c.read[0].block == now.block) || ordered(c.read[0], t)
          ? c.read[0]
          : c.read[1];
  slot = now;
}

void visit_all(Shadow& s, const char* p, size_t bytes, const Epoch& now, bool write, bool shared) {
  size_t first = static_cast<size_t>(p - s.lo);
  if (s.shift == 2 && ((first | bytes) & 3)) s.refine();
  const size_t end = (first + bytes + (size_t{1} << s.shift) - 1) >> s.shift;
  const size_t all = s.count();
  for (size_t i = first >> s.shift; i < end && i < all; ++i) visit(s.cells[i], now, write, shared, p);
}

Shadow* segment_of(const char* p) {
  if (last_segment && p >= last_segment->lo && p < last_segment->hi) return last_segment;
  auto it = std::upper_bound(segments.begin(), segments.end(), p,
                             [](const char* x, const Shadow& s) { return x < s.hi; });
  if (it == segments.end() || p < it->lo) return nullptr;
  return last_segment = &*it;
}

[[noreturn]] void out_of_bounds(const char* p, size_t bytes, bool write, uint32_t pc) {
  std::string nearest;
  uint64_t best = 1 << 20;
  for (const Range& r : ranges) {
    const uint64_t behind = p >= r.hi ? static_cast<uint64_t>(p - r.hi) : ~0ull;
    const uint64_t before = p < r.lo ? static_cast<uint64_t>(r.lo - p) : ~0ull;
    const uint64_t inside = p >= r.lo && p < r.hi ? 0 : ~0ull;
    const uint64_t distance = std::min({behind, before, inside});
    if (distance < best) {
      best = distance;
      nearest = inside == 0       ? ", across the end of"
                : behind < before ? ", " + std::to_string(behind) + " bytes behind"
                                  : ", " + std::to_string(before) + " bytes before";
      nearest += " an array of " + std::to_string(r.hi - r.lo) + " bytes";
    }
  }
  fail("%s of %zu bytes at %p is outside every array of the call%s (%s)", write ? "write" : "read", bytes,
       static_cast<const void*>(p), nearest.c_str(), where(pc).c_str());
}

// True if one range holds the whole access, and may be written if it is a write.
void check_bounds(const char* p, size_t bytes, bool write, uint32_t pc) {
  bool inside = false;
  for (const Range& r : ranges) {
    if (p < r.lo || p + bytes > r.hi) continue;
    if (!write || r.writable) return;
    inside = true;
  }
  if (inside) {
    fail("write of %zu bytes at %p into a read-only array of the call (%s)", bytes,
         static_cast<const void*>(p), where(pc).c_str());
  }
  out_of_bounds(p, bytes, write, pc);
}

bool harmless(const char* p) {  // a launch's arguments, constants, the thread-local context pointer
  if (p >= closure_lo && p < closure_hi) return true;
  for (const auto& part : image) {
    if (p >= part.first && p < part.second) return true;
  }
  return p == reinterpret_cast<const char*>(&context);
}

void find_image() {
  if (!image.empty()) return;
  Dl_info own_info;
  dladdr(reinterpret_cast<void*>(&find_image), &own_info);
  image_base = reinterpret_cast<uintptr_t>(own_info.dli_fbase);
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        const uintptr_t self = reinterpret_cast<uintptr_t>(&find_image);
        bool mine = false;
        for (int pass = 0; pass < 2; ++pass) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& h = info->dlpi_phdr[i];
            if (h.p_type != PT_LOAD) continue;
            const uintptr_t lo = info->dlpi_addr + h.p_vaddr, hi = lo + h.p_memsz;
            if (pass == 0 && self >= lo && self < hi) mine = true;
            if (pass == 1 && mine) {
              image.emplace_back(reinterpret_cast<const char*>(lo), reinterpret_cast<const char*>(hi));
            }
          }
        }
        if (mine) image_base = info->dlpi_addr;
        return mine ? 1 : 0;
      },
      nullptr);
}

}  // namespace

bool async_read;

// ---- accesses -----------------------------------------------------------------------------------
void touch(const void* address, size_t bytes, bool write, const void* return_address, bool atomic) {
  if (!worker || (worker->current == &worker->main && !agent_acts())) return;  // host code
  const char* p = static_cast<const char*>(address);
  const Fiber* f = worker->current;
  if (p >= f->stack && p < f->stack + f->stack_bytes) return;
  if (p >= reinterpret_cast<const char*>(f) && p < reinterpret_cast<const char*>(f + 1)) return;  // threadIdx
  const unsigned t = agent_acts() ? agent() : f->context.index;
  const uint32_t pc =
      return_address ? static_cast<uint32_t>(reinterpret_cast<uintptr_t>(return_address) - image_base) : 0;
  const Epoch now = epoch_of(t, pc, atomic);
  if (p >= window.lo && p < window.hi) return visit_all(window, p, bytes, now, write, true);
  if (Shadow* s = segment_of(p)) {
    check_bounds(p, bytes, write, pc);
    return visit_all(*s, p, bytes, now, write, false);
  }
  if (ranges.empty() || harmless(p)) return;
  out_of_bounds(p, bytes, write, pc);
}

void touch_atomic(const void* p, size_t bytes, bool write, const void* return_address) {
  touch(p, bytes, write, return_address, true);
  if (!worker || worker->current == &worker->main) return;
  const char* c = static_cast<const char*>(p);
  if (c < window.lo || c >= window.hi) atomic_on_global(p, write, worker->current->context.index);
}

// ---- ranges -------------------------------------------------------------------------------------
void register_range(const void* p, size_t bytes, bool writable) {
  char* lo = static_cast<char*>(const_cast<void*>(p));
  std::lock_guard<std::mutex> lock(ranges_mutex);
  for (Range& r : registered) {
    if (r.lo == lo && r.hi == lo + bytes && r.writable == writable) {
      ++r.references;
      return;
    }
  }
  registered.push_back({lo, lo + bytes, writable, 1});
}

void unregister_range(const void* p) {
  std::lock_guard<std::mutex> lock(ranges_mutex);
  for (size_t i = registered.size(); i-- > 0;) {
    if (registered[i].lo != p) continue;
    if (--registered[i].references == 0) registered.erase(registered.begin() + static_cast<ptrdiff_t>(i));
    return;
  }
}

// ---- launches and blocks ------------------------------------------------------------------------
void launch_begin(const void* closure, size_t closure_bytes) {
  find_image();
  {
    std::lock_guard<std::mutex> lock(ranges_mutex);
    ranges = registered;
  }
  std::vector<Range> sorted = ranges;
  std::sort(sorted.begin(), sorted.end(), [](const Range& a, const Range& b) { return a.lo < b.lo; });
  for (Shadow& s : segments) s.close();
  segments.clear();
  for (const Range& r : sorted) {
    if (r.lo == r.hi) continue;
    if (!segments.empty() && r.lo < segments.back().hi) {
      segments.back().hi = std::max(segments.back().hi, r.hi);
    } else {
      segments.emplace_back();
      segments.back().lo = r.lo;
      segments.back().hi = r.hi;
    }
  }
  for (Shadow& s : segments) s.open(s.lo, s.hi);
  last_segment = nullptr;
  closure_lo = static_cast<const char*>(closure);
  closure_hi = closure_lo + closure_bytes;
  clocks_launch_begin();
  async_read = false;
  race_count = 0;
  reported.clear();
  reports.clear();
}

std::string launch_end() {
  for (Shadow& s : segments) s.close();
  segments.clear();
  async_read = false;
  std::string text;
  for (const std::string& r : reports) text += (text.empty() ? "" : "; ") + r;
  if (race_count > reports.size()) text += " [" + std::to_string(race_count) + " racing accesses]";
  return text;
}

void fresh(char* p, size_t bytes) {
  if (!bytes) return;
  const size_t first = static_cast<size_t>(p - window.lo);
  allocated.emplace_back(first, bytes);
  const size_t end = (first + bytes + (size_t{1} << window.shift) - 1) >> window.shift;
  for (size_t i = first >> window.shift; i < end; ++i) {
    window.cells[i] = Cell{};
    window.cells[i].state = kUninitialised;
  }
}

void read_in_vain(const void* p, size_t bytes) {
  const size_t first = static_cast<size_t>(static_cast<const char*>(p) - window.lo);
  for (size_t i = first >> window.shift; i < (first + bytes) >> window.shift; ++i)
    if (window.cells[i].state == kUninitialised) window.cells[i].state = kInitialised;
}

void block_begin(char* w, size_t window_bytes, size_t dynamic_offset, size_t dynamic_bytes, unsigned count,
                 uint64_t index) {
  if (window.lo != w) {
    window.close();
    window.open(w, w + window_bytes);
    allocated.clear();
  }
  for (const auto& part : allocated) {
    const size_t end = (part.first + part.second + (size_t{1} << window.shift) - 1) >> window.shift;
    for (size_t i = part.first >> window.shift; i < end; ++i) window.cells[i] = Cell{};
  }
  allocated.clear();
  fresh(w + dynamic_offset, dynamic_bytes);
  clocks_block_begin(count, index);
}

void access(const void* p, size_t bytes, bool write) { touch(p, bytes, write, nullptr, false); }

}  // namespace racecheck
}  // namespace emulation
}  // namespace pcn

#endif
