// tensor_map.h: descriptions of tensors in global memory for TMA, made on the host
//
// pcn::TensorMap is CUDA's CUtensorMap, or its stand-in in the emulator; kernels take it by value as
// `const __grid_constant__ pcn::TensorMap`. Dimensions are listed innermost first; strides are in bytes.
#pragma once
#ifdef __CUDACC__
#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>
#else
#include "emulation/executor_api.h"
#endif

#include <cstddef>
#include <cstdint>

#include "common/tensor_map_problem.h"

namespace pcn {

// kTf32: float32 in memory that loads round to TF32. To nearest, ties away from zero, is what the emulator does; that
// they round is what CUTLASS says ("TMA converts f32 input to tf32"), how they do it no document.
enum class TensorElement : int { kBf16, kFloat32, kTf32 };
// Swizzle of the box in shared memory. The inner box is at most that many bytes, and its rows lie that many
// bytes apart even where it is less: shared memory must have room for them. An mbarrier expects the bytes of
// the box alone ("amount of data copied in bytes", PTX ISA, cp.async.bulk.tensor).
enum class TensorSwizzle : int { kNone = 0, k32 = 1, k64 = 2, k128 = 3 };

// encode_tiled and encode_im2col return cudaErrorInvalidValue where an argument breaks a rule of the driver's
// documents (CUDA driver API, cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col), cudaErrorNotSupported where
// the driver is too old for them; tensor_map_problem() then says which argument. The strides' order, which the
// documents show as a formula, is not among the rules: rows may overlap.
namespace detail {
inline int bytes_of(TensorElement e) { return e == TensorElement::kBf16 ? 2 : 4; }
inline cudaError_t refuse(const std::string& text, cudaError_t error = cudaErrorInvalidValue) {
  tensor_map_problem() = "tensor map: " + text;
  return error;
}
// What both kinds of maps ask; empty where all is right.
inline std::string wrong_map(const void* map, const void* base, int rank, const uint64_t* dim,
                             const uint64_t* stride, uint64_t inner_bytes, TensorSwizzle swizzle) {
  if (reinterpret_cast<uintptr_t>(map) % 64) return "the map itself must be aligned to 64 bytes";
  if (reinterpret_cast<uintptr_t>(base) % 16) return "the tensor must be aligned to 16 bytes";
  for (int i = 0; i < rank; ++i) {
    if (dim[i] == 0 || dim[i] > (uint64_t{1} << 32))
      return "dimension " + std::to_string(i) + " is " + std::to_string(dim[i]) + ", must be 1 to 2^32";
  }
  for (int i = 0; i + 1 < rank; ++i) {
    if (stride[i] % 16 || stride[i] >= (uint64_t{1} << 40))
      return "the stride of dimension " + std::to_string(i + 1) + " is " + std::to_string(stride[i]) +
             " bytes, must be a multiple of 16 below 2^40";
  }
  const uint64_t span =
      swizzle == TensorSwizzle::kNone ? ~uint64_t{0} : uint64_t{16} << static_cast<int>(swizzle);
  if (inner_bytes == 0 || inner_bytes % 16 || inner_bytes > span)
    return "a row of the box is " + std::to_string(inner_bytes) +
           " bytes, must be a multiple of 16 and not wider than the swizzle";
  return {};
}
inline std::string wrong_tiled(const void* map, const void* base, TensorElement element, int rank,
                               const uint64_t* dim, const uint64_t* stride, const uint32_t* box,
                               TensorSwizzle swizzle) {
  for (int i = 0; i < rank; ++i) {
    if (box[i] == 0 || box[i] > 256)
      return "the box has " + std::to_string(box[i]) + " along dimension " + std::to_string(i) +
             ", must have 1 to 256";
  }
  return wrong_map(map, base, rank, dim, stride, uint64_t{box[0]} * static_cast<uint64_t>(bytes_of(element)),
                   swizzle);
}
inline std::string wrong_im2col(const void* map, const void* base, TensorElement element, const uint64_t* dim,
                                const uint64_t* stride, const int* lower, const int* upper, uint32_t channels,
                                uint32_t pixels, const uint32_t* element_stride, TensorSwizzle swizzle) {
  if (channels > 256 || pixels == 0 || pixels > 1024)
    return std::to_string(pixels) + " pixels of " + std::to_string(channels) +
           " channels, must be 1 to 1024 of at most 256";
  for (int i = 0; i < 4; ++i) {
    if (element_stride[i] == 0 || element_stride[i] > 8)
      return "the step along dimension " + std::to_string(i) + " is " + std::to_string(element_stride[i]) +
             ", must be 1 to 8";
  }
  for (int i = 0; i < 2; ++i) {
    if (lower[i] < -128 || lower[i] > 127 || upper[i] < -128 || upper[i] > 127)
      return "a corner of the bounding box lies beyond -128 to 127";
    if (lower[i] > static_cast<int64_t>(dim[i + 1]) - 1 + upper[i]) return "the bounding box is empty";
  }
  return wrong_map(map, base, 4, dim, stride, uint64_t{channels} * static_cast<uint64_t>(bytes_of(element)),
                   swizzle);
}
}  // namespace detail

#ifdef __CUDACC__
typedef CUtensorMap TensorMap;

namespace detail {
// libcuda is not linked, so that the module imports on machines without a driver: the runtime finds the
// function, once; each has a type of its own.
template <class F>
cudaError_t driver_function(const char* name, F* function) {
  static std::atomic<F> known{nullptr};
  if ((*function = known.load(std::memory_order_relaxed)) != nullptr) return cudaSuccess;
  void* p = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &p, 12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess || !p)
    return refuse(std::string("the driver has no ") + name, cudaErrorNotSupported);
  known = *function = reinterpret_cast<F>(p);
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
// Of a driver that has spoken; its own reason is a number.
inline cudaError_t told(CUresult result, const std::string& wrong) {
  if (result == CUDA_SUCCESS) return cudaSuccess;
  return refuse(wrong.empty() ? "the driver refuses it: CUresult " + std::to_string(result) : wrong);
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
  tensor_map_problem().clear();
  if (rank < 1 || rank > 5) return detail::refuse("the rank must be 1 to 5");
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
  return detail::told(result, detail::wrong_tiled(map, base, element, rank, dim, stride, box, swizzle));
}

// NHWC activations as (C, W, H, N); the bounding box of filter origins is [lower, dim - 1 + upper] in {w, h}.
inline cudaError_t encode_im2col(TensorMap* map, const void* base, TensorElement element,
                                 const uint64_t (&dim)[4], const uint64_t (&stride)[3], const int (&lower)[2],
                                 const int (&upper)[2], uint32_t channels, uint32_t pixels,
                                 const uint32_t (&element_stride)[4], TensorSwizzle swizzle) {
  tensor_map_problem().clear();
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
  return detail::told(result, detail::wrong_im2col(map, base, element, dim, stride, lower, upper, channels,
                                                   pixels, element_stride, swizzle));
}

#else
typedef emulation::TensorMap TensorMap;

namespace detail {
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
  tensor_map_problem().clear();
  if (rank < 1 || rank > 5) return detail::refuse("the rank must be 1 to 5");
  const std::string wrong = detail::wrong_tiled(map, base, element, rank, dim, stride, box, swizzle);
  if (!wrong.empty()) return detail::refuse(wrong);
  TensorMap m = detail::blank(base, rank, element, dim, stride, swizzle);
  for (int i = 0; i < rank; ++i) m.box[i] = static_cast<uint16_t>(box[i]);
  *map = m;
  return cudaSuccess;
}

inline cudaError_t encode_im2col(TensorMap* map, const void* base, TensorElement element,
                                 const uint64_t (&dim)[4], const uint64_t (&stride)[3], const int (&lower)[2],
                                 const int (&upper)[2], uint32_t channels, uint32_t pixels,
                                 const uint32_t (&element_stride)[4], TensorSwizzle swizzle) {
  tensor_map_problem().clear();
  const std::string wrong = detail::wrong_im2col(map, base, element, dim, stride, lower, upper, channels,
                                                 pixels, element_stride, swizzle);
  if (!wrong.empty()) return detail::refuse(wrong);
  if (element_stride[3] != 1)
    return detail::refuse("steps over images are not emulated", cudaErrorNotSupported);
  TensorMap m = detail::blank(base, 4, element, dim, stride, swizzle);
  m.im2col = 1;
  m.box[0] = static_cast<uint16_t>(channels);
  m.box[1] = static_cast<uint16_t>(pixels);
  for (int i = 0; i < 4; ++i) m.element_stride[i] = static_cast<uint8_t>(element_stride[i]);
  for (int i = 0; i < 2; ++i) {
    m.lower[i] = static_cast<int8_t>(lower[i]);
    m.upper[i] = static_cast<int8_t>(upper[i]);
  }
  *map = m;
  return cudaSuccess;
}
#endif

}  // namespace pcn
