// state.h: what the stand-in for CUDA's runtime knows: binaries, kernels, memory, the last error
//
// One device, one context, every stream in order: work is done when it is enqueued, but what it did wrong is
// reported by the calls that come after it, as on a card.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "executor.h"

namespace stand_in {

// A fat binary as a translation unit has registered it.
struct Binary {
  const void* wrapper = nullptr;
  std::string unit;                     // its source: for messages
  std::shared_ptr<ptx::Module> module;  // parsed when the first of its kernels is asked for
  cudaError_t status = cudaSuccess;     // of the parsing
  bool loaded = false;
};

struct Function {
  Binary* binary = nullptr;
  std::string name;               // mangled, as the PTX has it
  std::size_t asked_dynamic = 0;  // by cudaFuncSetAttribute
};

struct State {
  std::recursive_mutex mutex;
  std::map<void**, std::unique_ptr<Binary>> binaries;
  std::map<const void*, std::unique_ptr<Function>> functions;  // by the address of the host's stub
  std::set<cudaStream_t> streams;
  ptx::Memory memory;
  ptx::Options options;
  ptx::Stats stats;
  cudaError_t sticky = cudaSuccess;  // of a kernel that failed: the context is lost
  std::string explanation;           // of the newest error, in words
  int capability = 90;               // 10 * major + minor
};

State& state();

// Keeps a text for stand_in_explanation() and writes it to stderr.
void say(const std::string& why);
// Notes an error for cudaGetLastError, and says why.
cudaError_t failed(cudaError_t status, const std::string& why);
// The sticky error, or success.
cudaError_t context();
// Bytes of shared memory that a block of this device may have.
std::size_t most_shared();

// The kernel of a stub or a handle, with its module parsed; nullptr after failed().
Function* function_of(const void* stub, cudaError_t* status);
const ptx::KernelInfo* info_of(const Function& function);
cudaError_t launch(const void* stub, dim3 grid, dim3 block, std::size_t dynamic_bytes, cudaStream_t stream,
                   void** arguments);

// The PTX of a fat binary that a device of this capability runs: the newest that is not newer than the
// device. Empty, with the reason, where there is none.
std::string find_ptx(const void* wrapper, int capability, std::string* reason);

// The source file that a kernel's mangled name tells, else the name.
std::string source_of(const std::string& kernel);

// Driver functions by name; nullptr where there is none here.
void* driver_function(const char* name);

}  // namespace stand_in
