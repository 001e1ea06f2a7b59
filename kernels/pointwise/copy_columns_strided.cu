// copy_columns_strided: dst[r, dst_first + c] = src[r, src_first + c] for 0 <= c < cols
// dst (rows, dst_cols), src (rows, src_cols). The other columns of dst are left as they are: a concatenation
// is one launch per input, a split one per output. 8 bytes of memory traffic an element: bound by memory.
//
// float4s where widths, first columns and pointers allow (channel counts are nearly always multiples of 4),
// else single floats.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

using elementwise::THREADS;

// Vector is float4 or float; every extent is counted in Vectors.
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

template <class Vector>
cudaError_t copy(float* dst, const float* src, const CopyColumnsShape& shape, cudaStream_t stream) {
  constexpr int WIDTH = sizeof(Vector) / sizeof(float);
  const unsigned cols = shape.cols / WIDTH;
  const unsigned count = static_cast<unsigned>(shape.rows) * cols;
  return launch("copy_columns_strided", copy_columns_kernel<Vector>, dim3((count + THREADS - 1) / THREADS),
                dim3(THREADS), 0, stream, reinterpret_cast<Vector*>(dst + shape.dst_first),
                reinterpret_cast<const Vector*>(src + shape.src_first), count, cols, shape.dst_cols / WIDTH,
                shape.src_cols / WIDTH);
}

}  // namespace

cudaError_t copy_columns_strided(float* dst, const float* src, const CopyColumnsShape& shape,
                                 cudaStream_t stream) {
  const bool vectors = (shape.cols | shape.dst_cols | shape.src_cols) % 4 == 0 &&
                       elementwise::aligned16(dst + shape.dst_first) &&
                       elementwise::aligned16(src + shape.src_first);
  return vectors ? copy<float4>(dst, src, shape, stream) : copy<float>(dst, src, shape, stream);
}

}  // namespace pcn
