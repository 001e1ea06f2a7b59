// machine.h: decoded instructions, and what executes them: a warp of a block
#pragma once
#include <atomic>
#include <cstring>
#include <deque>
#include <random>

#include "text.h"

namespace ptx {

constexpr int LANES = 32;
using Mask = uint32_t;  // a bit for each lane
constexpr Mask ALL = ~Mask{0};
alignas(64) constexpr Mask BIT[LANES] = {1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,
                                         1u << 7,  1u << 8,  1u << 9,  1u << 10, 1u << 11, 1u << 12, 1u << 13,
                                         1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20,
                                         1u << 21, 1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27,
                                         1u << 28, 1u << 29, 1u << 30, 1u << 31};

inline int popcount(Mask m) { return __builtin_popcount(m); }
inline int first(Mask m) { return __builtin_ctz(m); }
template <class F>
void each(Mask m, F f) {
  for (; m; m &= m - 1) f(first(m));
}

// Addresses. A shared-space address is an offset from SHARED_BASE up (on sm_90 the first KiB is the system's,
// and null is an error everywhere); the generic ones lie where no pointer of the host does.
constexpr uint64_t SHARED_BASE = 1024;
constexpr uint64_t SHARED_WINDOW = 0x0100'0000'2000'0000, LOCAL_WINDOW = 0x0200'0000'4000'0000,
                   PARAM_WINDOW = 0x0300'0000'6000'0000, WINDOW_BYTES = 0x1000'0000;
constexpr uint64_t LOCAL_BASE = 64;

// States of a byte in a shadow.
constexpr uint8_t UNDEFINED = 0, WRITTEN = 0xff;
constexpr uint8_t UNFENCED = 0x7f;  // written, and not yet visible to the asynchronous proxy (block.proxies)
inline bool is_written(uint8_t s) { return s >= UNFENCED; }

// A register, or a constant of the kernel: a row of 32 lanes in the file of its class.
struct Operand {
  uint32_t index = 0;
  uint32_t slot() const { return index & 0x7fffffff; }
  uint32_t bank() const { return index >> 31; }  // 1: constants
};

struct Instr;
class Warp;
using Handler = void (*)(Warp&, const Instr&);

struct Instr {
  Handler run = nullptr;
  int32_t guard = -1;  // slot of a predicate
  bool guard_negated = false;
  uint8_t space = 0, bytes = 0, count = 0;  // of accesses
  Operand d, a, b, c;
  int32_t target = 0;  // of a branch; else what the form needs
  int32_t line = 0;
  int64_t imm = 0;
  int64_t second_imm = 0;   // of a second address
  Operand* list = nullptr;  // further operands, owned by the kernel
  uint32_t flags = 0, index = 0;
};

// Memory that accesses are checked against: [begin, end) of one address space, found at begin + data.
struct Extent {
  uint64_t begin = 0, end = 0;
  intptr_t data = 0, shadow = 0;  // host address minus address
  uint64_t stride = 0;            // of a lane (local memory)
  bool has_shadow = false, writable = true;
  const char* name = "";
};

// A kernel decoded.
struct Code {
  const Text* text = nullptr;
  const Function* function = nullptr;
  std::vector<Instr> instrs;
  std::vector<std::unique_ptr<Operand[]>> lists;
  uint32_t words = 0, doubles = 0, predicates = 0;  // rows in a warp's files
  std::vector<std::unique_ptr<uint32_t[]>> unused;
  std::vector<uint32_t> word_constants;  // LANES each
  std::vector<uint64_t> double_constants;
  std::vector<Mask> defined;  // all ones, as many as there are constants
  Mask predicate_constants[2] = {0, ALL};
  struct Object {
    std::string name;
    uint64_t address = 0, bytes = 0;
    bool dynamic = false;
  };
  std::vector<Object> shared;
  uint64_t static_end = SHARED_BASE, dynamic_begin = SHARED_BASE;
  size_t local_bytes = 0;
  bool proxies = false;  // uses asynchronous copies or products that need fences
};

// An instruction's copies that have not landed (copy.cpp).
struct PendingCopy {
  Mask pending;
  uint8_t bytes;
  int32_t line;
  uint8_t* to[LANES];
  uint8_t* to_shadow[LANES];
  const uint8_t* from[LANES];
  const uint8_t* from_shadow[LANES];
  uint8_t from_bytes[LANES];
  uint32_t group[LANES];
};

struct AsyncState;  // bulk copies and mbarriers (bulk.h)
struct Products;    // asynchronous products (wgmma.cpp)
class Block;

class Warp {
 public:
  Warp(Block& block, int index, Mask lanes);
  ~Warp();
  Warp(const Warp&) = delete;
  Warp& operator=(const Warp&) = delete;
  void reset();

  // ---- registers ----
  uint32_t* words[2];  // [0] registers, [1] constants
  uint64_t* doubles[2];
  Mask* predicates[2];
  Mask *word_defined[2], *double_defined[2], *predicate_defined[2];

  // ---- control ----
  Mask active = 0;  // lanes that execute the present instruction
  Mask mask = 0;    // lanes of the present group, at `pc`
  int pc = 0, next = 0, stop = 0;
  Mask lanes = 0, exited = 0;
  struct Group {
    int pc;
    Mask mask;
    bool waits;   // for lanes that are elsewhere
    bool failed;  // a test of an mbarrier, since when nothing else ran
  };
  std::vector<Group> groups;  // the others
  enum State { kReady, kBarrier, kPolling, kDone } state = kReady;
  int barrier = 0;
  bool resumed = false;  // the instruction it waited in is executed once more

  void run();  // until a barrier, a failed test of an mbarrier or the end
  // Whether all of `needed` execute this instruction; else these lanes wait until they do.
  bool together(Mask needed);
  bool whole();  // together, of all lanes of the warp
  void jump(int target);
  void leave(Mask who);
  void poll();            // these lanes test something in vain: others first
  void wait(bool again);  // for a barrier; `again`: the instruction is then executed once more

  [[noreturn]] void fault(int lane, const std::string& what) const;
  [[noreturn]] void undefined(const char* what, Mask lacking) const;
  void note_undefined(int lane, const std::string& what);  // told again when the value is used

  Block& block;
  const Code& code;
  const int index;
  uint64_t executed = 0, executed_lanes = 0;

 private:
  void regroup();
  int undefined_line_ = 0;
  std::string undefined_what_;
  std::vector<uint32_t> word_file_;
  std::vector<uint64_t> double_file_;
  std::vector<Mask> masks_;

 public:
  // ---- asynchronous copies ----
  std::deque<PendingCopy> copies;
  std::vector<uint32_t> open_group;  // a lane's
  std::unique_ptr<Products> products;
  struct Unfenced {
    uint8_t* shadow;
    size_t bytes;
    int lane;
  };
  std::vector<Unfenced> unfenced;  // of shared bytes (Block::written)
};

struct NamedBarrier {
  int expected = 0, arrived = 0;  // threads
  std::vector<int> waiting;       // warps
  // Of bar.red: how many threads brought true, so far and at the last completion.
  int true_now = 0, true_then = 0, threads_then = 0;
};

// A block: its memory, its warps, and who runs next. One is reused for all blocks that a thread of the host
// runs.
class Block {
 public:
  Block(const Code& code, const Launch& launch, const Options& options, const std::vector<Extent>& global);
  ~Block();
  void run(uint64_t number);  // throws Fault

  const Code& code;
  const Launch& launch;
  const Options& options;
  const std::vector<Extent>& global;  // ascending
  std::vector<Extent> shared, param, local;
  std::vector<const Extent*> cache;  // an instruction's last extent
  std::vector<uint8_t> shared_bytes, shared_shadow;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<std::vector<uint8_t>> local_bytes, local_shadow;  // a warp's
  std::vector<uint32_t> tid[3];
  NamedBarrier barriers[16];
  uint32_t ctaid[3] = {0, 0, 0};
  uint64_t number = 0;
  std::mt19937_64 random;
  std::unique_ptr<AsyncState> async;
  uint64_t events = 0;  // whatever may let a waiting warp go on
  std::atomic<bool>* cancelled = nullptr;
  Stats stats;

  bool late();  // whether the asynchronous operation issued now takes effect as late as it may
  void arrive(Warp& warp, int64_t id, int64_t threads, bool wait, bool again = false, int trues = 0);
  void check_end();
  [[noreturn]] void stuck();
  const Extent* find(const std::vector<Extent>& extents, uint64_t address) const;
  // Remembers shared bytes that a lane has written and not yet fenced for the asynchronous proxy.
  void written(Warp& warp, int lane, uint8_t* shadow, size_t bytes);
};

}  // namespace ptx
