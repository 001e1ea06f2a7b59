// A tile of the update, shared by its rows: section 5 of the 2012 paper,
//   v <- momentum v - weight_decay[s] lr lr_mult[s] w - lr lr_mult[s] g      w <- w + v
// for every element of segment s; where lr_mult[s] is 0 the segment is frozen: neither w nor v is touched.
//
// Nearly all tiles lie inside one segment and go by float4s, all loads before the first store; a tile that a
// boundary crosses, or whose arrays do not start on 16 bytes, goes element by element, each walking on from the
// tile's segment.
#pragma once
#include "common/device.h"
#include "common/element.h"
#include "optim/optim.h"

namespace pcn {

struct SgdRule {
  float momentum, decay, rate;  // decay = weight_decay lr lr_mult, rate = lr lr_mult
  __device__ __forceinline__ void operator()(float& w, float& v, float g) const {
    v = momentum * v - decay * w - rate * g;
    w += v;
  }
};

__device__ __forceinline__ SgdRule sgd_rule(float lr, float momentum, float lr_mult, float weight_decay) {
  const float rate = lr * lr_mult;
  return {momentum, weight_decay * rate, rate};
}

// The first segment that ends beyond element i; `segments` where none does.
__device__ __forceinline__ int sgd_segment(long long i, const std::int64_t* ends, int segments) {
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

// Elements [begin, begin + THREADS UNROLL 4) by a block of THREADS; s: the segment of the first one. UNROLL
// float4s of each array are under way for a thread.
template <int THREADS, int UNROLL, bool COPY>
__device__ __forceinline__ void sgd_tile(long long begin, int s, float* __restrict__ w, float* __restrict__ v,
                                         Bf16* __restrict__ copy, const float* __restrict__ g, float lr,
                                         float momentum, const std::int64_t* __restrict__ ends,
                                         const float* __restrict__ lr_mult,
                                         const float* __restrict__ weight_decay, const SgdShape& shape,
                                         int vectors) {
  constexpr int TILE = THREADS * UNROLL * 4;
  const long long end = begin + TILE < shape.count ? begin + TILE : shape.count;
  if (end <= __ldg(ends + s)) {
    const float multiplier = __ldg(lr_mult + s);
    if (multiplier == 0.f) return;
    const SgdRule rule = sgd_rule(lr, momentum, multiplier, __ldg(weight_decay + s));
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
    sgd_rule(lr, momentum, multiplier, __ldg(weight_decay + s))(w[i], v[i], g[i]);
    if (COPY) copy[i] = narrow<Bf16>(w[i]);
  }
}

// Whether all arrays may be read and written by float4s, copies by four at once.
inline int sgd_vectors(const float* w, const float* v, const Bf16* w_bf16, const float* g) {
  const auto on = [](const void* pointer, int bytes) {
    return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
  };
  return on(w, 16) && on(v, 16) && on(g, 16) && on(w_bf16, 8);
}

}  // namespace pcn
