// add_bias_rows: y[r, c] = x[r, c] + b[c]
// x, y (rows, cols), b (cols); y may be x. 8 bytes of memory traffic an element, b comes from the cache:
// bound by memory.
//
// The matrix is walked as one line of float4s, so ragged widths keep full vectors too: where cols is not a
// multiple of 4, the four channels of a vector wrap round one by one. The remainder that finds the first
// channel is paid once per vector.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

using elementwise::PER_BLOCK;
using elementwise::THREADS;
using elementwise::UNROLL;

// VECTOR_BIAS: cols is a multiple of 4 and b starts on 16 bytes.
template <bool VECTOR_BIAS>
__global__ void __launch_bounds__(THREADS)
    add_bias_kernel(float* y, const float* x, const float* b, unsigned count, unsigned cols, int vectors) {
  const unsigned whole = vectors ? count / 4 : 0;  // float4s
  const unsigned first = blockIdx.x * (THREADS * UNROLL) + threadIdx.x;
  float4 v[UNROLL];
  PCN_UNROLL
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned i = first + u * THREADS;
    if (i < whole) v[u] = reinterpret_cast<const float4*>(x)[i];
  }
  PCN_UNROLL
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned i = first + u * THREADS;
    if (i < whole) {
      unsigned c = (4 * i) % cols;
      float4 bias;
      if (VECTOR_BIAS) {
        bias = __ldg(reinterpret_cast<const float4*>(b + c));
      } else {
        bias.x = __ldg(b + c);
        c = c + 1 == cols ? 0 : c + 1;
        bias.y = __ldg(b + c);
        c = c + 1 == cols ? 0 : c + 1;
        bias.z = __ldg(b + c);
        c = c + 1 == cols ? 0 : c + 1;
        bias.w = __ldg(b + c);
      }
      reinterpret_cast<float4*>(y)[i] =
          make_float4(v[u].x + bias.x, v[u].y + bias.y, v[u].z + bias.z, v[u].w + bias.w);
    }
  }
  const unsigned stride = gridDim.x * THREADS;
  for (unsigned i = 4 * whole + blockIdx.x * THREADS + threadIdx.x; i < count; i += stride)
    y[i] = x[i] + __ldg(b + i % cols);
}

}  // namespace

cudaError_t add_bias_rows(float* y, const float* x, const float* b, const RowsShape& shape,
                          cudaStream_t stream) {
  const int count = shape.rows * shape.cols;
  const int vectors = elementwise::aligned16(y) && elementwise::aligned16(x);
  const bool vector_bias = shape.cols % 4 == 0 && elementwise::aligned16(b);
  const auto kernel = vector_bias ? add_bias_kernel<true> : add_bias_kernel<false>;
  return launch("add_bias_rows", kernel, elementwise::grid_for(count), dim3(THREADS), 0, stream, y, x, b,
                static_cast<unsigned>(count), static_cast<unsigned>(shape.cols), vectors);
}

}  // namespace pcn
