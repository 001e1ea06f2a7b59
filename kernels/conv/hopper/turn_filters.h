// The filters of a layer as dgrad in TF32 wants them (hopper/dgrad.h), whose wgmma takes operands along the reduction
// alone: of each group w'[c][R - 1 - r][S - 1 - s][k] = w[k][r][s][c], turned round and transposed.
//
// A block takes 32 filters by 32 channels of a tap through shared memory, four neighbours a thread: reads and writes
// fill lines of 128 bytes, rows of 33 keep columns apart in the banks. Each weight is read and written once: bound by
// memory, which at 4.3 TB/s takes 2 us for the largest of AlexNet's convolutions.
#pragma once
#include "conv/elements.h"
#include "conv/gemm_extent.h"

namespace pcn::conv {

// By channel and filter.
template <int EDGE>
struct FilterTile {
  float at[EDGE][EDGE + 1];
};

template <int EDGE>
__global__ void __launch_bounds__(EDGE* EDGE / 4)
    turn_filters_kernel(float* __restrict__ to, const float* __restrict__ w, const Conv2dShape s, int k_tiles,
                        int c_tiles) {
  auto& tile = shared<FilterTile<EDGE>>().at;
  const int filters = s.k / s.groups, channels = s.c / s.groups, taps = s.r * s.s;
  int index = blockIdx.x;
  const int c0 = index % c_tiles * EDGE;
  index /= c_tiles;
  const int k0 = index % k_tiles * EDGE;
  index /= k_tiles;
  const int tap = index % taps, group = index / taps;
  const int row = threadIdx.x / (EDGE / 4), four = threadIdx.x % (EDGE / 4) * 4;
  float v[4];
  if (k0 + row < filters && c0 + four < channels) {
    load_constant(v, w + ((group * filters + k0 + row) * taps + tap) * channels + c0 + four);
    PCN_UNROLL
    for (int e = 0; e < 4; ++e) tile[four + e][row] = v[e];
  }
  __syncthreads();
  if (c0 + row < channels && k0 + four < filters) {
    PCN_UNROLL
    for (int e = 0; e < 4; ++e) v[e] = tile[row][four + e];
    store_run(to + ((group * channels + c0 + row) * taps + taps - 1 - tap) * filters + k0 + four, v);
  }
}

inline double turning_cost(const Conv2dShape& s) {
  return pass_cost(2. * filter_elements(s) * sizeof(float));
}

// C/groups and K/groups are multiples of 4, pointers of 16 bytes.
inline cudaError_t turn_filters(const char* stem, float* to, const float* w, const Conv2dShape& s,
                                cudaStream_t stream) {
  constexpr int EDGE = 32;
  const int k_tiles = static_cast<int>(ceil_div(s.k / s.groups, EDGE));
  const int c_tiles = static_cast<int>(ceil_div(s.c / s.groups, EDGE));
  const dim3 grid(static_cast<unsigned>(c_tiles * k_tiles * s.r * s.s * s.groups));
  return launch(stem, turn_filters_kernel<EDGE>, grid, dim3(EDGE * EDGE / 4), 0, stream, to, w, s, k_tiles,
                c_tiles);
}

}  // namespace pcn::conv
