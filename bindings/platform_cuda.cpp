// The platform of pyconvnet._cuda: arrays with __cuda_array_interface__ (CuPy, PyTorch, Numba), and CUDA's
// runtime.
#include <stdexcept>

#include "platform.h"

namespace pcn::bind::platform {

const char* const kInterface = "__cuda_array_interface__";
const char* const kWanted = "a CUDA array";

std::string admit(void* pointer, std::size_t /*bytes*/, bool /*writable*/) {
  cudaPointerAttributes attributes{};
  int device = 0;
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
    cudaGetLastError();  // not to be blamed on the next launch
    return "does not point to memory that CUDA knows";
  }
  if (const cudaError_t status = cudaGetDevice(&device)) throw std::runtime_error(error_text(status));
  if (attributes.type == cudaMemoryTypeUnregistered) return "must be in device memory, got host memory";
  if (attributes.type == cudaMemoryTypeDevice && attributes.device != device)
    return "is on device cuda:" + std::to_string(attributes.device) +
           ", the current one is cuda:" + std::to_string(device);
  return {};
}
void release(void* /*pointer*/) {}

std::string error_text(cudaError_t status) {
  std::string text = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
  cudaGetLastError();  // clears a launch error, which would else be reported by the next call too
  if (status == cudaErrorNoKernelImageForDevice)
    text += "; this module was built for " PCN_ARCHITECTURES ", see CMAKE_CUDA_ARCHITECTURES in README.md";
  return text;
}

int capability() {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    return 0;
  return 10 * major + minor;
}

namespace {

int device_count(std::string& reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return count;
  cudaGetLastError();
  reason = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
  return 0;
}

int runtime_version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return version;
}

}  // namespace

const EmulatorControls* emulator_controls() { return nullptr; }
const CudaControls* cuda_controls() {
  static constexpr CudaControls controls{PCN_ARCHITECTURES, device_count, runtime_version};
  return &controls;
}

}  // namespace pcn::bind::platform
