// The tables of the pointwise family. Alignment is a property of pointers, not of shapes, so each kernel
// chooses its own vector or scalar path when it runs and one row serves every shape, in either type.
#include "pointwise/pointwise.h"

namespace pcn {
namespace {

template <class Row, int N>
KernelTable<Row> table(const Row (&rows)[N]) {
  return {rows, N};
}

constexpr auto kNone = no_workspace<ElementwiseShape>;
constexpr auto kAny = always<ElementwiseShape>;

template <class T>
const UnaryRow<T> kRelu[] = {{"relu_forward", kAny, kNone, relu_forward<T>}};
template <class T>
const UnaryRow<T> kTanh[] = {{"tanh_forward", kAny, kNone, tanh_forward<T>}};
template <class T>
const UnaryRow<T> kLogistic[] = {{"logistic_forward", kAny, kNone, logistic_forward<T>}};
template <class T>
const GradientRow<T> kReluBackward[] = {{"relu_backward", kAny, kNone, relu_backward<T>}};
template <class T>
const GradientRow<T> kTanhBackward[] = {{"tanh_backward", kAny, kNone, tanh_backward<T>}};
template <class T>
const GradientRow<T> kLogisticBackward[] = {{"logistic_backward", kAny, kNone, logistic_backward<T>}};
template <class T>
const AddRow<T> kAdd[] = {{"add_scaled", kAny, kNone, add_scaled<T>}};
template <class T>
const AddBiasRow<T> kAddBias[] = {
    {"add_bias_rows", always<RowsShape>, no_workspace<RowsShape>, add_bias_rows<T>}};
template <class T>
const BiasBackwardRow<T> kBiasBackward[] = {{"bias_backward_two_stage", always<RowsShape>,
                                             bias_backward_two_stage_workspace, bias_backward_two_stage<T>}};
template <class T>
const CopyColumnsRow<T> kCopyColumns[] = {{"copy_columns_strided", always<CopyColumnsShape>,
                                           no_workspace<CopyColumnsShape>, copy_columns_strided<T>}};
template <class T>
const DropoutRow<T> kDropout[] = {
    {"dropout_philox", always<DropoutShape>, no_workspace<DropoutShape>, dropout_philox<T>}};
template <class T>
const DropoutBackwardRow<T> kDropoutBackward[] = {
    {"dropout_backward_mask", kAny, kNone, dropout_backward_mask<T>}};
template <class T>
const BiasReluDropoutRow<T> kBiasReluDropout[] = {{"bias_relu_dropout_philox", always<DropoutShape>,
                                                   no_workspace<DropoutShape>, bias_relu_dropout_philox<T>}};

}  // namespace

template <class T>
KernelTable<UnaryRow<T>> relu_kernels() {
  return table(kRelu<T>);
}
template KernelTable<UnaryRow<float>> relu_kernels<float>();
template KernelTable<UnaryRow<Bf16>> relu_kernels<Bf16>();

template <class T>
KernelTable<UnaryRow<T>> tanh_kernels() {
  return table(kTanh<T>);
}
template KernelTable<UnaryRow<float>> tanh_kernels<float>();
template KernelTable<UnaryRow<Bf16>> tanh_kernels<Bf16>();

template <class T>
KernelTable<UnaryRow<T>> logistic_kernels() {
  return table(kLogistic<T>);
}
template KernelTable<UnaryRow<float>> logistic_kernels<float>();
template KernelTable<UnaryRow<Bf16>> logistic_kernels<Bf16>();

template <class T>
KernelTable<GradientRow<T>> relu_backward_kernels() {
  return table(kReluBackward<T>);
}
template KernelTable<GradientRow<float>> relu_backward_kernels<float>();
template KernelTable<GradientRow<Bf16>> relu_backward_kernels<Bf16>();

template <class T>
KernelTable<GradientRow<T>> tanh_backward_kernels() {
  return table(kTanhBackward<T>);
}
template KernelTable<GradientRow<float>> tanh_backward_kernels<float>();
template KernelTable<GradientRow<Bf16>> tanh_backward_kernels<Bf16>();

template <class T>
KernelTable<GradientRow<T>> logistic_backward_kernels() {
  return table(kLogisticBackward<T>);
}
template KernelTable<GradientRow<float>> logistic_backward_kernels<float>();
template KernelTable<GradientRow<Bf16>> logistic_backward_kernels<Bf16>();

template <class T>
KernelTable<AddRow<T>> add_kernels() {
  return table(kAdd<T>);
}
template KernelTable<AddRow<float>> add_kernels<float>();
template KernelTable<AddRow<Bf16>> add_kernels<Bf16>();

template <class T>
KernelTable<AddBiasRow<T>> add_bias_kernels() {
  return table(kAddBias<T>);
}
template KernelTable<AddBiasRow<float>> add_bias_kernels<float>();
template KernelTable<AddBiasRow<Bf16>> add_bias_kernels<Bf16>();

template <class T>
KernelTable<BiasBackwardRow<T>> bias_backward_kernels() {
  return table(kBiasBackward<T>);
}
template KernelTable<BiasBackwardRow<float>> bias_backward_kernels<float>();
template KernelTable<BiasBackwardRow<Bf16>> bias_backward_kernels<Bf16>();

template <class T>
KernelTable<CopyColumnsRow<T>> copy_columns_kernels() {
  return table(kCopyColumns<T>);
}
template KernelTable<CopyColumnsRow<float>> copy_columns_kernels<float>();
template KernelTable<CopyColumnsRow<Bf16>> copy_columns_kernels<Bf16>();

template <class T>
KernelTable<DropoutRow<T>> dropout_kernels() {
  return table(kDropout<T>);
}
template KernelTable<DropoutRow<float>> dropout_kernels<float>();
template KernelTable<DropoutRow<Bf16>> dropout_kernels<Bf16>();

template <class T>
KernelTable<DropoutBackwardRow<T>> dropout_backward_kernels() {
  return table(kDropoutBackward<T>);
}
template KernelTable<DropoutBackwardRow<float>> dropout_backward_kernels<float>();
template KernelTable<DropoutBackwardRow<Bf16>> dropout_backward_kernels<Bf16>();

template <class T>
KernelTable<BiasReluDropoutRow<T>> bias_relu_dropout_kernels() {
  return table(kBiasReluDropout<T>);
}
template KernelTable<BiasReluDropoutRow<float>> bias_relu_dropout_kernels<float>();
template KernelTable<BiasReluDropoutRow<Bf16>> bias_relu_dropout_kernels<Bf16>();

}  // namespace pcn
