// filters_to_depth_any: filters for images in the depth layout, t = side
//   to[k, r', s', (a t + b) C + c] = w[k, t r' + a, t s' + b, c], 0 beyond the filter and in channels left
//   over
// w (K, R, S, C)   to (K, to_r, to_s, to_c)   float or Bf16
// The kernel is in common/space_to_depth.h: the first layers of the conv family use it, too. Accepts
// everything.
#include "common/space_to_depth.h"
#include "space_to_depth/space_to_depth.h"

namespace pcn {

template <class T>
cudaError_t filters_to_depth_any(T* to, const T* w, const DepthShape& shape, cudaStream_t stream) {
  const unsigned count = static_cast<unsigned>(shape.k) * shape.to_r * shape.to_s * shape.to_c;
  const DepthFilters filters = {shape.r, shape.s, shape.c, shape.side, shape.to_r, shape.to_s, shape.to_c};
  return filters_to_depth("filters_to_depth_any", to, w, filters, count, stream);
}

template cudaError_t filters_to_depth_any(float*, const float*, const DepthShape&, cudaStream_t);
template cudaError_t filters_to_depth_any(Bf16*, const Bf16*, const DepthShape&, cudaStream_t);

}  // namespace pcn
