// sgd_momentum_flat: section 5 of the 2012 paper, over all parameters at once
//   v <- momentum v - weight_decay[s] lr lr_mult[s] w - lr lr_mult[s] g      w <- w + v
// for every element of segment s; where lr_mult[s] is 0 the segment is frozen: neither w nor v is touched.
// w, v, g (count), hyper = [lr, momentum] in device memory, so that a captured graph follows a schedule.
// w_bf16 (count), where there is one, is the copy of the weights that products in bfloat16 read: written in
// the same pass, 2 more bytes a parameter instead of the 6 of a pass of its own. step, the count of updates,
// also grows by one on the device (null: nobody counts). 20 bytes of memory traffic a parameter (three reads,
// two writes): bound by memory; AlexNet's 61 million take 1.2 GB.
//
// A block owns a tile of TILE elements and finds the segment of its first one by binary search, every thread
// alike, in a handful of cached reads. Nearly all tiles lie inside one segment and go by float4s, all loads
// before the first store; a tile that a boundary crosses, or whose arrays do not start on 16 bytes, goes
// element by element, each walking on from the tile's segment.
#include "common/device.h"
#include "common/element.h"
#include "optim/optim.h"

namespace pcn {
namespace {

constexpr int THREADS = 256;
constexpr int UNROLL = 2;
constexpr int TILE = THREADS * UNROLL * 4;

struct Rule {
  float momentum, decay, rate;  // decay = weight_decay lr lr_mult, rate = lr lr_mult
  __device__ __forceinline__ void operator()(float& w, float& v, float g) const {
    v = momentum * v - decay * w - rate * g;
    w += v;
  }
};

__device__ __forceinline__ Rule rule_of(float lr, float momentum, float lr_mult, float weight_decay) {
  const float rate = lr * lr_mult;
  return {momentum, weight_decay * rate, rate};
}

// The first segment that ends beyond element i; `segments` where none does.
__device__ __forceinline__ int segment_of(long long i, const std::int64_t* ends, int segments) {
  int low = 0, high = segments;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (__ldg(ends + middle) > i)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

template <bool COPY>
__global__ void __launch_bounds__(THREADS)
    sgd_momentum_kernel(float* __restrict__ w, float* __restrict__ v, Bf16* __restrict__ copy,
                        std::int64_t* __restrict__ step, const float* __restrict__ g,
                        const float* __restrict__ hyper, const std::int64_t* __restrict__ ends,
                        const float* __restrict__ lr_mult, const float* __restrict__ weight_decay,
                        SgdShape shape, int vectors) {
  if (step != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *step += 1;  // nobody here reads it
  const long long begin = static_cast<long long>(blockIdx.x) * TILE;
  const long long end = begin + TILE < shape.count ? begin + TILE : shape.count;
  int s = segment_of(begin, ends, shape.segments);
  if (s == shape.segments) return;
  const float lr = __ldg(hyper), momentum = __ldg(hyper + 1);

  if (end <= __ldg(ends + s)) {
    const float multiplier = __ldg(lr_mult + s);
    if (multiplier == 0.f) return;
    const Rule rule = rule_of(lr, momentum, multiplier, __ldg(weight_decay + s));
    if (vectors && end - begin == TILE) {
      float4 wv[UNROLL], vv[UNROLL], gv[UNROLL];
      PCN_UNROLL
      for (int u = 0; u < UNROLL; ++u) {
        const long long i = begin / 4 + u * THREADS + threadIdx.x;
        wv[u] = reinterpret_cast<const float4*>(w)[i];
        vv[u] = reinterpret_cast<const float4*>(v)[i];
        gv[u] = __ldg(reinterpret_cast<const float4*>(g) + i);
      }
      PCN_UNROLL
      for (int u = 0; u < UNROLL; ++u) {
        const long long i = begin / 4 + u * THREADS + threadIdx.x;
        rule(wv[u].x, vv[u].x, gv[u].x);
        rule(wv[u].y, vv[u].y, gv[u].y);
        rule(wv[u].z, vv[u].z, gv[u].z);
        rule(wv[u].w, vv[u].w, gv[u].w);
        reinterpret_cast<float4*>(w)[i] = wv[u];
        reinterpret_cast<float4*>(v)[i] = vv[u];
        if (COPY) {
          const float updated[4] = {wv[u].x, wv[u].y, wv[u].z, wv[u].w};
          store_run(copy + 4 * i, updated);
        }
      }
    } else {
      for (long long i = begin + threadIdx.x; i < end; i += THREADS) {
        rule(w[i], v[i], g[i]);
        if (COPY) copy[i] = narrow<Bf16>(w[i]);
      }
    }
    return;
  }
  for (long long i = begin + threadIdx.x; i < end; i += THREADS) {
    while (s < shape.segments && __ldg(ends + s) <= i) ++s;
    if (s == shape.segments) return;
    const float multiplier = __ldg(lr_mult + s);
    if (multiplier == 0.f) continue;
    rule_of(lr, momentum, multiplier, __ldg(weight_decay + s))(w[i], v[i], g[i]);
    if (COPY) copy[i] = narrow<Bf16>(w[i]);
  }
}

bool aligned(const void* pointer, int bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

}  // namespace

cudaError_t sgd_momentum_flat(float* w, float* v, Bf16* w_bf16, std::int64_t* step, const float* g,
                              const float* hyper, const std::int64_t* ends, const float* lr_mult,
                              const float* weight_decay, const SgdShape& shape, cudaStream_t stream) {
  const int vectors = aligned(w, 16) && aligned(v, 16) && aligned(g, 16) && aligned(w_bf16, 8);
  return launch("sgd_momentum_flat", w_bf16 ? sgd_momentum_kernel<true> : sgd_momentum_kernel<false>,
                dim3(static_cast<unsigned>((shape.count + TILE - 1) / TILE)), dim3(THREADS), 0, stream, w, v,
                w_bf16, step, g, hyper, ends, lr_mult, weight_decay, shape, vectors);
}

}  // namespace pcn
