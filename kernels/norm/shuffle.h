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

// Windows that neither reach beyond the neighbouring quadruples nor straddle a group inside one.
inline bool shuffle_supports(const LrnShape& shape) {
  return shape.c / shape.groups % 4 == 0 && shape.size / 2 <= REACH;
}

// A lane's 4 values with FAR of its neighbours' on either side, zero where there is no neighbour in the
// group. edge: the neighbour's values that lane 0 must bring for its left, and lane 31 for its right. Every
// lane of the warp must call it.
template <int FAR>
PCN_FN void with_neighbours(float (&values)[4 + 2 * FAR], const float (&own)[4], const float (&edge)[4],
                            bool has_left, bool has_right) {
  const unsigned lane = threadIdx.x % 32;
  PCN_UNROLL
  for (int j = 0; j < FAR; ++j) {
    float left = __shfl_up_sync(0xffffffffu, own[4 - FAR + j], 1);
    float right = __shfl_down_sync(0xffffffffu, own[j], 1);
    if (lane == 0) left = edge[4 - FAR + j];
    if (lane == 31) right = edge[j];
    values[j] = has_left ? left : 0.f;
    values[FAR + 4 + j] = has_right ? right : 0.f;
  }
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) values[FAR + j] = own[j];
}

// The sums over windows of at most FAR channels to either side.
template <int FAR>
PCN_FN void sums_within(float (&sums)[4], const float (&values)[4 + 2 * FAR], Reach reach) {
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) sums[j] = 0.f;
  PCN_UNROLL
  for (int d = -FAR; d <= FAR; ++d) {
    if (d >= -reach.back && d <= reach.ahead) {
      PCN_UNROLL
      for (int j = 0; j < 4; ++j) sums[j] += values[FAR + j + d];
    }
  }
}

// The same for the paper's 5 channels: 10 additions instead of 16, since neighbouring windows share most.
PCN_FN void sums_of_five(float (&sums)[4], const float (&values)[8]) {
  const float middle = values[3] + values[4];
  const float left = values[2] + middle, right = middle + values[5], both = left + values[5];
  sums[0] = (values[0] + values[1]) + left;
  sums[1] = values[1] + both;
  sums[2] = both + values[6];
  sums[3] = right + (values[6] + values[7]);
}

// The sums over the windows of this thread's 4 channels of the values that term(i) gives for quadruple number
// i;
// own is term(thread). per_group: quadruples in a group. Every lane of the warp must call it.
template <class Term>
PCN_FN float4 windowed_sums(unsigned thread, unsigned threads, unsigned per_group, Reach reach, float4 own,
                            const Term& term) {
  const unsigned lane = threadIdx.x % 32, place = thread % per_group;
  const bool has_left = thread < threads && place > 0, has_right = thread < threads && place + 1 < per_group;
  float4 beyond = zero4();
  if (lane == 0 && has_left) beyond = term(thread - 1);
  if (lane == 31 && has_right) beyond = term(thread + 1);
  const float values[4] = {own.x, own.y, own.z, own.w};
  const float edge[4] = {beyond.x, beyond.y, beyond.z, beyond.w};
  float wide[4 + 2 * REACH], sums[4];
  with_neighbours<REACH>(wide, values, edge, has_left, has_right);
  sums_within<REACH>(sums, wide, reach);
  return make_float4(sums[0], sums[1], sums[2], sums[3]);
}

}  // namespace pcn::norm
