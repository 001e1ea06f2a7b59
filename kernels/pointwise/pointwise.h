// The pointwise family: activations, bias, sums, concatenation and dropout. Everything here is bound by
// memory. float32, arrays contiguous with channels last. Where a comment does not forbid it, an output may be
// one of the inputs (the very same array).
#pragma once
#include "common/types.h"

namespace pcn {

// ---- one value in, one value out, at each of `count` places
struct ElementwiseShape {
  int count;
};
using UnaryFn = cudaError_t(float* y, const float* x, const ElementwiseShape& shape, cudaStream_t stream);
using GradientFn = cudaError_t(float* dx, const float* dy, const float* y, const ElementwiseShape& shape,
                               cudaStream_t stream);
using AddFn = cudaError_t(float* y, const float* a, const float* b, float alpha, float beta,
                          const ElementwiseShape& shape, cudaStream_t stream);
using UnaryRow = KernelRow<ElementwiseShape, UnaryFn>;
using GradientRow = KernelRow<ElementwiseShape, GradientFn>;
using AddRow = KernelRow<ElementwiseShape, AddFn>;

UnaryFn relu_forward, tanh_forward, logistic_forward;
GradientFn relu_backward, tanh_backward, logistic_backward;
AddFn add_scaled;

KernelTable<UnaryRow> relu_kernels();
KernelTable<UnaryRow> tanh_kernels();
KernelTable<UnaryRow> logistic_kernels();
KernelTable<GradientRow> relu_backward_kernels();
KernelTable<GradientRow> tanh_backward_kernels();
KernelTable<GradientRow> logistic_backward_kernels();
KernelTable<AddRow> add_kernels();

// ---- matrices of `rows` pixels by `cols` channels
struct RowsShape {
  int rows, cols;
};
using AddBiasFn = cudaError_t(float* y, const float* x, const float* b, const RowsShape& shape,
                              cudaStream_t stream);
using BiasBackwardFn = cudaError_t(float* db, const float* dy, const RowsShape& shape, void* workspace,
                                   cudaStream_t stream);
using AddBiasRow = KernelRow<RowsShape, AddBiasFn>;
using BiasBackwardRow = KernelRow<RowsShape, BiasBackwardFn>;

AddBiasFn add_bias_rows;
BiasBackwardFn bias_backward_two_stage;
std::size_t bias_backward_two_stage_workspace(const RowsShape& shape);

KernelTable<AddBiasRow> add_bias_kernels();
KernelTable<BiasBackwardRow> bias_backward_kernels();

// ---- `cols` columns of one matrix into another: one piece of a concatenation or of a split
struct CopyColumnsShape {
  int rows, cols;
  int dst_cols, dst_first;  // width of the destination, first column written
  int src_cols, src_first;  // width of the source, first column read
};
using CopyColumnsFn = cudaError_t(float* dst, const float* src, const CopyColumnsShape& shape,
                                  cudaStream_t stream);
using CopyColumnsRow = KernelRow<CopyColumnsShape, CopyColumnsFn>;

CopyColumnsFn copy_columns_strided;

KernelTable<CopyColumnsRow> copy_columns_kernels();

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
using DropoutFn = cudaError_t(float* y, std::uint8_t* mask, const float* x, std::uint32_t threshold,
                              float scale, const DropoutStream& random, const DropoutShape& shape,
                              cudaStream_t stream);
using DropoutBackwardFn = cudaError_t(float* dx, const float* dy, const std::uint8_t* mask, float scale,
                                      const ElementwiseShape& shape, cudaStream_t stream);
using DropoutRow = KernelRow<DropoutShape, DropoutFn>;
using DropoutBackwardRow = KernelRow<ElementwiseShape, DropoutBackwardFn>;

DropoutFn dropout_philox;
DropoutBackwardFn dropout_backward_mask;

KernelTable<DropoutRow> dropout_kernels();
KernelTable<DropoutBackwardRow> dropout_backward_kernels();

// ---- bias, ReLU and dropout in one pass, for arrays of float and of Bf16; b of float, or null
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
