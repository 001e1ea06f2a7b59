// launch.cpp: launches, with the checks that a driver makes, and what is asked about kernels
#include <cstring>

#include "state.h"

namespace stand_in {
namespace {

constexpr size_t kUnasked = 48 * 1024;
constexpr size_t kMostParameters = 32764;  // CUDA programming guide, from compute capability 7.0 on

std::string text(dim3 d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

// Empty, or what of a launch's extents the hardware does not have (CUDA programming guide, technical
// specifications per compute capability).
std::string beyond_limits(dim3 grid, dim3 block) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return "a grid of " + text(grid) + " blocks; the most are (2^31 - 1, 65535, 65535)";
  if (!threads || block.x > 1024 || block.y > 1024 || block.z > 64 || threads > 1024)
    return "a block of " + text(block) + " threads; the most are (1024, 1024, 64), 1024 in all";
  return {};
}

// What a card calls the fault of a kernel.
cudaError_t status_of(const std::string& fault) {
  const auto says = [&](const char* word) { return fault.find(word) != std::string::npos; };
  if (says("misaligned") || says("aligned")) return cudaErrorMisalignedAddress;
  if (says("outside") || says("out of bounds") || says("no allocation") || says("beyond"))
    return cudaErrorIllegalAddress;
  return cudaErrorLaunchFailure;
}

}  // namespace

cudaError_t launch(const void* stub, dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream,
                   void** arguments) {
  State& s = state();
  const std::lock_guard<std::recursive_mutex> lock(s.mutex);
  if (const cudaError_t lost = context()) return lost;
  cudaError_t status = cudaSuccess;
  Function* function = function_of(stub, &status);
  if (!function) return status;
  const std::string& name = function->name;
  if (stream && !s.streams.count(stream))
    return failed(cudaErrorInvalidResourceHandle, name + ": no such stream");
  const ptx::KernelInfo& info = *info_of(*function);
  const std::string wrong = beyond_limits(grid, block);
  if (!wrong.empty()) return failed(cudaErrorInvalidConfiguration, name + ": " + wrong);
  if (uint64_t{block.x} * block.y * block.z > info.max_threads)
    return failed(cudaErrorLaunchOutOfResources, name + ": a block of " + text(block) +
                                                     " threads; it was compiled for " +
                                                     std::to_string(info.max_threads));
  const size_t all = info.static_shared_bytes + dynamic_bytes;
  if (info.static_shared_bytes > kUnasked || all > most_shared() ||
      (all > kUnasked && dynamic_bytes > function->asked_dynamic))
    return failed(cudaErrorInvalidValue,
                  name + ": " + std::to_string(info.static_shared_bytes) + " static and " +
                      std::to_string(dynamic_bytes) + " dynamic bytes of shared memory, " +
                      std::to_string(function->asked_dynamic) + " asked for by cudaFuncSetAttribute");
  if (info.param_bytes > kMostParameters)
    return failed(cudaErrorInvalidValue,
                  name + ": " + std::to_string(info.param_bytes) + " bytes of parameters");
  std::vector<unsigned char> parameters(info.param_bytes);
  for (size_t i = 0; i < info.params.size(); ++i)
    std::memcpy(parameters.data() + info.params[i].offset, arguments[i], info.params[i].bytes);
  ptx::Launch request;
  request.grid = {grid.x, grid.y, grid.z}, request.block = {block.x, block.y, block.z};
  request.dynamic_shared = dynamic_bytes;
  request.params = parameters.data(), request.param_bytes = parameters.size();
  ptx::Options options = s.options;
  options.max_shared = most_shared();
  try {
    ptx::run(*function->binary->module, name, request, s.memory, options, &s.stats);
  } catch (const ptx::Fault& fault) {
    s.sticky = status_of(fault.what());
    failed(s.sticky, fault.what());  // reported by whoever asks next: a launch does not wait for its kernel
  }
  return cudaSuccess;
}

}  // namespace stand_in

using stand_in::failed;
using stand_in::state;
typedef std::lock_guard<std::recursive_mutex> Lock;

extern "C" {
#pragma GCC visibility push(default)

cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** arguments, size_t dynamic_bytes,
                             cudaStream_t stream) {
  return stand_in::launch(stub, grid, block, dynamic_bytes, stream, arguments);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* stub, void** arguments) {
  for (unsigned i = 0; i < config->numAttrs;
       ++i) {  // grids run one after the other, also where they need not
    if (config->attrs[i].id != cudaLaunchAttributeProgrammaticStreamSerialization)
      return failed(cudaErrorNotSupported,
                    "an attribute of a launch that the stand-in runtime does not know");
  }
  return stand_in::launch(stub, config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream,
                          arguments);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* stub) {
  Lock lock(state().mutex);
  if (const cudaError_t lost = stand_in::context()) return lost;
  cudaError_t status = cudaSuccess;
  const stand_in::Function* function = stand_in::function_of(stub, &status);
  if (!function) return status;
  const ptx::KernelInfo& info = *stand_in::info_of(*function);
  *attributes = {};
  attributes->sharedSizeBytes = info.static_shared_bytes;
  attributes->localSizeBytes = info.local_bytes;
  attributes->maxThreadsPerBlock = static_cast<int>(info.max_threads);
  attributes->ptxVersion = info.target;
  attributes->binaryVersion = state().capability;  // as the driver compiles PTX for the device
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(function->asked_dynamic);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute attribute, int value) {
  Lock lock(state().mutex);
  if (const cudaError_t lost = stand_in::context()) return lost;
  cudaError_t status = cudaSuccess;
  stand_in::Function* function = stand_in::function_of(stub, &status);
  if (!function) return status;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
    return failed(cudaErrorNotSupported, "the stand-in runtime knows one attribute of kernels, not number " +
                                             std::to_string(attribute));
  const size_t fixed = stand_in::info_of(*function)->static_shared_bytes;
  if (value < 0 || fixed + static_cast<size_t>(value) > stand_in::most_shared())
    return failed(cudaErrorInvalidValue, function->name + ": asks for " + std::to_string(value) +
                                             " dynamic bytes beside " + std::to_string(fixed) +
                                             " static ones");
  function->asked_dynamic = static_cast<size_t>(value);
  return cudaSuccess;
}

#pragma GCC visibility pop
}
