// registry.cpp: what the host code that nvcc generates calls before main and for <<<>>>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "state.h"

using stand_in::state;
typedef std::lock_guard<std::recursive_mutex> Lock;

namespace stand_in {
namespace {

// The PTX of a binary, or what PYCONVNET_PTX_TEXT puts in its place: the same kernels, compiled otherwise.
std::string text_of(const Binary& binary, std::string* reason) {
  const char* file = std::getenv("PYCONVNET_PTX_TEXT");
  if (!file) return find_ptx(binary.wrapper, state().capability, reason);
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  *reason = std::string("PYCONVNET_PTX_TEXT: ") + file + " cannot be read";
  return text.str();
}

}  // namespace

// "primitives.cu" of "..._GLOBAL__N__a1a6714c_13_primitives_cu_main...", as nvcc mangles what is in an
// unnamed namespace; else the whole name.
std::string source_of(const std::string& kernel) {
  const std::string mark = "_GLOBAL__N__";
  const size_t at = kernel.find(mark);
  if (at == std::string::npos) return kernel;
  const size_t length = kernel.find('_', at + mark.size()) + 1, name = kernel.find('_', length) + 1;
  std::string file = kernel.substr(name, std::strtoul(kernel.c_str() + length, nullptr, 10));
  const size_t suffix = file.rfind("_cu");
  return suffix == std::string::npos ? file : file.replace(suffix, 3, ".cu");
}

Function* function_of(const void* stub, cudaError_t* status) {
  State& s = state();
  const auto found = s.functions.find(stub);
  Function* function = found != s.functions.end() ? found->second.get() : nullptr;
  for (auto& [_, known] : s.functions)  // a cudaKernel_t is the function itself
    if (!function && known.get() == stub) function = known.get();
  if (!function) {
    *status = failed(cudaErrorInvalidDeviceFunction, "no kernel was registered for this host function");
    return nullptr;
  }
  Binary& binary = *function->binary;
  if (!binary.loaded) {
    binary.loaded = true;
    std::string reason;
    const std::string text = text_of(binary, &reason);
    if (text.empty()) {
      binary.status = failed(cudaErrorNoKernelImageForDevice, function->name + ": " + reason);
    } else {
      try {
        binary.module = ptx::Module::parse(text, binary.unit);
      } catch (const ptx::Fault& fault) {
        binary.status = failed(cudaErrorInvalidPtx, fault.what());
      }
    }
  }
  *status = binary.status;
  if (*status != cudaSuccess) return nullptr;
  if (!info_of(*function)) {
    *status = failed(cudaErrorInvalidDeviceFunction, function->name + ": its binary has no such kernel");
    return nullptr;
  }
  return function;
}

const ptx::KernelInfo* info_of(const Function& function) {
  return function.binary->module->kernel(function.name);
}

}  // namespace stand_in

namespace {
struct Configuration {
  dim3 grid, block;
  size_t dynamic_bytes;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;
}  // namespace

extern "C" {
#pragma GCC visibility push(default)

void** __cudaRegisterFatBinary(void* wrapper) {
  Lock lock(state().mutex);
  auto binary = std::make_unique<stand_in::Binary>();
  binary->wrapper = wrapper;
  auto** handle = reinterpret_cast<void**>(binary.get());
  state().binaries[handle] = std::move(binary);
  return handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}

char __cudaInitModule(void**) { return 1; }

void __cudaUnregisterFatBinary(void** handle) {
  Lock lock(state().mutex);
  auto& functions = state().functions;
  for (auto at = functions.begin(); at != functions.end();)
    at = reinterpret_cast<void**>(at->second->binary) == handle ? functions.erase(at) : std::next(at);
  state().binaries.erase(handle);
}

void __cudaRegisterFunction(void** handle, const char* stub, char* /*device_function*/, const char* name,
                            int /*thread_limit*/, uint3*, uint3*, dim3*, dim3*, int*) {
  Lock lock(state().mutex);
  stand_in::Binary* binary = state().binaries.at(handle).get();
  if (binary->unit.empty()) binary->unit = stand_in::source_of(name);
  auto function = std::make_unique<stand_in::Function>();
  function->binary = binary, function->name = name;
  state().functions[stub] = std::move(function);
}

cudaError_t __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream) {
  configurations.push_back({grid, block, dynamic_bytes, stream});
  return cudaSuccess;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* dynamic_bytes, void* stream) {
  if (configurations.empty()) return stand_in::failed(cudaErrorMissingConfiguration, "nothing was pushed");
  const Configuration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid, *block = c.block, *dynamic_bytes = c.dynamic_bytes;
  *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  Lock lock(state().mutex);
  const auto found = state().functions.find(stub);
  if (found == state().functions.end())
    return stand_in::failed(cudaErrorInvalidDeviceFunction,
                            "no kernel was registered for this host function");
  *kernel = reinterpret_cast<cudaKernel_t>(found->second.get());
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t dynamic_bytes, cudaStream_t stream) {
  return stand_in::launch(reinterpret_cast<const void*>(kernel), grid, block, dynamic_bytes, stream,
                          arguments);
}

#pragma GCC visibility pop
}
