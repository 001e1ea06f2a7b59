// The optim family: stochastic gradient descent with momentum over all parameters of a network in one launch.
#pragma once
#include "common/types.h"

namespace pcn {

// `count` parameters lie one after the other in one array, cut into `segments` (one per parameter tensor).
struct SgdShape {
  std::int64_t count;
  int segments;
};

// In place on w and v (count); w_bf16 (count), unless null, gets the updated weights rounded to nearest, ties
// to even, and keeps what it holds where a weight is not updated; step (1), the count of updates, grows by
// one, unless it is null. hyper (2) = [lr, momentum], read by the kernel. Segment s is [ends[s-1], ends[s]),
// ends[-1] = 0; lr_mult and weight_decay (segments) belong to it. Elements beyond the last segment are left
// as they are.
using SgdMomentumFn = cudaError_t(float* w, float* v, Bf16* w_bf16, std::int64_t* step, const float* g,
                                  const float* hyper, const std::int64_t* ends, const float* lr_mult,
                                  const float* weight_decay, const SgdShape& shape, cudaStream_t stream);
using SgdMomentumRow = KernelRow<SgdShape, SgdMomentumFn>;

SgdMomentumFn sgd_momentum_flat, sgd_momentum_beside;

KernelTable<SgdMomentumRow> sgd_momentum_kernels();

}  // namespace pcn
