// Gradient with respect to the input on sm_90a, at stride 1: a forward convolution of dy on the tile of wgmma_tile.h.
// Rows are input pixels, columns the channels of a group. In bfloat16 the filters are taken as they lie (Backward there
// says how); in TF32, which wgmma takes along the reduction alone, a pass before the product turns and transposes them
// in scratch memory (turn_filters.h). The kernel of every line of PCN_DGRAD_WGMMA and _WGMMA_BF16 in tiles.inc.
#pragma once
#include "conv/dgrad.h"
#include "conv/hopper/dgrad_tf32.h"
#include "conv/hopper/halo_product.h"
#include "conv/hopper/turn_filters.h"

namespace pcn::conv {

// Of conv2d_dgrad_generic.cu: see hopper/fprop.h.
extern template cudaError_t dgrad_finish(const char* stem, Bf16* dx, const Bf16* mask,
                                         const Conv2dShape& shape, void* workspace, const GemmGrid& grid,
                                         cudaStream_t stream);
extern template cudaError_t dgrad_finish(const char* stem, float* dx, const float* mask,
                                         const Conv2dShape& shape, void* workspace, const GemmGrid& grid,
                                         cudaStream_t stream);

// dgrad of float: fprop, but for what becomes of a sum.
struct Turned : Forward {
  static constexpr bool NARROW = false;
  template <class T>
  using Finish = ReluBits<T>;
};
template <class T>
using DgradSide = std::conditional_t<std::is_same<typename T::Element, Bf16>::value, Backward,
                                     std::conditional_t<T::TRANSPOSES, BackwardTf32, Turned>>;
template <class T>
constexpr bool kTurns = std::is_same<DgradSide<T>, Turned>::value;

// The convolution of dy whose output is dx: input pixel h sees dy at h + pad - r, which is h - (R - 1 - pad) + r' for
// the tap r' = R - 1 - r.
inline Conv2dShape turned(const Conv2dShape& s) {
  Conv2dShape t = s;
  t.h = s.p, t.w = s.q, t.c = s.k;
  t.p = s.h, t.q = s.w, t.k = s.c;
  t.pad_h = s.r - 1 - s.pad_h, t.pad_w = s.s - 1 - s.pad_w;
  return t;
}

template <class T>
bool wgmma_dgrad_supports(const Conv2dShape& s) {
  return s.stride_h == 1 && s.stride_w == 1 && wgmma_supports<T, DgradSide<T>>(turned(s));
}
// The turned filters, and behind them the pieces.
template <class T>
std::size_t turned_filters(const Conv2dShape& s) {
  return kTurns<T> ? padded_bytes<float>(filter_elements(s)) : 0;
}
template <class T>
std::size_t wgmma_dgrad_workspace(const Conv2dShape& s) {
  return turned_filters<T>(s) + wgmma_workspace<T, DgradSide<T>>(turned(s));
}
template <class T, int PERCENT>
double wgmma_dgrad_cost(const Conv2dShape& s) {
  const double turning = kTurns<T> ? turning_cost(s) : 0.;
  return turning + wgmma_cost<T, DgradSide<T>, PERCENT>(turned(s));
}

template <class T>
SharedTiles wgmma_dgrad_shared(const Conv2dShape& s) {
  return wgmma_layout<T, DgradSide<T>>(turned(s)).shared;
}

template <class T, class E>
cudaError_t wgmma_dgrad(const char* stem, E* dx, const E* dy, const E* w, const E* mask,
                        const Conv2dShape& shape, void* workspace, cudaStream_t stream) {
  using Side = DgradSide<T>;
  const Conv2dShape seen = turned(shape);
  const WgmmaLayout layout = wgmma_layout<T, Side>(seen);
  void* const pieces = static_cast<char*>(workspace) + turned_filters<T>(shape);
  if constexpr (kTurns<T>) {
    float* const filters = static_cast<float*>(workspace);
    const cudaError_t status = turn_filters(stem, filters, w, shape, stream);
    if (status != cudaSuccess) return status;
    w = filters;
  }
  const Epilogue<E> epilogue = {nullptr, false, mask};
  const cudaError_t status = wgmma_product<T, Side>(stem, dx, dy, w, epilogue, seen, layout, pieces, stream);
  if (status != cudaSuccess) return status;
  return dgrad_finish(stem, dx, mask, shape, pieces, layout.grid, stream);
}

}  // namespace pcn::conv

// A line of PCN_DGRAD_WGMMA or _WGMMA_BF16 in tiles.inc: the kernel's launcher and its traits.
#define PCN_DGRAD_WGMMA(stem, THREADS_A_BLOCK, PERCENT, ...)                                       \
  static_assert(conv::__VA_ARGS__::THREADS == THREADS_A_BLOCK, "threads a block");                 \
  const Conv2dTraits stem##_traits = {conv::wgmma_dgrad_supports<conv::__VA_ARGS__>,               \
                                      conv::wgmma_dgrad_workspace<conv::__VA_ARGS__>,              \
                                      conv::wgmma_dgrad_cost<conv::__VA_ARGS__, PERCENT>, never,   \
                                      conv::wgmma_dgrad_shared<conv::__VA_ARGS__>};                \
  cudaError_t stem(conv::__VA_ARGS__::Element* dx, const conv::__VA_ARGS__::Element* dy,           \
                   const conv::__VA_ARGS__::Element* w, const conv::__VA_ARGS__::Element* mask,    \
                   const Conv2dShape& shape, void* workspace, cudaStream_t stream) {               \
    return conv::wgmma_dgrad<conv::__VA_ARGS__>(#stem, dx, dy, w, mask, shape, workspace, stream); \
  }
#define PCN_DGRAD_WGMMA_BF16 PCN_DGRAD_WGMMA
