// api.cpp: devices, streams, memory, errors
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "state.h"

namespace stand_in {
namespace {
thread_local cudaError_t last = cudaSuccess;
}

State& state() {
  static auto& s = *[] {
    auto* made = new State;                    // outlives the modules that unregister themselves at the end
    made->options.max_instructions = 1 << 24;  // of a warp: beyond, it waits for what never comes
    return made;
  }();
  return s;
}

void say(const std::string& why) {
  state().explanation = why;
  std::fprintf(stderr, "%s\n", why.c_str());
}

cudaError_t failed(cudaError_t status, const std::string& why) {
  last = status;
  say(std::string(cudaGetErrorName(status)) + ": " + why);
  return status;
}

cudaError_t context() {
  const cudaError_t status = state().sticky;
  return status == cudaSuccess ? status : last = status;
}

size_t most_shared() {  // CUDA programming guide, technical specifications per compute capability
  switch (state().capability) {
    case 80:
    case 87:
      return 163 * 1024;
    case 86:
    case 89:
      return 99 * 1024;
    case 75:
      return 64 * 1024;
    default:
      return 227 * 1024;
  }
}

namespace {

cudaError_t copy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  State& s = state();
  const std::lock_guard<std::recursive_mutex> lock(s.mutex);
  if (const cudaError_t lost = context()) return lost;
  const bool to_device = s.memory.allocation(target).first, from_device = s.memory.allocation(source).first;
  const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (to_device != wants_to || from_device != wants_from))
    return failed(cudaErrorInvalidValue, "a copy between other kinds of memory than it says");
  if ((to_device && !s.memory.covers(target, bytes)) || (from_device && !s.memory.covers(source, bytes)))
    return failed(cudaErrorInvalidValue,
                  "a copy of " + std::to_string(bytes) + " bytes leaves its allocation");
  std::memmove(target, source, bytes);
  if (to_device && (!from_device || s.memory.initialised(source, bytes)))
    s.memory.mark_initialised(target, bytes);
  else if (to_device)
    s.memory.mark_uninitialised(target, bytes);
  return cudaSuccess;
}

cudaError_t fill(void* target, int value, size_t bytes) {
  State& s = state();
  const std::lock_guard<std::recursive_mutex> lock(s.mutex);
  if (const cudaError_t lost = context()) return lost;
  if (!s.memory.covers(target, bytes))
    return failed(cudaErrorInvalidValue,
                  "a fill of " + std::to_string(bytes) + " bytes leaves device memory");
  std::memset(target, value, bytes);
  s.memory.mark_initialised(target, bytes);
  return cudaSuccess;
}

cudaError_t on_stream(cudaStream_t stream) {
  if (const cudaError_t lost = context()) return lost;
  if (!stream || state().streams.count(stream)) return cudaSuccess;
  return failed(cudaErrorInvalidResourceHandle, "no such stream");
}

// The errors that a call here returns.
struct ErrorText {
  cudaError_t status;
  const char *name, *text;
};
const ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorMissingConfiguration, "cudaErrorMissingConfiguration",
     "__global__ function call is not configured"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidPtx, "cudaErrorInvalidPtx", "a PTX JIT compilation failed"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};
const ErrorText& error_text(cudaError_t status) {
  static const ErrorText unknown{status, "cudaErrorUnknown", "unknown error"};
  for (const ErrorText& e : kErrors)
    if (e.status == status) return e;
  return unknown;
}

}  // namespace
}  // namespace stand_in

using stand_in::context;
using stand_in::failed;
using stand_in::state;
typedef std::lock_guard<std::recursive_mutex> Lock;

extern "C" {
#pragma GCC visibility push(default)

// ---- errors -------------------------------------------------------------------------------------
cudaError_t cudaGetLastError() {  // what is sticky stays
  const cudaError_t status = std::exchange(stand_in::last, cudaSuccess);
  return state().sticky != cudaSuccess ? state().sticky : status;
}
cudaError_t cudaPeekAtLastError() { return state().sticky != cudaSuccess ? state().sticky : stand_in::last; }
const char* cudaGetErrorName(cudaError_t status) { return stand_in::error_text(status).name; }
const char* cudaGetErrorString(cudaError_t status) { return stand_in::error_text(status).text; }

// ---- the device ---------------------------------------------------------------------------------
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? context() : failed(cudaErrorInvalidDevice, "there is one device, number 0");
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return failed(cudaErrorInvalidDevice, "there is one device, number 0");
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      return *value = state().capability / 10, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      return *value = state().capability % 10, cudaSuccess;
    case cudaDevAttrMaxThreadsPerBlock:
      return *value = 1024, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return *value = static_cast<int>(stand_in::most_shared()), cudaSuccess;
    default:
      return failed(cudaErrorNotSupported, "the stand-in runtime does not know attribute " +
                                               std::to_string(attribute) + " of devices");
  }
}
cudaError_t cudaDeviceSynchronize() { return context(); }

// ---- streams: all in order ----------------------------------------------------------------------
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  Lock lock(state().mutex);
  if (const cudaError_t lost = context()) return lost;
  *stream = reinterpret_cast<cudaStream_t>(new char);
  state().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(state().mutex);
  if (!state().streams.erase(stream)) return failed(cudaErrorInvalidResourceHandle, "no such stream");
  delete reinterpret_cast<char*>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(state().mutex);
  return stand_in::on_stream(stream);
}

// ---- memory -------------------------------------------------------------------------------------
cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  Lock lock(state().mutex);
  if (const cudaError_t lost = context()) return lost;
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  // Exactly so many bytes are the kernel's; aligned as CUDA promises.
  void* made = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!made) return failed(cudaErrorMemoryAllocation, "no memory for " + std::to_string(bytes) + " bytes");
  std::memset(made, 0xCD, bytes);
  state().memory.add(made, bytes, false);
  return *pointer = made, cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  Lock lock(state().mutex);
  if (!pointer) return context();
  if (!state().memory.remove(pointer))
    return failed(cudaErrorInvalidValue, "cudaFree: not what cudaMalloc gave");
  std::free(pointer);
  return context();
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  Lock lock(state().mutex);
  if (const cudaError_t lost = context()) return lost;
  const bool ours = state().memory.allocation(pointer).first;
  *attributes = {};
  attributes->type = ours ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  attributes->device = ours ? 0 : -2;  // cudaInvalidDeviceId
  attributes->devicePointer = ours ? const_cast<void*>(pointer) : nullptr;
  attributes->hostPointer = ours ? nullptr : const_cast<void*>(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return stand_in::copy(target, source, bytes, kind);
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  Lock lock(state().mutex);
  const cudaError_t status = stand_in::on_stream(stream);
  return status == cudaSuccess ? stand_in::copy(target, source, bytes, kind) : status;
}
cudaError_t cudaMemset(void* target, int value, size_t bytes) { return stand_in::fill(target, value, bytes); }
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  Lock lock(state().mutex);
  const cudaError_t status = stand_in::on_stream(stream);
  return status == cudaSuccess ? stand_in::fill(target, value, bytes) : status;
}

// ---- the driver's functions ---------------------------------------------------------------------
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned /*version*/,
                                             unsigned long long /*flags*/,
                                             cudaDriverEntryPointQueryResult* found) {
  *function = stand_in::driver_function(name);
  if (!*function) stand_in::say(std::string("the stand-in runtime has no ") + name);
  if (found) *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

#pragma GCC visibility pop
}
