// The pointwise family: activations, bias, sums, concatenation and dropout. Everything here is bound by
// memory. Arrays are contiguous with channels last, their elements T either float or Bf16, one type for all
// arrays of a call; biases and their gradients are float beside both. Kernels compute in float and round
// once, where they store. Every launcher exists for both types, and so do the tables. Where a comment does
// not forbid it, an output may be one of the inputs (the very same array).
#pragma once
#include "common/types.h"

namespace pcn {

// ---- one value in, one value out, at each of `count` places
struct ElementwiseShape {
  int count;
};
template <class T>
using UnaryFn = cudaError_t(T* y, const T* x, const ElementwiseShape& shape, cudaStream_t stream);
template <class T>
using GradientFn = cudaError_t(T* dx, const T* dy, const T* y, const ElementwiseShape& shape,
                               cudaStream_t stream);
template <class T>
using AddFn = cudaError_t(T* y, const T* a, const T* b, float alpha, float beta,
                          const ElementwiseShape& shape, cudaStream_t stream);
template <class T>
using UnaryRow = KernelRow<ElementwiseShape, UnaryFn<T>>;
template <class T>
using GradientRow = KernelRow<ElementwiseShape, GradientFn<T>>;
template <class T>
using AddRow = KernelRow<ElementwiseShape, AddFn<T>>;

template <class T>
cudaError_t relu_forward(T* y, const T* x, const ElementwiseShape& shape, cudaStream_t stream);
template <class T>
cudaError_t tanh_forward(T* y, const T* x, const ElementwiseShape& shape, cudaStream_t stream);
template <class T>
cudaError_t logistic_forward(T* y, const T* x, const ElementwiseShape& shape, cudaStream_t stream);
template <class T>
cudaError_t relu_backward(T* dx, const T* dy, const T* y, const ElementwiseShape& shape, cudaStream_t stream);
template <class T>
cudaError_t tanh_backward(T* dx, const T* dy, const T* y, const ElementwiseShape& shape, cudaStream_t stream);
template <class T>
cudaError_t logistic_backward(T* dx, const T* dy, const T* y, const ElementwiseShape& shape,
                              cudaStream_t stream);
template <class T>
cudaError_t add_scaled(T* y, const T* a, const T* b, float alpha, float beta, const ElementwiseShape& shape,
                       cudaStream_t stream);

template <class T>
KernelTable<UnaryRow<T>> relu_kernels();
template <class T>
KernelTable<UnaryRow<T>> tanh_kernels();
template <class T>
KernelTable<UnaryRow<T>> logistic_kernels();
template <class T>
KernelTable<GradientRow<T>> relu_backward_kernels();
template <class T>
KernelTable<GradientRow<T>> tanh_backward_kernels();
template <class T>
KernelTable<GradientRow<T>> logistic_backward_kernels();
template <class T>
KernelTable<AddRow<T>> add_kernels();

// ---- matrices of `rows` pixels by `cols` channels
struct RowsShape {
  int rows, cols;
};
template <class T>
using AddBiasFn = cudaError_t(T* y, const T* x, const float* b, const RowsShape& shape, cudaStream_t stream);
template <class T>
using BiasBackwardFn = cudaError_t(float* db, const T* dy, const RowsShape& shape, void* workspace,
                                   cudaStream_t stream);
template <class T>
using AddBiasRow = KernelRow<RowsShape, AddBiasFn<T>>;
template <class T>
using BiasBackwardRow = KernelRow<RowsShape, BiasBackwardFn<T>>;

template <class T>
cudaError_t add_bias_rows(T* y, const T* x, const float* b, const RowsShape& shape, cudaStream_t stream);
template <class T>
cudaError_t bias_backward_two_stage(float* db, const T* dy, const RowsShape& shape, void* workspace,
                                    cudaStream_t stream);
std::size_t bias_backward_two_stage_workspace(const RowsShape& shape);

template <class T>
KernelTable<AddBiasRow<T>> add_bias_kernels();
template <class T>
KernelTable<BiasBackwardRow<T>> bias_backward_kernels();

// ---- `cols` columns of one matrix into another: one piece of a concatenation or of a split
struct CopyColumnsShape {
  int rows, cols;
  int dst_cols, dst_first;  // width of the destination, first column written
  int src_cols, src_first;  // width of the source, first column read
};
template <class T>
using CopyColumnsFn = cudaError_t(T* dst, const T* src, const CopyColumnsShape& shape, cudaStream_t stream);
template <class T>
using CopyColumnsRow = KernelRow<CopyColumnsShape, CopyColumnsFn<T>>;

template <class T>
cudaError_t copy_columns_strided(T* dst, const T* src, const CopyColumnsShape& shape, cudaStream_t stream);

template <class T>
KernelTable<CopyColumnsRow<T>> copy_columns_kernels();

// ---- dropout of a rectangle of a bigger matrix (rows row0…, columns col0… of one that is total_cols wide)
struct DropoutShape {
  int rows, cols;
  std::int64_t row0, col0, total_cols;
};
// Where the random bits come from. step_on_device, where it is not null, is read by the kernel in place of
// step, so that a captured graph draws new masks at every replay.
struct DropoutStream {
  std::uint64_t seed;
  std::int64_t step;
  const std::int64_t* step_on_device;
  std::uint32_t layer;
};
// An element is kept where its 24 random bits are not below `threshold` = ceil(p * 2^24).
template <class T>
using DropoutFn = cudaError_t(T* y, std::uint8_t* mask, const T* x, std::uint32_t threshold, float scale,
                              const DropoutStream& random, const DropoutShape& shape, cudaStream_t stream);
template <class T>
using DropoutBackwardFn = cudaError_t(T* dx, const T* dy, const std::uint8_t* mask, float scale,
                                      const ElementwiseShape& shape, cudaStream_t stream);
template <class T>
using DropoutRow = KernelRow<DropoutShape, DropoutFn<T>>;
template <class T>
using DropoutBackwardRow = KernelRow<ElementwiseShape, DropoutBackwardFn<T>>;

template <class T>
cudaError_t dropout_philox(T* y, std::uint8_t* mask, const T* x, std::uint32_t threshold, float scale,
                           const DropoutStream& random, const DropoutShape& shape, cudaStream_t stream);
template <class T>
cudaError_t dropout_backward_mask(T* dx, const T* dy, const std::uint8_t* mask, float scale,
                                  const ElementwiseShape& shape, cudaStream_t stream);

template <class T>
KernelTable<DropoutRow<T>> dropout_kernels();
template <class T>
KernelTable<DropoutBackwardRow<T>> dropout_backward_kernels();

// ---- bias, ReLU and dropout in one pass; b may be null
template <class T>
using BiasReluDropoutFn = cudaError_t(T* y, const T* x, const float* b, std::uint32_t threshold, float scale,
                                      const DropoutStream& random, const DropoutShape& shape,
                                      cudaStream_t stream);
template <class T>
using BiasReluDropoutRow = KernelRow<DropoutShape, BiasReluDropoutFn<T>>;

template <class T>
cudaError_t bias_relu_dropout_philox(T* y, const T* x, const float* b, std::uint32_t threshold, float scale,
                                     const DropoutStream& random, const DropoutShape& shape,
                                     cudaStream_t stream);

template <class T>
KernelTable<BiasReluDropoutRow<T>> bias_relu_dropout_kernels();

}  // namespace pcn
