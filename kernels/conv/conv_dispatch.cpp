// The tables of the conv family. Order breaks ties between equal costs; the generic kernels take every shape.
#include "conv/conv.h"

namespace pcn {
namespace {

template <class Launch>
Conv2dRow<Launch> row(const char* name, const Conv2dTraits& traits, Launch* launch) {
  return {
      {name, traits.supports, traits.workspace_bytes, launch}, traits.cost, traits.sums_bias, traits.shared};
}

}  // namespace

#define PCN_ROW(stem) row(#stem, stem##_traits, stem)
#define PCN_ROW_OF(E, stem) row(#stem, stem##_traits, stem<E>)

template <>
KernelTable<Conv2dFpropRow<float>> conv2d_fprop_kernels<float>() {
  static const Conv2dFpropRow<float> rows[] = {
#define PCN_FPROP_WGMMA(stem, ...) PCN_ROW(stem),
#define PCN_FPROP_MMA(stem, ...) PCN_ROW(stem),
#include "conv/tiles.inc"
      PCN_ROW_OF(float, conv2d_fprop_first_layer),
#define PCN_FPROP_TILE(stem, ...) PCN_ROW(stem),
#define PCN_FPROP_ROWS(stem, ...) PCN_ROW(stem),
#include "conv/tiles.inc"
      PCN_ROW_OF(float, conv2d_fprop_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dFpropRow<Bf16>> conv2d_fprop_kernels<Bf16>() {
  static const Conv2dFpropRow<Bf16> rows[] = {
#define PCN_FPROP_WGMMA_BF16(stem, ...) PCN_ROW(stem),
#define PCN_FPROP_MMA_BF16(stem, ...) PCN_ROW(stem),
#include "conv/tiles.inc"
      PCN_ROW_OF(Bf16, conv2d_fprop_first_layer),
      PCN_ROW_OF(Bf16, conv2d_fprop_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dDgradRow<float>> conv2d_dgrad_kernels<float>() {
  static const Conv2dDgradRow<float> rows[] = {
#define PCN_DGRAD_WGMMA(stem, ...) PCN_ROW(stem),
#define PCN_DGRAD_MMA(stem, ...) PCN_ROW(stem),
#define PCN_DGRAD_TILE(stem, ...) PCN_ROW(stem),
#define PCN_DGRAD_ROWS(stem, ...) PCN_ROW(stem),
#include "conv/tiles.inc"
      PCN_ROW_OF(float, conv2d_dgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dDgradRow<Bf16>> conv2d_dgrad_kernels<Bf16>() {
  static const Conv2dDgradRow<Bf16> rows[] = {
#define PCN_DGRAD_WGMMA_BF16(stem, ...) PCN_ROW(stem),
#define PCN_DGRAD_MMA_BF16(stem, ...) PCN_ROW(stem),
#include "conv/tiles.inc"
      PCN_ROW_OF(Bf16, conv2d_dgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dWgradRow<float>> conv2d_wgrad_kernels<float>() {
  static const Conv2dWgradRow<float> rows[] = {
#define PCN_WGRAD_WGMMA(stem, ...) PCN_ROW(stem),
#define PCN_WGRAD_MMA(stem, ...) PCN_ROW(stem),
#include "conv/tiles.inc"
      PCN_ROW_OF(float, conv2d_wgrad_first_layer),
#define PCN_WGRAD_TILE(stem, ...) PCN_ROW(stem),
#include "conv/tiles.inc"
      PCN_ROW_OF(float, conv2d_wgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

template <>
KernelTable<Conv2dWgradRow<Bf16>> conv2d_wgrad_kernels<Bf16>() {
  static const Conv2dWgradRow<Bf16> rows[] = {
#define PCN_WGRAD_WGMMA_BF16(stem, ...) PCN_ROW(stem),
#define PCN_WGRAD_MMA_BF16(stem, ...) PCN_ROW(stem),
#include "conv/tiles.inc"
      PCN_ROW_OF(Bf16, conv2d_wgrad_first_layer),
      PCN_ROW_OF(Bf16, conv2d_wgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

}  // namespace pcn
