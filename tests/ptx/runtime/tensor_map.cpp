// tensor_map.cpp: cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col, which refuse what their documents
// refuse
//
// "CUDA Driver API", Tensor Map Object Management. What they make is the executor's ptx::TensorMap.
#include <cuda.h>

#include <cstring>

#include "state.h"

namespace stand_in {
namespace {

constexpr uint64_t kMostExtent = uint64_t{1} << 32, kMostStride = uint64_t{1} << 40;

int bytes_of(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
      return 4;
    default:
      return 0;
  }
}

// What both kinds have; an empty text where it is right.
std::string describe(ptx::TensorMap* m, CUtensorMapDataType type, cuuint32_t rank, void* address,
                     const cuuint64_t* dim, const cuuint64_t* stride, const cuuint32_t* element_stride,
                     uint64_t inner, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                     CUtensorMapFloatOOBfill fill) {
  const int bytes = bytes_of(type);
  if (!bytes) return "elements of a type that the stand-in does not know";
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return "interleaved layouts are not known to the stand-in";
  if (swizzle > CU_TENSOR_MAP_SWIZZLE_128B) return "a swizzle that the stand-in does not know";
  if (reinterpret_cast<uintptr_t>(address) % 16) return "globalAddress is not aligned to 16 bytes";
  const uint64_t inner_bytes = inner * static_cast<uint64_t>(bytes);
  if (inner_bytes == 0 || inner_bytes % 16) return "the inner box is no multiple of 16 bytes";
  if (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && inner_bytes > uint64_t{16} << static_cast<int>(swizzle))
    return "the inner box is wider than its swizzle";
  *m = {};
  m->magic = ptx::TensorMap::MAGIC;
  m->rank = static_cast<uint8_t>(rank), m->element_bytes = static_cast<uint8_t>(bytes);
  m->swizzle = static_cast<uint8_t>(swizzle);
  m->to_tf32 = type == CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
  m->nan_fill = fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA;
  m->base = reinterpret_cast<uint64_t>(address);
  m->stride[0] = static_cast<uint64_t>(bytes);
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (dim[i] == 0 || dim[i] > kMostExtent) return "globalDim must be 1 to 2^32";
    if (element_stride[i] == 0 || element_stride[i] > 8) return "elementStrides must be 1 to 8";
    m->dim[i] = static_cast<uint32_t>(dim[i] - 1);
    m->element_stride[i] = static_cast<uint8_t>(element_stride[i]);
  }
  for (cuuint32_t i = 0; i + 1 < rank; ++i) {
    if (stride[i] % 16 || stride[i] >= kMostStride) return "globalStrides must be multiples of 16 below 2^40";
    m->stride[i + 1] = stride[i];
  }
  return {};
}

CUresult told(const char* name, const std::string& wrong, const ptx::TensorMap& made, CUtensorMap* map) {
  std::string text = wrong;
  if (text.empty() && reinterpret_cast<uintptr_t>(map) % 64) text = "tensorMap is not aligned to 64 bytes";
  if (!text.empty()) {
    failed(cudaErrorInvalidValue, std::string(name) + ": " + text);
    cudaGetLastError();  // the driver's own error, not the runtime's
    return CUDA_ERROR_INVALID_VALUE;
  }
  static_assert(sizeof *map == sizeof made, "one stands for the other");
  std::memcpy(static_cast<void*>(map), &made, sizeof made);
  return CUDA_SUCCESS;
}

CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* dim, const cuuint64_t* stride, const cuuint32_t* box,
                      const cuuint32_t* element_stride, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  ptx::TensorMap made;
  std::string wrong = rank < 1 || rank > 5 ? "tensorRank must be 1 to 5"
                                           : describe(&made, type, rank, address, dim, stride, element_stride,
                                                      box[0], interleave, swizzle, fill);
  for (cuuint32_t i = 0; wrong.empty() && i < rank; ++i) {
    if (box[i] == 0 || box[i] > 256) wrong = "boxDim must be 1 to 256";
    made.box[i] = static_cast<uint16_t>(box[i]);
  }
  return told("cuTensorMapEncodeTiled", wrong, made, map);
}

CUresult encode_im2col(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                       const cuuint64_t* dim, const cuuint64_t* stride, const int* lower, const int* upper,
                       cuuint32_t channels, cuuint32_t pixels, const cuuint32_t* element_stride,
                       CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                       CUtensorMapFloatOOBfill fill) {
  ptx::TensorMap made;
  std::string wrong = rank < 3 || rank > 5 ? "tensorRank must be 3 to 5"
                                           : describe(&made, type, rank, address, dim, stride, element_stride,
                                                      channels, interleave, swizzle, fill);
  if (wrong.empty() && channels > 256) wrong = "channelsPerPixel must be at most 256";
  if (wrong.empty() && (pixels == 0 || pixels > 1024)) wrong = "pixelsPerColumn must be 1 to 1024";
  made.im2col = 1;
  made.box[0] = static_cast<uint16_t>(channels), made.box[1] = static_cast<uint16_t>(pixels);
  const int least = rank == 3 ? -32768 : rank == 4 ? -128 : -16;
  for (cuuint32_t i = 0; wrong.empty() && i + 2 < rank; ++i) {
    if (lower[i] < least || lower[i] >= -least || upper[i] < least || upper[i] >= -least)
      wrong = "a corner of the bounding box is out of range";
    else if (lower[i] < -128 || lower[i] > 127 || upper[i] < -128 || upper[i] > 127)
      wrong = "corners beyond a byte are not known to the stand-in";
    else if (lower[i] > static_cast<int64_t>(dim[i + 1]) - 1 + upper[i])
      wrong = "the bounding box is empty";
    made.lower[i] = static_cast<int8_t>(lower[i]), made.upper[i] = static_cast<int8_t>(upper[i]);
  }
  return told("cuTensorMapEncodeIm2col", wrong, made, map);
}

}  // namespace

void* driver_function(const char* name) {
  if (std::string(name) == "cuTensorMapEncodeTiled") return reinterpret_cast<void*>(encode_tiled);
  if (std::string(name) == "cuTensorMapEncodeIm2col") return reinterpret_cast<void*>(encode_im2col);
  return nullptr;
}

}  // namespace stand_in
