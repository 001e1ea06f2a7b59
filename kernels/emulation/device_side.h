// device_side.h: device.h when g++ compiles: CUDA's keywords, built-in variables and intrinsics on top of the
// executor
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulation/executor_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __align__(n) __attribute__((aligned(n)))

#define threadIdx (::pcn::emulation::context->thread)
#define blockIdx (::pcn::emulation::context->block)
#define blockDim (::pcn::emulation::context->block_dim)
#define gridDim (::pcn::emulation::context->grid_dim)
#define warpSize 32

#define PCN_UNROLL _Pragma("GCC unroll 16")
#define PCN_NO_UNROLL _Pragma("GCC unroll 1")
#define PCN_UNROLL_ON_DEVICE _Pragma("GCC unroll 1")
#define PCN_FN inline __attribute__((always_inline))
#define PCN_HOST_FN inline __attribute__((always_inline))

#include "emulation/intrinsics.h"

namespace pcn {

using emulation::launch;
template <class... A>
inline cudaError_t launch_dependent(A&&... args) {  // grids run one after the other
  return launch(std::forward<A>(args)...);
}

// Internal linkage: the tag that identifies the object must differ between files that use one name for two
// structs.
template <class T>
static inline T& shared() {
  static_assert(std::is_trivially_default_constructible<T>::value, "shared memory runs no constructors");
  static_assert(sizeof(T) <= 48 * 1024, "static shared memory is limited to 48 KiB: use dynamic_shared");
  static const char tag = 0;
  return *static_cast<T*>(emulation::static_shared(&tag, sizeof(T), alignof(T) > 16 ? alignof(T) : 16));
}

template <class T>
static inline T* dynamic_shared() {
  return static_cast<T*>(emulation::dynamic_shared_window());
}

inline void trap() { emulation::fail("trap"); }
inline uint32_t mul_hi(uint32_t a, uint32_t b) { return __umulhi(a, b); }
inline float rsqrt_normal(float x) { return rsqrtf(x); }

}  // namespace pcn
