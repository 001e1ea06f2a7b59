// The body shared by the elementwise kernels: y[i] = f(a[i]) or f(a[i], b[i]), arrays of float or Bf16, f in
// float32.
//
// A thread moves UNROLL vectors of 16 bytes, all loaded before the first is stored, so that one-input kernels
// too have enough bytes in flight; neighbouring threads touch neighbouring vectors. Arrays may be views that
// do not start on 16 bytes, so the launcher looks at the pointers and the kernel then goes element by
// element; the same loop does the last elements, fewer than a vector. y may be a or b: no pointer is
// __restrict__, and a place is written only by the thread that has read it.
#pragma once
#include "common/element.h"
#include "pointwise/pointwise.h"

namespace pcn::elementwise {

constexpr int THREADS = 256;
constexpr int UNROLL = 2;

inline bool aligned16(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

template <class T>
dim3 grid_for(int count) {
  constexpr unsigned PER_BLOCK = THREADS * UNROLL * PER_ACCESS<T>;
  return dim3((static_cast<unsigned>(count) + PER_BLOCK - 1) / PER_BLOCK);
}

// F has `float operator()(float a, float b) const`; with BINARY false, b is not read and arrives as 0.
template <class T, class F, bool BINARY>
__global__ void __launch_bounds__(THREADS)
    elementwise_kernel(T* y, const T* a, const T* b, unsigned count, int vectors, F f) {
  constexpr int VEC = PER_ACCESS<T>;
  const unsigned whole = vectors ? count / VEC : 0;  // vectors
  const unsigned first = blockIdx.x * (THREADS * UNROLL) + threadIdx.x;
  float va[UNROLL][VEC], vb[UNROLL][VEC] = {};
  PCN_UNROLL
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned i = first + u * THREADS;
    if (i < whole) {
      load_run(va[u], a + static_cast<std::size_t>(i) * VEC);
      if (BINARY) load_run(vb[u], b + static_cast<std::size_t>(i) * VEC);
    }
  }
  PCN_UNROLL
  for (int u = 0; u < UNROLL; ++u) {
    const unsigned i = first + u * THREADS;
    if (i < whole) {
      PCN_UNROLL
      for (int j = 0; j < VEC; ++j) va[u][j] = f(va[u][j], vb[u][j]);
      store_run(y + static_cast<std::size_t>(i) * VEC, va[u]);
    }
  }
  const unsigned stride = gridDim.x * THREADS;
  for (unsigned i = VEC * whole + blockIdx.x * THREADS + threadIdx.x; i < count; i += stride)
    y[i] = narrow<T>(f(widen(a[i]), BINARY ? widen(b[i]) : 0.f));
}

template <class T, class F>
cudaError_t unary(const char* stem, T* y, const T* x, const ElementwiseShape& shape, cudaStream_t stream,
                  F f) {
  const int vectors = aligned16(y) && aligned16(x);
  return launch(stem, elementwise_kernel<T, F, false>, grid_for<T>(shape.count), dim3(THREADS), 0, stream, y,
                x, static_cast<const T*>(nullptr), static_cast<unsigned>(shape.count), vectors, f);
}

template <class T, class F>
cudaError_t binary(const char* stem, T* y, const T* a, const T* b, const ElementwiseShape& shape,
                   cudaStream_t stream, F f) {
  const int vectors = aligned16(y) && aligned16(a) && aligned16(b);
  return launch(stem, elementwise_kernel<T, F, true>, grid_for<T>(shape.count), dim3(THREADS), 0, stream, y,
                a, b, static_cast<unsigned>(shape.count), vectors, f);
}

}  // namespace pcn::elementwise
