// The body shared by the elementwise kernels: y[i] = f(a[i]) or f(a[i], b[i]).
//
// A thread moves UNROLL float4s, all loaded before the first is stored, so that one-input kernels too have
// enough bytes in flight; neighbouring threads touch neighbouring float4s. Arrays may be views that do not
// start on 16 bytes, so the launcher looks at the pointers and the kernel then goes element by element; the
// same loop does the 0 … 3 last elements. y may be a or b: no pointer is __restrict__, and a place is written
// only by the thread that has read it.
#pragma once
#include "common/device.h"
#include "pointwise/pointwise.h"

namespace pcn::elementwise {

constexpr int THREADS = 256;
constexpr int UNROLL = 2;
constexpr int PER_BLOCK = THREADS * UNROLL * 4;

inline bool aligned16(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

inline dim3 grid_for(int count) { return dim3((static_cast<unsigned>(count) + PER_BLOCK - 1) / PER_BLOCK); }

// F has `float operator()(float a, float b) const`; with BINARY false, b is not read and arrives as 0.
template <class F, bool BINARY>
__global__ void __launch_bounds__(THREADS)
    elementwise_kernel(float* y, const float* a, const float* b, unsigned count, int vectors, F f) {
  const unsigned whole = vectors ? count / 4 : 0;  // float4s
  const unsigned first = blockIdx.x * (THREADS * UNROLL) + threadIdx.x;
  float4 va[UNROLL], vb[UNROLL];
  PCN_UNROLL
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned i = first + u * THREADS;
    if (i < whole) {
      va[u] = reinterpret_cast<const float4*>(a)[i];
      vb[u] = BINARY ? reinterpret_cast<const float4*>(b)[i] : make_float4(0.f, 0.f, 0.f, 0.f);
    }
  }
  PCN_UNROLL
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned i = first + u * THREADS;
    if (i < whole)
      reinterpret_cast<float4*>(y)[i] =
          make_float4(f(va[u].x, vb[u].x), f(va[u].y, vb[u].y), f(va[u].z, vb[u].z), f(va[u].w, vb[u].w));
  }
  const unsigned stride = gridDim.x * THREADS;
  for (unsigned i = 4 * whole + blockIdx.x * THREADS + threadIdx.x; i < count; i += stride)
    y[i] = f(a[i], BINARY ? b[i] : 0.f);
}

template <class F>
cudaError_t unary(const char* stem, float* y, const float* x, const ElementwiseShape& shape,
                  cudaStream_t stream, F f) {
  const int vectors = aligned16(y) && aligned16(x);
  return launch(stem, elementwise_kernel<F, false>, grid_for(shape.count), dim3(THREADS), 0, stream, y, x,
                static_cast<const float*>(nullptr), static_cast<unsigned>(shape.count), vectors, f);
}

template <class F>
cudaError_t binary(const char* stem, float* y, const float* a, const float* b, const ElementwiseShape& shape,
                   cudaStream_t stream, F f) {
  const int vectors = aligned16(y) && aligned16(a) && aligned16(b);
  return launch(stem, elementwise_kernel<F, true>, grid_for(shape.count), dim3(THREADS), 0, stream, y, a, b,
                static_cast<unsigned>(shape.count), vectors, f);
}

}  // namespace pcn::elementwise
