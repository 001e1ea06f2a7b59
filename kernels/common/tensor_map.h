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
#include <memory>

#include "common/tensor_map_cache.h"
#include "common/tensor_map_problem.h"

namespace pcn {

// kTf32: float32 in memory that loads round to TF32. To nearest, ties away from zero, is what the emulator does; that
// they round is what CUTLASS says ("TMA converts f32 input to tf32"), how they do it no document.
enum class TensorElement : int { kBf16, kFloat32, kTf32 };
// Swizzle of the box in shared memory. The inner box is at most that many bytes, and its rows lie that many
// bytes apart even where it is less: shared memory must have room for them. An mbarrier expects the bytes of
// the box alone ("amount of data copied in bytes", PTX ISA, cp.async.bulk.tensor).
enum class TensorSwizzle : int { kNone = 0, k32 = 1, k64 = 2, k128 = 3 };

// All that a map depends on and all that its encoder is shown; what a kind of map does not have is 0.
struct TensorMapKey {
  const void* base;
  uint64_t dim[5], stride[4];          // of dimension 0 and 1 and up
  uint32_t box[5], element_stride[5];  // im2col: the box is {channels, pixels}
  int lower[2], upper[2];
  TensorElement element;
  TensorSwizzle swizzle;
  int rank, im2col;
};

// encode_tiled and encode_im2col return cudaErrorInvalidValue where an argument breaks a rule of the driver's
// documents (CUDA driver API, cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col), cudaErrorNotSupported where
// the driver is too old for them; tensor_map_problem() then says which argument. The strides' order, which the
// documents show as a formula, is not among the rules: rows may overlap.
namespace detail {
inline cudaError_t refuse(const std::string& text, cudaError_t error = cudaErrorInvalidValue) {
  tensor_map_problem() = "tensor map: " + text;
  return error;
}
inline int bytes_of(TensorElement e) { return e == TensorElement::kBf16 ? 2 : 4; }
// Of a tiled map; empty where all is right.
inline std::string wrong_box(const TensorMapKey& k) {
  for (int i = 0; i < k.rank; ++i) {
    if (k.box[i] == 0 || k.box[i] > 256)
      return "the box has " + std::to_string(k.box[i]) + " along dimension " + std::to_string(i) +
             ", must have 1 to 256";
  }
  return {};
}
inline std::string wrong_pixels(const TensorMapKey& k) {
  if (k.box[0] > 256 || k.box[1] == 0 || k.box[1] > 1024)
    return std::to_string(k.box[1]) + " pixels of " + std::to_string(k.box[0]) +
           " channels, must be 1 to 1024 of at most 256";
  for (int i = 0; i < 4; ++i) {
    if (k.element_stride[i] == 0 || k.element_stride[i] > 8)
      return "the step along dimension " + std::to_string(i) + " is " + std::to_string(k.element_stride[i]) +
             ", must be 1 to 8";
  }
  for (int i = 0; i < 2; ++i) {
    if (k.lower[i] < -128 || k.lower[i] > 127 || k.upper[i] < -128 || k.upper[i] > 127)
      return "a corner of the bounding box lies beyond -128 to 127";
    if (k.lower[i] > static_cast<int64_t>(k.dim[i + 1]) - 1 + k.upper[i]) return "the bounding box is empty";
  }
  return {};
}
inline std::string wrong_map(const TensorMapKey& k) {
  const std::string wrong = k.im2col ? wrong_pixels(k) : wrong_box(k);
  if (!wrong.empty()) return wrong;
  if (reinterpret_cast<uintptr_t>(k.base) % 16) return "the tensor must be aligned to 16 bytes";
  for (int i = 0; i < k.rank; ++i) {
    if (k.dim[i] == 0 || k.dim[i] > (uint64_t{1} << 32))
      return "dimension " + std::to_string(i) + " is " + std::to_string(k.dim[i]) + ", must be 1 to 2^32";
  }
  for (int i = 0; i + 1 < k.rank; ++i) {
    if (k.stride[i] % 16 || k.stride[i] >= (uint64_t{1} << 40))
      return "the stride of dimension " + std::to_string(i + 1) + " is " + std::to_string(k.stride[i]) +
             " bytes, must be a multiple of 16 below 2^40";
  }
  const uint64_t span =
      k.swizzle == TensorSwizzle::kNone ? ~uint64_t{0} : uint64_t{16} << static_cast<int>(k.swizzle);
  const uint64_t inner_bytes = uint64_t{k.box[0]} * static_cast<uint64_t>(bytes_of(k.element));
  if (inner_bytes == 0 || inner_bytes % 16 || inner_bytes > span)
    return "a row of the box is " + std::to_string(inner_bytes) +
           " bytes, must be a multiple of 16 and not wider than the swizzle";
  return {};
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
typedef CUresult EncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                             const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                             CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
typedef CUresult EncodeIm2col(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const int*, const int*, cuuint32_t, cuuint32_t,
                              const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

inline CUresult driver_tiled(EncodeTiled* encode, TensorMap* map, const TensorMapKey& k) {
  return encode(map, element_type(k.element), static_cast<cuuint32_t>(k.rank), const_cast<void*>(k.base),
                k.dim, k.stride, k.box, k.element_stride, CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle_type(k.swizzle), CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}
inline CUresult driver_im2col(EncodeIm2col* encode, TensorMap* map, const TensorMapKey& k) {
  return encode(map, element_type(k.element), static_cast<cuuint32_t>(k.rank), const_cast<void*>(k.base),
                k.dim, k.stride, k.lower, k.upper, k.box[0], k.box[1], k.element_stride,
                CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_type(k.swizzle), CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}
inline cudaError_t encode_map(TensorMap* map, const TensorMapKey& key) {
  EncodeTiled* tiled = nullptr;
  EncodeIm2col* im2col = nullptr;
  if (cudaError_t error = key.im2col ? driver_function("cuTensorMapEncodeIm2col", &im2col)
                                     : driver_function("cuTensorMapEncodeTiled", &tiled))
    return error;
  const CUresult result = key.im2col ? driver_im2col(im2col, map, key) : driver_tiled(tiled, map, key);
  if (result == CUDA_SUCCESS) return cudaSuccess;
  const std::string wrong = wrong_map(key);  // the driver's own reason is a number
  return refuse(wrong.empty() ? "the driver refuses it: CUresult " + std::to_string(result) : wrong);
}
}  // namespace detail

#else
typedef emulation::TensorMap TensorMap;

namespace detail {
inline cudaError_t encode_map(TensorMap* map, const TensorMapKey& key) {
  const std::string wrong = wrong_map(key);
  if (!wrong.empty()) return refuse(wrong);
  if (key.im2col && key.element_stride[3] != 1)
    return refuse("steps over images are not emulated", cudaErrorNotSupported);
  TensorMap m{};
  m.base = static_cast<const char*>(key.base);
  m.magic = TensorMap::MAGIC;
  m.rank = static_cast<uint8_t>(key.rank);
  m.element_bytes = static_cast<uint8_t>(bytes_of(key.element));
  m.swizzle = static_cast<uint8_t>(key.swizzle);
  m.to_tf32 = key.element == TensorElement::kTf32;
  m.im2col = key.im2col != 0;
  m.stride[0] = m.element_bytes;
  for (int i = 0; i < key.rank; ++i) {
    m.dim[i] = key.dim[i];
    m.box[i] = static_cast<uint16_t>(key.box[i]);
    m.element_stride[i] = static_cast<uint8_t>(key.element_stride[i]);
  }
  for (int i = 0; i + 1 < key.rank; ++i) m.stride[i + 1] = key.stride[i];
  for (int i = 0; i < 2; ++i) {
    m.lower[i] = static_cast<int8_t>(key.lower[i]);
    m.upper[i] = static_cast<int8_t>(key.upper[i]);
  }
  *map = m;
  return cudaSuccess;
}
}  // namespace detail
#endif

namespace detail {
// A launch asks for three maps, AlexNet's step for 3 x 23 at most, and the next step for the same ones. A map speaks of
// an address, not of what lies there: an array that comes to lie where another was has the other's map, if all else is
// equal. One address is one device's, since all devices of a process share an address space, and the kernels that use
// maps run on one kind of device. A table a thread: nothing to wait for, and nothing that a fork could leave locked. It
// lies on the heap, since a module that is loaded late may get no more than some hundred bytes of a thread's own memory.
constexpr int kKeptMaps = 128;
typedef TensorMapCache<TensorMapKey, TensorMap, kKeptMaps> KeptMaps;
inline KeptMaps& kept_maps() {
  static thread_local const std::unique_ptr<KeptMaps> kept = std::make_unique<KeptMaps>();
  return *kept;
}
inline cudaError_t find_or_encode(TensorMap* map, const TensorMapKey& key) {
  if (reinterpret_cast<uintptr_t>(map) % 64) return refuse("the map itself must be aligned to 64 bytes");
  if (kept_maps().find(map, key)) return cudaSuccess;
  const cudaError_t error = encode_map(map, key);
  if (error == cudaSuccess) kept_maps().keep(key, *map);
  return error;
}
}  // namespace detail

// dim[rank], stride[rank - 1] (of dimension 1 and up), box[rank] elements.
inline cudaError_t encode_tiled(TensorMap* map, const void* base, TensorElement element, int rank,
                                const uint64_t* dim, const uint64_t* stride, const uint32_t* box,
                                TensorSwizzle swizzle) {
  tensor_map_problem().clear();
  if (rank < 1 || rank > 5) return detail::refuse("the rank must be 1 to 5");
  TensorMapKey key = {};
  key.base = base, key.element = element, key.swizzle = swizzle, key.rank = rank;
  for (int i = 0; i < rank; ++i) key.dim[i] = dim[i], key.box[i] = box[i], key.element_stride[i] = 1;
  for (int i = 0; i + 1 < rank; ++i) key.stride[i] = stride[i];
  return detail::find_or_encode(map, key);
}

// NHWC activations as (C, W, H, N); the bounding box of filter origins is [lower, dim - 1 + upper] in {w, h}.
inline cudaError_t encode_im2col(TensorMap* map, const void* base, TensorElement element,
                                 const uint64_t (&dim)[4], const uint64_t (&stride)[3], const int (&lower)[2],
                                 const int (&upper)[2], uint32_t channels, uint32_t pixels,
                                 const uint32_t (&element_stride)[4], TensorSwizzle swizzle) {
  tensor_map_problem().clear();
  TensorMapKey key = {};
  key.base = base, key.element = element, key.swizzle = swizzle, key.rank = 4, key.im2col = 1;
  key.box[0] = channels, key.box[1] = pixels;
  for (int i = 0; i < 4; ++i) key.dim[i] = dim[i], key.element_stride[i] = element_stride[i];
  for (int i = 0; i < 3; ++i) key.stride[i] = stride[i];
  for (int i = 0; i < 2; ++i) key.lower[i] = lower[i], key.upper[i] = upper[i];
  return detail::find_or_encode(map, key);
}

}  // namespace pcn
