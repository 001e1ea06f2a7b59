// device.h: the vocabulary kernels are written in
//
// The one header of the kernels (besides their family's) and, with primitives.h, the only place where device
// and emulation differ. Under nvcc it is thin wrappers; under g++ kernels/emulation stands behind the same
// names.
//
//   pcn::launch("stem", kernel<...>, grid, block, dynamic_bytes, stream, args...) -> cudaError_t
//   pcn::launch_dependent(...)  the same; may start before the grids before it in its stream have ended, and calls
//                               grid_dependency_wait() before it touches what they do (sm_90)
//   pcn::shared<T>()          -> T&   the kernel's one static shared object of struct type T (at most 48 KiB, no
//                                     constructor)
//   pcn::dynamic_shared<T>()  -> T*   the dynamic shared window; 16-byte aligned only
//   pcn::trap()                       ends the launch with an error: code that must not be reached
//   pcn::mul_hi(a, b)                 high word of the 32 x 32-bit product
//   pcn::rsqrt_normal(x)              rsqrtf of a number that is not denormal, in one instruction
//   PCN_UNROLL, PCN_NO_UNROLL         before a loop
//   PCN_UNROLL_ON_DEVICE              the same where g++ vectorises better what it finds rolled
//
// Kernel files put their kernels, shared structs and helpers in an anonymous namespace: two families may then
// use one name. Within a family a name is used once, its headers' included: its files may be compiled as one
// unit (cmake/Units.cmake).
#pragma once
#include "common/image.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <cfloat>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#include <utility>

#define PCN_UNROLL _Pragma("unroll")
#define PCN_NO_UNROLL _Pragma("unroll 1")
#define PCN_UNROLL_ON_DEVICE _Pragma("unroll")
#define PCN_FN __device__ __forceinline__                // device function
#define PCN_HOST_FN __host__ __device__ __forceinline__  // function of both sides

namespace pcn {

template <class T>
PCN_FN T& shared() {
  static_assert(std::is_trivially_default_constructible<T>::value, "shared memory runs no constructors");
  static_assert(sizeof(T) <= 48 * 1024, "static shared memory is limited to 48 KiB: use dynamic_shared");
  __shared__ alignas(alignof(T) > 16 ? alignof(T) : 16) T object;
  return object;
}

extern __shared__ __align__(16) unsigned char dynamic_shared_window[];
template <class T>
PCN_FN T* dynamic_shared() {
  return reinterpret_cast<T*>(dynamic_shared_window);
}

namespace detail {
// PYCONVNET_SYNC=1 synchronises after every launch, so that an asynchronous fault is reported by the kernel
// it is of.
inline bool synchronise_launches() {
  static const bool value = [] {
    const char* text = std::getenv("PYCONVNET_SYNC");
    return text && *text && *text != '0';
  }();
  return value;
}
}  // namespace detail

namespace detail {
template <class... P, class... A>
cudaError_t launch(bool dependent, void (*kernel)(P...), dim3 grid, dim3 block, size_t dynamic_bytes,
                   cudaStream_t stream, A&&... args) {
  cudaError_t error = cudaSuccess;
  if (dynamic_bytes > 0) {  // static shared memory alone needs no asking
    const KernelImage image = image_of(reinterpret_cast<const void*>(kernel));
    error = image.status;
    if (error == cudaSuccess && asks_for_shared(image.static_bytes, dynamic_bytes)) {
      error =
          cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(dynamic_bytes));
    }
  }
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = dynamic_bytes;
    config.stream = stream;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = dependent ? 1 : 0;
    error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
  }
  if (error != cudaSuccess) {
    (void)cudaGetLastError();  // a refused launch must not haunt the next call that asks
    return error;
  }
  return synchronise_launches() ? cudaStreamSynchronize(stream) : cudaSuccess;
}
}  // namespace detail

// The stem names the kernel in the emulator's reports; CUDA's own tools know the kernel's symbol.
template <class... P, class... A>
cudaError_t launch(const char* /*stem*/, void (*kernel)(P...), dim3 grid, dim3 block, size_t dynamic_bytes,
                   cudaStream_t stream, A&&... args) {
  return detail::launch(false, kernel, grid, block, dynamic_bytes, stream, std::forward<A>(args)...);
}
template <class... P, class... A>
cudaError_t launch_dependent(const char* /*stem*/, void (*kernel)(P...), dim3 grid, dim3 block,
                             size_t dynamic_bytes, cudaStream_t stream, A&&... args) {
  return detail::launch(true, kernel, grid, block, dynamic_bytes, stream, std::forward<A>(args)...);
}

PCN_FN void trap() { __trap(); }
PCN_FN uint32_t mul_hi(uint32_t a, uint32_t b) { return __umulhi(a, b); }

PCN_FN float rsqrt_normal(float x) {  // rsqrtf takes 4, three of them for denormal numbers
  float root;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

}  // namespace pcn

#else
#include "emulation/device_side.h"
#endif
