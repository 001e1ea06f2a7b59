// executor.h: runs the PTX that nvcc emits, on host memory, with every access checked
//
// A test tool, never linked into the library, and written from NVIDIA's "PTX ISA" alone: it shares nothing
// with kernels/emulation, so that the two can disagree.
//
//   auto module = ptx::Module::parse(text, "relu_forward.ptx");
//   ptx::Memory memory;                                      // which host memory a kernel may touch
//   memory.add(x, bytes, /*initialised=*/true);
//   ptx::run(*module, "_Z11relu_kernelPf", launch, memory, options, &stats);      // throws ptx::Fault
//
// Addresses of global memory are host addresses. Shared, local and parameter memory have generic address
// ranges of their own, outside any host pointer, whose low 32 bits are not shared-space addresses.
//
// An undefined value (bytes nobody wrote, a register nobody set, an asynchronous copy not waited for) may be
// moved, computed with and dropped; using one as an address or in a decision, or writing it to global memory,
// is a fault.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace ptx {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

// What a kernel did wrong, or a text that is no PTX this executor knows. The text of a kernel's fault names
// the kernel, the line of its PTX, block and thread.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- memory -------------------------------------------------------------------------------------

struct Region {
  uintptr_t begin = 0;
  size_t bytes = 0;
  bool writable = true;
  uint8_t* shadow = nullptr;  // a byte for each byte: 0xff once written; null: all are initialised
  std::string name;
};

// The allocations of global memory, by their exact extents. May be used by several threads; a kernel sees
// those there were when it was launched.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();

  // Adds an allocation; throws std::invalid_argument where it overlaps one or is empty.
  void add(const void* pointer, size_t bytes, bool initialised, bool writable = true,
           const std::string& name = "");
  // Removes the allocation that begins at `pointer`; returns whether there was one.
  bool remove(const void* pointer);
  // Marks bytes as written from the host (copies, memset). Throws std::out_of_range outside one allocation.
  void mark_initialised(const void* pointer, size_t bytes);
  // Forgets that bytes were written: an allocation that a pool hands out again.
  void mark_uninitialised(const void* pointer, size_t bytes);
  // Whether [pointer, pointer + bytes) lies in one allocation.
  bool covers(const void* pointer, size_t bytes) const;
  // Whether it does and every byte of it has been written.
  bool initialised(const void* pointer, size_t bytes) const;
  // The allocation `pointer` lies in: its first byte and size; {nullptr, 0} where there is none.
  std::pair<void*, size_t> allocation(const void* pointer) const;

  std::vector<Region> regions() const;  // ascending

 private:
  const Region* find(uintptr_t address, size_t bytes) const;
  mutable std::mutex mutex_;
  std::map<uintptr_t, Region> regions_;
};

// ---- modules ------------------------------------------------------------------------------------

struct Parameter {
  std::string name;
  size_t offset = 0, bytes = 0, align = 1;
};

struct KernelInfo {
  std::string name;  // mangled
  std::vector<Parameter> params;
  size_t param_bytes = 0;          // the packed block's size
  size_t static_shared_bytes = 0;  // of the module's shared variables that the kernel names
  bool dynamic_shared = false;     // names an extern shared array
  size_t local_bytes = 0;          // a thread's
  uint32_t max_threads = 1024;     // .maxntid or .reqntid's product, else 1024
  uint32_t min_blocks = 0;         // .minnctapersm, 0: not said
  int target = 0;                  // 80 of sm_80
  int line = 0;                    // in the module's text
};

struct Global {
  void* pointer = nullptr;  // host memory, initialised as the module says, owned by the module
  size_t bytes = 0;
  bool constant = false;  // kernels may not write it
};

class Kernel;

class Module {
 public:
  // Parses a module. `name` appears in faults. Throws Fault where the text is not understood; the
  // instructions of a kernel are decoded at its first launch, or by check().
  static std::shared_ptr<Module> parse(const std::string& text, const std::string& name);
  ~Module();

  const KernelInfo* kernel(const std::string& mangled) const;  // nullptr: none of that name
  std::vector<std::string> kernels() const;
  const Global* global(const std::string& name) const;  // nullptr: none of that name
  const std::map<std::string, Global>& globals() const;
  const std::string& name() const;
  int target() const;
  // Decodes every kernel; throws Fault that names the first form that is unknown, with its line.
  void check() const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  explicit Module(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// ---- tensor maps --------------------------------------------------------------------------------

// What this executor reads where a kernel names a CUtensorMap: whoever stands in for cuTensorMapEncodeTiled
// and cuTensorMapEncodeIm2col fills it. Dimension 0 is the innermost; strides are in bytes, stride[0] the
// element's size.
struct alignas(64) TensorMap {
  static constexpr uint32_t MAGIC = 0x504d4154;
  uint32_t magic = 0;
  uint8_t rank = 0, element_bytes = 0;
  uint8_t swizzle = 0;   // 0 none, 1: 32 bytes, 2: 64, 3: 128
  uint8_t im2col = 0;    // else tiled
  uint8_t to_tf32 = 0;   // float32 is rounded to TF32 (nearest, ties away) on its way in
  uint8_t nan_fill = 0;  // elements outside are NaN instead of zero
  uint8_t element_stride[5] = {1, 1, 1, 1, 1};
  int8_t lower[3] = {0, 0, 0}, upper[3] = {0, 0, 0};  // im2col: corners of the bounding box, {w, h, d}
  uint8_t gap = 0;
  uint16_t box[5] = {0, 0, 0, 0, 0};  // tiled: elements; im2col: {channels, pixels}
  uint64_t base = 0;
  uint32_t dim[5] = {0, 0, 0, 0, 0};  // extent minus 1
  uint32_t unused = 0;
  uint64_t stride[5] = {0, 0, 0, 0, 0};
  uint64_t rest[3] = {0, 0, 0};
};
static_assert(sizeof(TensorMap) == 128, "as CUtensorMap");
static_assert(std::has_unique_object_representations<TensorMap>::value, "equal maps are equal bytes");

// ---- launches -----------------------------------------------------------------------------------

struct Launch {
  Dim3 grid, block;
  size_t dynamic_shared = 0;
  const void* params = nullptr;  // packed as KernelInfo::params says
  size_t param_bytes = 0;
};

enum class Async { kLate, kEarly, kRandom };       // when asynchronous copies and products take effect
enum class Order { kForward, kReverse, kRandom };  // in which order the warps of a block run between barriers

struct Options {
  Async async = Async::kLate;
  Order order = Order::kForward;
  uint64_t seed = 1;
  int threads = 0;  // over which the blocks are spread; 0: as many as the machine has
  size_t max_shared = 227 * 1024;
  uint64_t max_instructions = 0;  // a warp's, 0: no limit; a fault beyond
};

struct Stats {
  uint64_t launches = 0, blocks = 0;
  uint64_t warp_instructions = 0, lane_instructions = 0;
  std::map<std::string, uint64_t> kernels;  // launches by mangled name
  void add(const Stats& other);
};

// Runs a grid to its end. Throws Fault: at the launch (unknown kernel, block too large, parameters of another
// size, too much shared memory, an unknown instruction) or from a thread. `stats`, where given, is added to.
void run(const Module& module, const std::string& kernel, const Launch& launch, Memory& memory,
         const Options& options = {}, Stats* stats = nullptr);

}  // namespace ptx
