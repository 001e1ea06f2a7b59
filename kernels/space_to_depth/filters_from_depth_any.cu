// filters_from_depth_any: the gradient of filters from that of their rearrangement, t = side
//   dw[k, r, s, c] = from[k, r / t, s / t, ((r mod t) t + s mod t) C + c]
// from (K, to_r, to_s, to_c)   dw (K, R, S, C)   float
// The kernel is in common/space_to_depth.h: the first layers of the conv family use it, too. Accepts
// everything.
#include "common/space_to_depth.h"
#include "space_to_depth/space_to_depth.h"

namespace pcn {

cudaError_t filters_from_depth_any(float* dw, const float* from, const DepthShape& shape,
                                   cudaStream_t stream) {
  const unsigned count = static_cast<unsigned>(shape.k) * shape.r * shape.s * shape.c;
  const DepthFilters filters = {shape.r, shape.s, shape.c, shape.side, shape.to_r, shape.to_s, shape.to_c};
  return filters_from_depth("filters_from_depth_any", dw, from, filters, count, stream);
}

}  // namespace pcn
