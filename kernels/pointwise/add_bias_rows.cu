// add_bias_rows: y[r, c] = x[r, c] + b[c]
// x, y (rows, cols) of float or Bf16, b (cols) of float; y may be x. 8 bytes of memory traffic an element, 4
// in bfloat16, b comes from the cache: bound by memory.
//
// The matrix is walked as one line of vectors of 16 bytes, so ragged widths keep full vectors too: where cols
// is not a multiple of 4, the channels of a vector wrap round one by one, else four by four. The remainder
// that finds the first channel is paid once per vector.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

using elementwise::THREADS;
using elementwise::UNROLL;

// VECTOR_BIAS: cols is a multiple of 4 and b starts on 16 bytes.
template <class T, bool VECTOR_BIAS>
__global__ void __launch_bounds__(THREADS)
    add_bias_kernel(T* y, const T* x, const float* b, unsigned count, unsigned cols, int vectors) {
  constexpr int VEC = PER_ACCESS<T>;
  const unsigned whole = vectors ? count / VEC : 0;  // vectors
  const unsigned first = blockIdx.x * (THREADS * UNROLL) + threadIdx.x;
  float v[UNROLL][VEC];
  PCN_UNROLL
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned i = first + u * THREADS;
    if (i < whole) load_run(v[u], x + static_cast<std::size_t>(i) * VEC);
  }
  PCN_UNROLL
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned i = first + u * THREADS;
    if (i < whole) {
      unsigned c = (VEC * i) % cols;
      PCN_UNROLL
      for (int j = 0; j < VEC; j += VECTOR_BIAS ? 4 : 1) {
        if (j != 0) {
          c += VECTOR_BIAS ? 4 : 1;
          c = c == cols ? 0 : c;
        }
        if constexpr (VECTOR_BIAS) {
          const float4 bias = __ldg(reinterpret_cast<const float4*>(b + c));
          v[u][j] += bias.x;
          v[u][j + 1] += bias.y;
          v[u][j + 2] += bias.z;
          v[u][j + 3] += bias.w;
        } else {
          v[u][j] += __ldg(b + c);
        }
      }
      store_run(y + static_cast<std::size_t>(i) * VEC, v[u]);
    }
  }
  const unsigned stride = gridDim.x * THREADS;
  for (unsigned i = VEC * whole + blockIdx.x * THREADS + threadIdx.x; i < count; i += stride)
    y[i] = narrow<T>(widen(x[i]) + __ldg(b + i % cols));
}

}  // namespace

template <class T>
cudaError_t add_bias_rows(T* y, const T* x, const float* b, const RowsShape& shape, cudaStream_t stream) {
  const int count = shape.rows * shape.cols;
  const int vectors = elementwise::aligned16(y) && elementwise::aligned16(x);
  const bool vector_bias = shape.cols % 4 == 0 && elementwise::aligned16(b);
  const auto kernel = vector_bias ? add_bias_kernel<T, true> : add_bias_kernel<T, false>;
  return launch("add_bias_rows", kernel, elementwise::grid_for<T>(count), dim3(THREADS), 0, stream, y, x, b,
                static_cast<unsigned>(count), static_cast<unsigned>(shape.cols), vectors);
}
template AddBiasFn<float> add_bias_rows<float>;
template AddBiasFn<Bf16> add_bias_rows<Bf16>;

}  // namespace pcn
