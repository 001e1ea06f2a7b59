// sgd_momentum_beside: sgd_momentum_flat's arithmetic, bit for bit, in the gaps that another kernel leaves
// A plan updates the parameters of the upper layers while the lower ones' gradients are computed, by kernels
// that fill the card. A grid over all elements would not run beside them but in their place: its blocks take
// every slot that becomes free until all have been dealt out. So here BLOCKS blocks, one a multiprocessor of an
// H200, walk over all tiles, each a BLOCKS-th of them.
//
// A block has 2048 registers, 1024 in each of two quarters of its multiprocessor, and no shared memory: two blocks
// of 128 threads and up to 240 registers, as the tiles on tensor cores are, leave them. 32 registers a thread hold
// five of a tile's six loads, so that a tile of 10 KB, reads and writes, takes two latencies: at 800 cycles each
// 1.5 TB/s on the card. Slow on purpose: AlexNet's backward leaves time for it, and what it moves goes through the
// L2 that products wait for. benchmarks/report/overlap.py counts with these figures.
//
// Taken by its name alone: on a card of its own it is the slower one.
#include "optim/sgd_tile.h"

namespace pcn {
namespace {

constexpr int BESIDE_THREADS = 64;
constexpr int BESIDE_UNROLL = 2;
constexpr int BESIDE_TILE = BESIDE_THREADS * BESIDE_UNROLL * 4;
constexpr int BLOCKS = 132;

template <bool COPY>
__global__ void __launch_bounds__(BESIDE_THREADS)
    sgd_beside_kernel(float* __restrict__ w, float* __restrict__ v, Bf16* __restrict__ copy,
                      std::int64_t* __restrict__ step, const float* __restrict__ g,
                      const float* __restrict__ hyper, const std::int64_t* __restrict__ ends,
                      const float* __restrict__ lr_mult, const float* __restrict__ weight_decay,
                      SgdShape shape, int vectors) {
  if (step != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *step += 1;  // nobody here reads it
  const float lr = __ldg(hyper), momentum = __ldg(hyper + 1);
  const long long stride = static_cast<long long>(gridDim.x) * BESIDE_TILE;
  int s = 0;
  for (long long begin = static_cast<long long>(blockIdx.x) * BESIDE_TILE; begin < shape.count;
       begin += stride) {
    while (s < shape.segments && __ldg(ends + s) <= begin) ++s;
    if (s == shape.segments) return;
    sgd_tile<BESIDE_THREADS, BESIDE_UNROLL, COPY>(begin, s, w, v, copy, g, lr, momentum, ends, lr_mult,
                                                  weight_decay, shape, vectors);
  }
}

}  // namespace

cudaError_t sgd_momentum_beside(float* w, float* v, Bf16* w_bf16, std::int64_t* step, const float* g,
                                const float* hyper, const std::int64_t* ends, const float* lr_mult,
                                const float* weight_decay, const SgdShape& shape, cudaStream_t stream) {
  const std::int64_t tiles = (shape.count + BESIDE_TILE - 1) / BESIDE_TILE;
  return launch("sgd_momentum_beside", w_bf16 ? sgd_beside_kernel<true> : sgd_beside_kernel<false>,
                dim3(static_cast<unsigned>(tiles < BLOCKS ? tiles : BLOCKS)), dim3(BESIDE_THREADS), 0, stream,
                w, v, w_bf16, step, g, hyper, ends, lr_mult, weight_decay, shape,
                sgd_vectors(w, v, w_bf16, g));
}

}  // namespace pcn
