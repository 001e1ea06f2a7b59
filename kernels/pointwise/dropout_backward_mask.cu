// dropout_backward_mask: dx[i] = mask[i] ? dy[i] * scale : 0
// dy, dx (count) of float or Bf16, mask (count) bytes, 0 or 1; dx may be dy. 9 bytes of memory traffic an
// element, 5 in bfloat16: bound by memory. A thread moves 16 bytes of dy (4 floats, 8 Bf16) and as many bytes
// of mask as elements, where the pointers allow.
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

using elementwise::THREADS;

template <class T>
__global__ void __launch_bounds__(THREADS)
    dropout_backward_kernel(T* dx, const T* dy, const std::uint8_t* mask, float scale, unsigned count,
                            int vectors) {
  constexpr int VEC = PER_ACCESS<T>;
  const unsigned i = blockIdx.x * THREADS + threadIdx.x;
  const unsigned whole = vectors ? count / VEC : 0;
  if (i < whole) {
    const std::size_t at = static_cast<std::size_t>(i) * VEC;
    float g[VEC];
    load_run(g, dy + at);
    const auto m = *reinterpret_cast<const Words<std::uint32_t, VEC / 4>*>(mask + at);
    PCN_UNROLL
    for (int j = 0; j < VEC; ++j) g[j] = m.v[j / 4] >> (j % 4 * 8) & 0xff ? g[j] * scale : 0.f;
    store_run(dx + at, g);
  }
  const unsigned stride = gridDim.x * THREADS;
  for (unsigned j = VEC * whole + i; j < count; j += stride)
    dx[j] = narrow<T>(mask[j] ? widen(dy[j]) * scale : 0.f);
}

}  // namespace

template <class T>
cudaError_t dropout_backward_mask(T* dx, const T* dy, const std::uint8_t* mask, float scale,
                                  const ElementwiseShape& shape, cudaStream_t stream) {
  constexpr int PER_BLOCK = THREADS * PER_ACCESS<T>;
  const int vectors = elementwise::aligned16(dx) && elementwise::aligned16(dy) &&
                      reinterpret_cast<std::uintptr_t>(mask) % PER_ACCESS<T> == 0;
  const unsigned count = shape.count;
  return launch("dropout_backward_mask", dropout_backward_kernel<T>,
                dim3((count + PER_BLOCK - 1) / PER_BLOCK), dim3(THREADS), 0, stream, dx, dy, mask, scale,
                count, vectors);
}
template DropoutBackwardFn<float> dropout_backward_mask<float>;
template DropoutBackwardFn<Bf16> dropout_backward_mask<Bf16>;

}  // namespace pcn
