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

KernelTable<Conv2dFpropRow> conv2d_fprop_kernels() {
  static const Conv2dFpropRow rows[] = {
      PCN_ROW(conv2d_fprop_mma128x128), PCN_ROW(conv2d_fprop_mma128x96),   PCN_ROW(conv2d_fprop_mma128x64),
      PCN_ROW(conv2d_fprop_mma64x64),   PCN_ROW(conv2d_fprop_first_layer), PCN_ROW(conv2d_fprop_tile128),
      PCN_ROW(conv2d_fprop_tile96),     PCN_ROW(conv2d_fprop_tile64),      PCN_ROW(conv2d_fprop_tile32),
      PCN_ROW(conv2d_fprop_rows16),     PCN_ROW(conv2d_fprop_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

KernelTable<Conv2dDgradRow> conv2d_dgrad_kernels() {
  static const Conv2dDgradRow rows[] = {
      PCN_ROW(conv2d_dgrad_mma128x128), PCN_ROW(conv2d_dgrad_mma128x64), PCN_ROW(conv2d_dgrad_mma128x48),
      PCN_ROW(conv2d_dgrad_mma64x64),   PCN_ROW(conv2d_dgrad_tile128),   PCN_ROW(conv2d_dgrad_tile96),
      PCN_ROW(conv2d_dgrad_tile64),     PCN_ROW(conv2d_dgrad_tile48),    PCN_ROW(conv2d_dgrad_tile32),
      PCN_ROW(conv2d_dgrad_rows16),     PCN_ROW(conv2d_dgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

KernelTable<Conv2dWgradRow> conv2d_wgrad_kernels() {
  static const Conv2dWgradRow rows[] = {
      PCN_ROW(conv2d_wgrad_mma128x128), PCN_ROW(conv2d_wgrad_mma96x128),   PCN_ROW(conv2d_wgrad_mma64x128),
      PCN_ROW(conv2d_wgrad_mma64x64),   PCN_ROW(conv2d_wgrad_first_layer), PCN_ROW(conv2d_wgrad_tile128),
      PCN_ROW(conv2d_wgrad_tile96),     PCN_ROW(conv2d_wgrad_tile64),      PCN_ROW(conv2d_wgrad_tile32),
      PCN_ROW(conv2d_wgrad_generic),
  };
  return {rows, static_cast<int>(std::size(rows))};
}

}  // namespace pcn
