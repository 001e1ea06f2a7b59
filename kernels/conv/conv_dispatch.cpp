// The tables of the conv family. Order breaks ties between equal costs; the generic kernels take every shape.
#include "conv/conv.h"

namespace pcn {
namespace {

template <class Launch>
Conv2dRow<Launch> row(const char* name, const Conv2dTraits& traits, Launch* launch) {
  return {{name, traits.supports, traits.workspace_bytes, launch}, traits.cost};
}

}  // namespace

#define PCN_ROW(stem) row(#stem, stem##_traits, stem)
#define PCN_ROW_OF(E, stem) row(#stem, stem##_traits, stem<E>)

template <>
KernelTable<Conv2dFpropRow<float>> conv2d_fprop_kernels<float>() {
  static const Conv2dFpropRow<float> rows[] = {
      PCN_ROW(conv2d_fprop_mma128x128),
      PCN_ROW(conv2d_fprop_mma128x96),
      PCN_ROW(conv2d_fprop_mma128x64),
      PCN_ROW(conv2d_fprop_mma64x64),
      PCN_ROW_OF(float, conv2d_fprop_first_layer),
      PCN_ROW(conv2d_fprop_tile128),
      PCN_ROW(conv2d_fprop_tile96),
      PCN_ROW(conv2d_fprop_tile64),
      PCN_ROW(conv2d_fprop_tile32),
      PCN_ROW(conv2d_fprop_rows16),
      PCN_ROW_OF(float, conv2d_fprop_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dFpropRow<Bf16>> conv2d_fprop_kernels<Bf16>() {
  static const Conv2dFpropRow<Bf16> rows[] = {
      PCN_ROW(conv2d_fprop_mma128x128_bf16),      PCN_ROW(conv2d_fprop_mma128x96_bf16),
      PCN_ROW(conv2d_fprop_mma128x64_bf16),       PCN_ROW(conv2d_fprop_mma64x64_bf16),
      PCN_ROW_OF(Bf16, conv2d_fprop_first_layer), PCN_ROW_OF(Bf16, conv2d_fprop_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dDgradRow<float>> conv2d_dgrad_kernels<float>() {
  static const Conv2dDgradRow<float> rows[] = {
      PCN_ROW(conv2d_dgrad_mma128x128),
      PCN_ROW(conv2d_dgrad_mma128x64),
      PCN_ROW(conv2d_dgrad_mma128x48),
      PCN_ROW(conv2d_dgrad_mma64x64),
      PCN_ROW(conv2d_dgrad_tile128),
      PCN_ROW(conv2d_dgrad_tile96),
      PCN_ROW(conv2d_dgrad_tile64),
      PCN_ROW(conv2d_dgrad_tile48),
      PCN_ROW(conv2d_dgrad_tile32),
      PCN_ROW(conv2d_dgrad_rows16),
      PCN_ROW_OF(float, conv2d_dgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dDgradRow<Bf16>> conv2d_dgrad_kernels<Bf16>() {
  static const Conv2dDgradRow<Bf16> rows[] = {
      PCN_ROW(conv2d_dgrad_mma128x128_bf16),  PCN_ROW(conv2d_dgrad_mma128x96_bf16),
      PCN_ROW(conv2d_dgrad_mma128x48_bf16),   PCN_ROW(conv2d_dgrad_mma64x64_bf16),
      PCN_ROW_OF(Bf16, conv2d_dgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dWgradRow<float>> conv2d_wgrad_kernels<float>() {
  static const Conv2dWgradRow<float> rows[] = {
      PCN_ROW(conv2d_wgrad_mma128x128),
      PCN_ROW(conv2d_wgrad_mma96x128),
      PCN_ROW(conv2d_wgrad_mma64x128),
      PCN_ROW(conv2d_wgrad_mma64x64),
      PCN_ROW_OF(float, conv2d_wgrad_first_layer),
      PCN_ROW(conv2d_wgrad_tile128),
      PCN_ROW(conv2d_wgrad_tile96),
      PCN_ROW(conv2d_wgrad_tile64),
      PCN_ROW(conv2d_wgrad_tile32),
      PCN_ROW_OF(float, conv2d_wgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dWgradRow<Bf16>> conv2d_wgrad_kernels<Bf16>() {
  static const Conv2dWgradRow<Bf16> rows[] = {
      PCN_ROW(conv2d_wgrad_mma128x128_bf16),  PCN_ROW(conv2d_wgrad_mma96x128_bf16),
      PCN_ROW(conv2d_wgrad_mma64x64_bf16),    PCN_ROW_OF(Bf16, conv2d_wgrad_first_layer),
      PCN_ROW_OF(Bf16, conv2d_wgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

}  // namespace pcn
