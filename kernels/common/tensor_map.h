// tensor_map.h: descriptions of tensors in global memory for TMA, made on the host
//
// pcn::TensorMap is CUDA's CUtensorMap, or its stand-in in the emulator; kernels take it by value as
// `const __grid_constant__ pcn::TensorMap`. Dimensions are listed innermost first; strides are in bytes.
#pragma once
#ifdef __CUDACC__
#include <cuda.h>
#include <cuda_runtime.h>
#else
#include "emulation/executor_api.h"
#endif

#include <cstddef>
#include <cstdint>

namespace pcn {

// kTf32: float32 in memory that loads round to TF32. To nearest, ties away from zero, is what the emulator does; that
// they round is what CUTLASS says ("TMA converts f32 input to tf32"), how they do it no document.
enum class TensorElement : int { kBf16, kFloat32, kTf32 };
// Swizzle of the box in shared memory. The inner box is at most that many bytes, and its rows lie that many
// bytes apart even where it is less: shared memory must have room for them. An mbarrier expects the bytes of
// the box alone ("amount of data copied in bytes", PTX ISA, cp.async.bulk.tensor).
enum class TensorSwizzle : int { kNone = 0, k32 = 1, k64 = 2, k128 = 3 };

#ifdef __CUDACC__
typedef CUtensorMap TensorMap;

namespace detail {
// libcuda is not linked, so that the module imports on machines without a driver: the runtime finds the
// function.
template <class F>
cudaError_t driver_function(const char* name, F* function) {
  void* p = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &p, 12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess || !p) return cudaErrorNotSupported;
  *function = reinterpret_cast<F>(p);
  return cudaSuccess;
}
inline CUtensorMapDataType element_type(TensorElement e) {
  return e == TensorElement::kBf16   ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
         : e == TensorElement::kTf32 ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
                                     : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}
inline CUtensorMapSwizzle swizzle_type(TensorSwizzle s) {
  return s == TensorSwizzle::k128  ? CU_TENSOR_MAP_SWIZZLE_128B
         : s == TensorSwizzle::k64 ? CU_TENSOR_MAP_SWIZZLE_64B
         : s == TensorSwizzle::k32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                   : CU_TENSOR_MAP_SWIZZLE_NONE;
}
typedef CUresult EncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                             const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                             CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
typedef CUresult EncodeIm2col(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const int*, const int*, cuuint32_t, cuuint32_t,
                              const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
}  // namespace detail

// dim[rank], stride[rank - 1] (of dimension 1 and up), box[rank] elements.
inline cudaError_t encode_tiled(TensorMap* map, const void* base, TensorElement element, int rank,
                                const uint64_t* dim, const uint64_t* stride, const uint32_t* box,
                                TensorSwizzle swizzle) {
  if (rank < 1 || rank > 5) return cudaErrorInvalidValue;
  detail::EncodeTiled* encode = nullptr;
  if (cudaError_t error = detail::driver_function("cuTensorMapEncodeTiled", &encode)) return error;
  cuuint64_t d[5], s[5];
  cuuint32_t b[5], one[5] = {1, 1, 1, 1, 1};
  for (int i = 0; i < rank; ++i) d[i] = dim[i], b[i] = box[i];
  for (int i = 0; i + 1 < rank; ++i) s[i] = stride[i];
  const CUresult result =
      encode(map, detail::element_type(element), static_cast<cuuint32_t>(rank), const_cast<void*>(base), d, s,
             b, one, CU_TENSOR_MAP_INTERLEAVE_NONE, detail::swizzle_type(swizzle),
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// NHWC activations as (C, W, H, N); the bounding box of filter origins is [lower, dim - 1 + upper] in {w, h}.
inline cudaError_t encode_im2col(TensorMap* map, const void* base, TensorElement element,
                                 const uint64_t (&dim)[4], const uint64_t (&stride)[3], const int (&lower)[2],
                                 const int (&upper)[2], uint32_t channels, uint32_t pixels,
                                 const uint32_t (&element_stride)[4], TensorSwizzle swizzle) {
  detail::EncodeIm2col* encode = nullptr;
  if (cudaError_t error = detail::driver_function("cuTensorMapEncodeIm2col", &encode)) return error;
  cuuint64_t d[4], s[3];
  cuuint32_t e[4];
  for (int i = 0; i < 4; ++i) d[i] = dim[i], e[i] = element_stride[i];
  for (int i = 0; i < 3; ++i) s[i] = stride[i];
  const CUresult result =
      encode(map, detail::element_type(element), 4, const_cast<void*>(base), d, s, lower, upper, channels,
             pixels, e, CU_TENSOR_MAP_INTERLEAVE_NONE, detail::swizzle_type(swizzle),
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

#else
typedef emulation::TensorMap TensorMap;

namespace detail {
inline int bytes_of(TensorElement e) { return e == TensorElement::kBf16 ? 2 : 4; }
// What the driver refuses is refused here: CUDA driver API, cuTensorMapEncodeTiled and
// cuTensorMapEncodeIm2col. (The strides' order, which their documents show as a formula, is not among it:
// views may overlap.)
inline bool encodable(const TensorMap* map, const void* base, int rank, const uint64_t* dim,
                      const uint64_t* stride, uint64_t inner_bytes, TensorSwizzle swizzle) {
  if (reinterpret_cast<uintptr_t>(map) % alignof(TensorMap) || reinterpret_cast<uintptr_t>(base) % 16) {
    return false;
  }
  for (int i = 0; i < rank; ++i) {
    if (dim[i] == 0 || dim[i] > (uint64_t{1} << 32)) return false;
  }
  for (int i = 0; i + 1 < rank; ++i) {
    if (stride[i] % 16 || stride[i] >= (uint64_t{1} << 40)) return false;
  }
  const uint64_t span =
      swizzle == TensorSwizzle::kNone ? ~uint64_t{0} : uint64_t{16} << static_cast<int>(swizzle);
  return inner_bytes != 0 && inner_bytes % 16 == 0 && inner_bytes <= span;
}
inline TensorMap blank(const void* base, int rank, TensorElement element, const uint64_t* dim,
                       const uint64_t* stride, TensorSwizzle swizzle) {
  TensorMap m{};
  m.base = static_cast<const char*>(base);
  m.magic = TensorMap::MAGIC;
  m.rank = static_cast<uint8_t>(rank);
  m.element_bytes = static_cast<uint8_t>(bytes_of(element));
  m.swizzle = static_cast<uint8_t>(swizzle);
  m.to_tf32 = element == TensorElement::kTf32;
  m.stride[0] = m.element_bytes;
  for (int i = 0; i < rank; ++i) m.dim[i] = dim[i], m.element_stride[i] = 1;
  for (int i = 0; i + 1 < rank; ++i) m.stride[i + 1] = stride[i];
  return m;
}
}  // namespace detail

inline cudaError_t encode_tiled(TensorMap* map, const void* base, TensorElement element, int rank,
                                const uint64_t* dim, const uint64_t* stride, const uint32_t* box,
                                TensorSwizzle swizzle) {
  if (rank < 1 || rank > 5) return cudaErrorInvalidValue;
  const uint64_t inner = static_cast<uint64_t>(box[0]) * detail::bytes_of(element);
  if (!detail::encodable(map, base, rank, dim, stride, inner, swizzle)) return cudaErrorInvalidValue;
  TensorMap m = detail::blank(base, rank, element, dim, stride, swizzle);
  for (int i = 0; i < rank; ++i) {
    if (box[i] == 0 || box[i] > 256) return cudaErrorInvalidValue;
    m.box[i] = static_cast<uint16_t>(box[i]);
  }
  *map = m;
  return cudaSuccess;
}

inline cudaError_t encode_im2col(TensorMap* map, const void* base, TensorElement element,
                                 const uint64_t (&dim)[4], const uint64_t (&stride)[3], const int (&lower)[2],
                                 const int (&upper)[2], uint32_t channels, uint32_t pixels,
                                 const uint32_t (&element_stride)[4], TensorSwizzle swizzle) {
  const uint64_t inner = static_cast<uint64_t>(channels) * detail::bytes_of(element);
  if (!detail::encodable(map, base, 4, dim, stride, inner, swizzle) || channels > 256 || pixels == 0 ||
      pixels > 1024) {
    return cudaErrorInvalidValue;
  }
  TensorMap m = detail::blank(base, 4, element, dim, stride, swizzle);
  m.im2col = 1;
  m.box[0] = static_cast<uint16_t>(channels);
  m.box[1] = static_cast<uint16_t>(pixels);
  for (int i = 0; i < 4; ++i) {
    if (element_stride[i] == 0 || element_stride[i] > 8) return cudaErrorInvalidValue;
    m.element_stride[i] = static_cast<uint8_t>(element_stride[i]);
  }
  if (element_stride[3] != 1) return cudaErrorNotSupported;  // steps over images are not emulated
  for (int i = 0; i < 2; ++i) {
    if (lower[i] < -128 || lower[i] > 127 || upper[i] < -128 || upper[i] > 127) return cudaErrorInvalidValue;
    if (lower[i] > static_cast<int64_t>(dim[i + 1]) - 1 + upper[i]) return cudaErrorInvalidValue;  // empty
    m.lower[i] = static_cast<int8_t>(lower[i]);
    m.upper[i] = static_cast<int8_t>(upper[i]);
  }
  *map = m;
  return cudaSuccess;
}
#endif

}  // namespace pcn
