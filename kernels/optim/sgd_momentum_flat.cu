// sgd_momentum_flat: section 5 of the 2012 paper, over all parameters at once, on the whole card
//   v <- momentum v - weight_decay[s] lr lr_mult[s] w - lr lr_mult[s] g      w <- w + v
// w, v, g (count), hyper = [lr, momentum] in device memory, so that a captured graph follows a schedule.
// w_bf16 (count), where there is one, is the copy of the weights that products in bfloat16 read: written in
// the same pass, 2 more bytes a parameter instead of the 6 of a pass of its own. step, the count of updates,
// also grows by one on the device (null: nobody counts). 20 bytes of memory traffic a parameter (three reads,
// two writes): bound by memory; AlexNet's 61 million take 1.2 GB.
//
// A block owns a tile of TILE elements (optim/sgd_tile.h) and finds the segment of its first one by binary
// search, every thread alike, in a handful of cached reads.
#include "optim/sgd_tile.h"

namespace pcn {
namespace {

constexpr int THREADS = 256;
constexpr int UNROLL = 2;
constexpr int TILE = THREADS * UNROLL * 4;

template <bool COPY>
__global__ void __launch_bounds__(THREADS)
    sgd_momentum_kernel(float* __restrict__ w, float* __restrict__ v, Bf16* __restrict__ copy,
                        std::int64_t* __restrict__ step, const float* __restrict__ g,
                        const float* __restrict__ hyper, const std::int64_t* __restrict__ ends,
                        const float* __restrict__ lr_mult, const float* __restrict__ weight_decay,
                        SgdShape shape, int vectors) {
  if (step != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *step += 1;  // nobody here reads it
  const long long begin = static_cast<long long>(blockIdx.x) * TILE;
  const int s = sgd_segment(begin, ends, shape.segments);
  if (s == shape.segments) return;
  sgd_tile<THREADS, UNROLL, COPY>(begin, s, w, v, copy, g, __ldg(hyper), __ldg(hyper + 1), ends, lr_mult,
                                  weight_decay, shape, vectors);
}

}  // namespace

cudaError_t sgd_momentum_flat(float* w, float* v, Bf16* w_bf16, std::int64_t* step, const float* g,
                              const float* hyper, const std::int64_t* ends, const float* lr_mult,
                              const float* weight_decay, const SgdShape& shape, cudaStream_t stream) {
  return launch("sgd_momentum_flat", w_bf16 ? sgd_momentum_kernel<true> : sgd_momentum_kernel<false>,
                dim3(static_cast<unsigned>((shape.count + TILE - 1) / TILE)), dim3(THREADS), 0, stream, w, v,
                w_bf16, step, g, hyper, ends, lr_mult, weight_decay, shape, sgd_vectors(w, v, w_bf16, g));
}

}  // namespace pcn
