// cuda_runtime_api.h: stand-in for the CUDA toolkit's header when g++ builds the emulator
//
// The emulated build must work on a machine without a CUDA toolkit, so the few types and functions that
// launchers and bindings use are declared here, with CUDA's names and values. This folder comes first in the
// include path of the emulated build and is never seen by nvcc. Everything is hidden: a real libcudart in the
// same process is not affected.
#pragma once
#include <cstddef>

#define PCN_TOOLKIT_STAND_IN 1
#define CUDART_VERSION 12000

// ---- vector types -------------------------------------------------------------------------------
#define PCN_VECTOR_TYPES(T, NAME, ALIGN2, ALIGN4)                    \
  struct NAME##1 { T x; };                                           \
  struct alignas(ALIGN2) NAME##2 { T x, y; };                        \
  struct NAME##3 { T x, y, z; };                                     \
  struct alignas(ALIGN4) NAME##4 { T x, y, z, w; };                  \
  inline NAME##1 make_##NAME##1(T x) { return {x}; }                 \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }         \
  inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; } \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
PCN_VECTOR_TYPES(signed char, char, 2, 4)
PCN_VECTOR_TYPES(unsigned char, uchar, 2, 4)
PCN_VECTOR_TYPES(short, short, 4, 8)
PCN_VECTOR_TYPES(unsigned short, ushort, 4, 8)
PCN_VECTOR_TYPES(int, int, 8, 16)
PCN_VECTOR_TYPES(unsigned, uint, 8, 16)
PCN_VECTOR_TYPES(float, float, 8, 16)
PCN_VECTOR_TYPES(long long, longlong, 16, 16)
PCN_VECTOR_TYPES(unsigned long long, ulonglong, 16, 16)
PCN_VECTOR_TYPES(double, double, 16, 16)
#undef PCN_VECTOR_TYPES

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

// ---- runtime types ------------------------------------------------------------------------------
enum cudaError {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidKernelImage = 200,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorInvalidPtx = 218,
  cudaErrorJitCompilerNotFound = 221,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorJitCompilationDisabled = 223,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorUnknown = 999
};
typedef cudaError cudaError_t;
typedef struct CUstream_st* cudaStream_t;
enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
  int ptxVersion, binaryVersion;
};
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

// ---- runtime functions (runtime.cpp) ------------------------------------------------------------
#pragma GCC visibility push(hidden)
extern "C" {
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaGetDevice(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int device);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaMalloc(void**, size_t);
cudaError_t cudaFree(void*);
cudaError_t cudaMemcpy(void*, const void*, size_t, cudaMemcpyKind);
cudaError_t cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemset(void*, int, size_t);
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t);
}
#pragma GCC visibility pop

template <class T>
cudaError_t cudaMalloc(T** p, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(p), bytes);
}
