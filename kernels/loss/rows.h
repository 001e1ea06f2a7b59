// Shared by the kernels of the loss family: who works on a row, and the sum over the rows at the end.
//
// A row is worked on by a team: a warp that keeps the row in registers (few classes; several rows to a
// block), or a block that reads it three times, the second and third time from the cache. Both give `max` and
// `sum` over the team, in a fixed order, and every thread gets the result.
#pragma once
#include "common/device.h"
#include "common/element.h"
#include "loss/loss.h"

namespace pcn::loss {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int WARP_CLASSES = 128;  // most classes of the warp kernels
constexpr int PER_LANE = WARP_CLASSES / 32;
constexpr unsigned ALL = 0xffffffffu;

// The outcome of one example, in the workspace. rank: how many classes come before the label's; RANK_WRONG
// where there is no answer.
struct Outcome {
  float loss;
  int rank;
};
constexpr int RANK_WRONG = 0x7fffffff;

struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

template <class T, class F>
__device__ __forceinline__ T over_warp(T value, F f) {
  PCN_UNROLL
  for (int lanes = 16; lanes > 0; lanes /= 2) value = f(value, __shfl_xor_sync(ALL, value, lanes));
  return value;
}

// `slots` has WARPS elements; the leading barrier lets it be used again at once.
template <class T, class F>
__device__ __forceinline__ T over_block(T value, T* slots, F f) {
  value = over_warp(value, f);
  __syncthreads();
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
  __syncthreads();
  T result = slots[0];
  PCN_UNROLL
  for (int w = 1; w < WARPS; ++w) result = f(result, slots[w]);
  return result;
}

// Whether class c comes before the label: the greater logit first, the smaller index first among equals.
__device__ __forceinline__ int before(float x, int c, float x_label, int label) {
  return x > x_label || (x == x_label && c < label);
}

__device__ __forceinline__ float weight_of(const float* weights, int label, bool valid) {
  return weights && valid ? weights[label] : 1.f;
}

// exp(x - max) sums to `sum`. -log softmax[label] = log(sum) - (x_label - max).
__device__ __forceinline__ Outcome outcome(float x_label, float max, float sum, float weight, int rank,
                                           bool valid) {
  Outcome result;
  result.loss = valid ? (logf(sum) - (x_label - max)) * weight : NAN;
  // A NaN anywhere in the row has reached the sum; comparisons with NaN are false and would call the label
  // the best.
  result.rank = valid && sum == sum ? rank : RANK_WRONG;
  return result;
}

// Second launch: loss = mean of the examples' losses, metrics += …; one block, double sums in a fixed order.
cudaError_t reduce_outcomes(const char* stem, float* loss, double* metrics, const Outcome* outcomes, int topk,
                            const LossShape& shape, cudaStream_t stream);

}  // namespace pcn::loss
