// copy_columns_strided: dst[r, dst_first + c] = src[r, src_first + c] for 0 <= c < cols
// dst (rows, dst_cols), src (rows, src_cols) of float or Bf16. The other columns of dst are left as they are:
// a concatenation is one launch per input, a split one per output. 8 bytes of memory traffic an element, 4 in
// bfloat16: bound by memory.
//
// 16 bytes at once where widths, first columns and pointers allow (channel counts are nearly always multiples
// of 8), else 4, which is one float or a pair of Bf16, else single Bf16.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

using elementwise::THREADS;

// Vector is float4, float or Bf16; every extent is counted in Vectors.
template <class Vector>
__global__ void __launch_bounds__(THREADS)
    copy_columns_kernel(Vector* __restrict__ dst, const Vector* __restrict__ src, unsigned count,
                        unsigned cols, int dst_cols, int src_cols) {
  const unsigned i = blockIdx.x * THREADS + threadIdx.x;
  if (i < count) {
    const unsigned r = i / cols, c = i - r * cols;
    dst[static_cast<long long>(r) * dst_cols + c] = src[static_cast<long long>(r) * src_cols + c];
  }
}

template <class Vector, class T>
cudaError_t copy(T* dst, const T* src, const CopyColumnsShape& shape, cudaStream_t stream) {
  constexpr int WIDTH = sizeof(Vector) / sizeof(T);
  const unsigned cols = shape.cols / WIDTH;
  const unsigned count = static_cast<unsigned>(shape.rows) * cols;
  return launch("copy_columns_strided", copy_columns_kernel<Vector>, dim3((count + THREADS - 1) / THREADS),
                dim3(THREADS), 0, stream, reinterpret_cast<Vector*>(dst + shape.dst_first),
                reinterpret_cast<const Vector*>(src + shape.src_first), count, cols, shape.dst_cols / WIDTH,
                shape.src_cols / WIDTH);
}

// Whether widths and addresses are multiples of a Vector.
template <class Vector, class T>
bool fits(const T* dst, const T* src, const CopyColumnsShape& shape) {
  constexpr int WIDTH = sizeof(Vector) / sizeof(T);
  return (shape.cols | shape.dst_cols | shape.src_cols) % WIDTH == 0 &&
         reinterpret_cast<std::uintptr_t>(dst + shape.dst_first) % sizeof(Vector) == 0 &&
         reinterpret_cast<std::uintptr_t>(src + shape.src_first) % sizeof(Vector) == 0;
}

}  // namespace

template <class T>
cudaError_t copy_columns_strided(T* dst, const T* src, const CopyColumnsShape& shape, cudaStream_t stream) {
  if (fits<float4>(dst, src, shape)) return copy<float4>(dst, src, shape, stream);
  if (fits<float>(dst, src, shape)) return copy<float>(dst, src, shape, stream);
  return copy<T>(dst, src, shape, stream);
}
template CopyColumnsFn<float> copy_columns_strided<float>;
template CopyColumnsFn<Bf16> copy_columns_strided<Bf16>;

}  // namespace pcn
