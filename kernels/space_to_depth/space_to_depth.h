// The space_to_depth family: the filters of a convolution of stride t, rearranged for images in the depth
// layout (which the augment family writes), and their gradient back. A convolution of stride t over C
// channels is one of stride 1 over t t C channels:
//   w'[k, r', s', (a t + b) C + c] = w[k, t r' + a, t s' + b, c], 0 beyond the filter and in channels left
//   over
// w (K, R, S, C)   w' (K, to_r, to_s, to_c), to_r = ceil(R / t), to_s = ceil(S / t), to_c >= t t C
#pragma once
#include "common/types.h"

namespace pcn {

struct DepthShape {
  int k, r, s, c;  // w
  int side;        // t
  int to_r, to_s, to_c;
};

// to: w', of T = float or Bf16; w of the same type.
template <class T>
using FiltersToDepthFn = cudaError_t(T* to, const T* w, const DepthShape& shape, cudaStream_t stream);
// dw from dw': what stands where w' is filled up is dropped.
using FiltersFromDepthFn = cudaError_t(float* dw, const float* from, const DepthShape& shape,
                                       cudaStream_t stream);

template <class T>
using FiltersToDepthRow = KernelRow<DepthShape, FiltersToDepthFn<T>>;
using FiltersFromDepthRow = KernelRow<DepthShape, FiltersFromDepthFn>;

template <class T>
cudaError_t filters_to_depth_any(T* to, const T* w, const DepthShape& shape, cudaStream_t stream);
FiltersFromDepthFn filters_from_depth_any;

template <class T>
KernelTable<FiltersToDepthRow<T>> filters_to_depth_kernels();
KernelTable<FiltersFromDepthRow> filters_from_depth_kernels();

}  // namespace pcn
