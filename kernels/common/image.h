// image.h: what the code of a kernel was compiled for, as it is loaded on the current device. Host code only.
//
// A module holds several images of each kernel: machine code for some architectures, PTX for others. The
// driver loads machine code that fits the device, else compiles PTX that is old enough. What a body behind
// __CUDA_ARCH__ (kTensorCores, and the primitives that have it) does is decided by what the image was
// compiled for, not by the device: in PTX for compute_75 the tensor cores are left out, on the newest card,
// too. So a row whose kernels have such bodies says in its `supports`
//   image_at_least(kernel, kTensorCoresSince)
// and the body that is left out traps, should it ever run. Kernels below a hopper/ folder are compiled for
// 90a alone, in machine code that runs nowhere else: for them image_at_least(kernel, 90) asks whether there
// is an image at all.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

namespace pcn {

struct KernelImage {
  cudaError_t status;
  int version;               // of the architecture it was compiled for, 10 * major + minor
  std::size_t static_bytes;  // of shared memory; not known in the emulator
};

namespace detail {
// There is a device, but no code that it could run.
inline bool lacks_code(cudaError_t status) {
  switch (status) {
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidKernelImage:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidPtx:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilationDisabled:
      return true;
    default:
      return false;
  }
}

inline KernelImage ask_for_image(const void* kernel) {
  cudaFuncAttributes attributes = {};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel);
  if (status == cudaSuccess) return {status, attributes.ptxVersion, attributes.sharedSizeBytes};
  (void)cudaGetLastError();  // must not haunt the next call that asks
  return {status, 0, 0};
}
}  // namespace detail

// Loads the kernel where it is not, so not to be called first while a stream is captured.
inline KernelImage image_of(const void* kernel) {
#ifdef PCN_EMULATED  // whose answer a test may change
  return detail::ask_for_image(kernel);
#else
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device)) {
    (void)cudaGetLastError();
    return {status, 0, 0};
  }
  static std::mutex mutex;
  static auto& known = *new std::map<std::pair<int, const void*>, KernelImage>;  // outlives every thread
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({device, kernel});
  if (found != known.end()) return found->second;
  const KernelImage image = detail::ask_for_image(kernel);
  if (image.status == cudaSuccess || detail::lacks_code(image.status)) known[{device, kernel}] = image;
  return image;
#endif
}

// Whether the current device runs `kernel` from code compiled for `version` (80: compute_80) or newer. True
// where there is no device to ask: the launch will say so.
template <class... P>
bool image_at_least(void (*kernel)(P...), int version) {
  const KernelImage image = image_of(reinterpret_cast<const void*>(kernel));
  if (image.status == cudaSuccess) return image.version >= version;
  return !detail::lacks_code(image.status);
}

// Bytes of shared memory that every block may have, static and dynamic together; a kernel that wants more has
// to ask for it.
constexpr std::size_t kSharedUnasked = 48 * 1024;
inline bool asks_for_shared(std::size_t static_bytes, std::size_t dynamic_bytes) {
  return static_bytes + dynamic_bytes > kSharedUnasked;
}

}  // namespace pcn
