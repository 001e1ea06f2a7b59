// The tables of the pointwise family. Alignment is a property of pointers, not of shapes, so each kernel
// chooses its own vector or scalar path when it runs and one row serves every shape.
#include "pointwise/pointwise.h"

namespace pcn {
namespace {

template <class Row, int N>
KernelTable<Row> table(const Row (&rows)[N]) {
  return {rows, N};
}

constexpr auto kNone = no_workspace<ElementwiseShape>;
constexpr auto kAny = always<ElementwiseShape>;

const UnaryRow kRelu[] = {{"relu_forward", kAny, kNone, relu_forward}};
const UnaryRow kTanh[] = {{"tanh_forward", kAny, kNone, tanh_forward}};
const UnaryRow kLogistic[] = {{"logistic_forward", kAny, kNone, logistic_forward}};
const GradientRow kReluBackward[] = {{"relu_backward", kAny, kNone, relu_backward}};
const GradientRow kTanhBackward[] = {{"tanh_backward", kAny, kNone, tanh_backward}};
const GradientRow kLogisticBackward[] = {{"logistic_backward", kAny, kNone, logistic_backward}};
const AddRow kAdd[] = {{"add_scaled", kAny, kNone, add_scaled}};
const AddBiasRow kAddBias[] = {{"add_bias_rows", always<RowsShape>, no_workspace<RowsShape>, add_bias_rows}};
const BiasBackwardRow kBiasBackward[] = {{"bias_backward_two_stage", always<RowsShape>,
                                          bias_backward_two_stage_workspace, bias_backward_two_stage}};
const CopyColumnsRow kCopyColumns[] = {
    {"copy_columns_strided", always<CopyColumnsShape>, no_workspace<CopyColumnsShape>, copy_columns_strided}};
const DropoutRow kDropout[] = {
    {"dropout_philox", always<DropoutShape>, no_workspace<DropoutShape>, dropout_philox}};
const DropoutBackwardRow kDropoutBackward[] = {{"dropout_backward_mask", kAny, kNone, dropout_backward_mask}};
template <class T>
const BiasReluDropoutRow<T> kBiasReluDropout[] = {{"bias_relu_dropout_philox", always<DropoutShape>,
                                                   no_workspace<DropoutShape>, bias_relu_dropout_philox<T>}};

}  // namespace

KernelTable<UnaryRow> relu_kernels() { return table(kRelu); }
KernelTable<UnaryRow> tanh_kernels() { return table(kTanh); }
KernelTable<UnaryRow> logistic_kernels() { return table(kLogistic); }
KernelTable<GradientRow> relu_backward_kernels() { return table(kReluBackward); }
KernelTable<GradientRow> tanh_backward_kernels() { return table(kTanhBackward); }
KernelTable<GradientRow> logistic_backward_kernels() { return table(kLogisticBackward); }
KernelTable<AddRow> add_kernels() { return table(kAdd); }
KernelTable<AddBiasRow> add_bias_kernels() { return table(kAddBias); }
KernelTable<BiasBackwardRow> bias_backward_kernels() { return table(kBiasBackward); }
KernelTable<CopyColumnsRow> copy_columns_kernels() { return table(kCopyColumns); }
KernelTable<DropoutRow> dropout_kernels() { return table(kDropout); }
KernelTable<DropoutBackwardRow> dropout_backward_kernels() { return table(kDropoutBackward); }

template <class T>
KernelTable<BiasReluDropoutRow<T>> bias_relu_dropout_kernels() {
  return table(kBiasReluDropout<T>);
}
template KernelTable<BiasReluDropoutRow<float>> bias_relu_dropout_kernels<float>();
template KernelTable<BiasReluDropoutRow<Bf16>> bias_relu_dropout_kernels<Bf16>();

}  // namespace pcn
