// The body of the shuffle kernels: windowed sums over channels without shared memory.
//
// A thread holds 4 neighbouring channels, a warp 128 of them, straight through the ends of rows. With windows
// that reach no further than 4 channels, all a thread lacks is in the threads left and right of it: 8
// shuffles. The first and the last lane work out their missing neighbour themselves from global memory, where
// a cache has it.
#pragma once
#include "norm/response.h"

namespace pcn::norm {

constexpr int REACH = 4;

// Windows that neither reach beyond the neighbouring float4s nor straddle a group inside one.
inline bool shuffle_supports(const LrnShape& shape) {
  return shape.c / shape.groups % 4 == 0 && shape.size / 2 <= REACH;
}

// The sums over the windows of this thread's 4 channels of the values that term(i) gives for float4 number i;
// own is term(thread). per_group: float4s in a group. Every lane of the warp must call it.
template <class Term>
PCN_FN float4 windowed_sums(unsigned thread, unsigned threads, unsigned per_group, Reach reach, float4 own,
                            const Term& term) {
  const unsigned lane = threadIdx.x % 32, place = thread % per_group;
  const bool has_left = thread < threads && place > 0, has_right = thread < threads && place + 1 < per_group;
  float4 left, right;
  left.x = __shfl_up_sync(0xffffffffu, own.x, 1);
  left.y = __shfl_up_sync(0xffffffffu, own.y, 1);
  left.z = __shfl_up_sync(0xffffffffu, own.z, 1);
  left.w = __shfl_up_sync(0xffffffffu, own.w, 1);
  right.x = __shfl_down_sync(0xffffffffu, own.x, 1);
  right.y = __shfl_down_sync(0xffffffffu, own.y, 1);
  right.z = __shfl_down_sync(0xffffffffu, own.z, 1);
  right.w = __shfl_down_sync(0xffffffffu, own.w, 1);
  if (lane == 0 && has_left) left = term(thread - 1);
  if (lane == 31 && has_right) right = term(thread + 1);
  if (!has_left) left = zero4();
  if (!has_right) right = zero4();

  const float values[12] = {left.x, left.y, left.z,  left.w,  own.x,   own.y,
                            own.z,  own.w,  right.x, right.y, right.z, right.w};
  float sums[4] = {0.f, 0.f, 0.f, 0.f};
  PCN_UNROLL
  for (int d = -REACH; d <= REACH; ++d) {
    if (d >= -reach.back && d <= reach.ahead) {
      PCN_UNROLL
      for (int j = 0; j < 4; ++j) sums[j] += values[REACH + j + d];
    }
  }
  return make_float4(sums[0], sums[1], sums[2], sums[3]);
}

}  // namespace pcn::norm
