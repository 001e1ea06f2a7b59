// The host's side of a product on the tile of halo.h: its strips, what it takes, its maps, the launch. And of either tile, this
// or that of wgmma_tile.h, what fprop.h and dgrad.h ask.
#pragma once
#include "conv/hopper/halo.h"
#include "conv/hopper/product.h"

namespace pcn::conv {

// How outputs are cut into strips, and what shared memory has of a strip.
struct HaloStrips {
  int pitch, rows, strips;  // positions of a row, rows of a strip, strips of an image
  int box_rows, plane;      // rows that a load brings, positions between planes
};
template <class T>
HaloStrips halo_strips(const Conv2dShape& s) {
  HaloStrips h;
  const int right =
      s.q + s.s - 2 - s.pad_w - (s.w - 1);  // pixels that windows reach behind the image's last column
  // Outputs have a position each, also where both sides have more zeros than windows share.
  h.pitch = std::max(s.w + std::max(s.pad_w, right), s.q);
  const int most = (T::POSITIONS - s.q) / h.pitch + 1;
  h.strips = static_cast<int>(ceil_div(s.p, most));
  h.rows = static_cast<int>(ceil_div(s.p, h.strips));
  const int last_read = (h.rows + s.r - 2) * h.pitch + s.q + s.s - 2;
  h.box_rows = last_read / h.pitch + 1;
  const int read = T::POSITIONS + (s.r - 1) * h.pitch + s.s - 1;  // in vain, too
  h.plane = static_cast<int>(ceil_div(std::max(h.box_rows * h.pitch, read), 8)) * 8;
  return h;
}

template <class T, class Side>
int halo_products(const Conv2dShape& s) {  // of a step
  return wgmma_steps<T, Side>(s.c / s.groups).ks;
}
template <class T, class Side>
constexpr int kHaloProducts = T::BK * static_cast<int>(sizeof(typename T::Element)) / 32;  // of a whole step

template <class T, class Side>
bool halo_supports(const Conv2dShape& s) {
  if (!wgmma_takes<T>(s) || !whole_steps<T, Side>(s)) return false;
  if (s.stride_h != 1 || s.stride_w != 1 || s.r * s.s == 1 || s.splits > 1) return false;
  if (s.pad_h < 0 || s.pad_w < 0 || s.q > T::POSITIONS) return false;
  const HaloStrips h = halo_strips<T>(s);
  if (h.pitch > 256 || h.box_rows > 256) return false;  // of a map's box
  const std::size_t pixels =
      std::size_t{16} * h.plane * 2 * halo_products<T, Side>(s) * T::CONSUMERS * T::BUFFERS;
  return T::FIXED_BYTES + pixels <= T::SHARED_BYTES &&
         image_at_least(halo_kernel<T, Side, kHaloProducts<T, Side>>, 90);
}

// Rows: all positions, those that are multiplied in vain as well.
template <class T, class Side>
GemmExtent halo_extent(const Conv2dShape& s) {
  GemmExtent e = wgmma_extent<T, Side>(s);
  e.rows = std::int64_t{s.n} * halo_strips<T>(s).strips * T::POSITIONS;
  e.splits = 1;
  return e;
}
// Pixels (channels, W, H, N), of which a load takes one plane of a strip.
template <class T, class E>
cudaError_t map_planes(TensorMap* map, const E* x, const Conv2dShape& s, const HaloStrips& h) {
  const uint64_t item = sizeof(E), c = s.c, w = s.w, rows = s.h, n = s.n;
  const uint64_t dim[] = {c, w, rows, n}, stride[] = {c * item, w * c * item, rows * w * c * item};
  const uint32_t box[] = {T::CHUNK, static_cast<uint32_t>(h.pitch), static_cast<uint32_t>(h.box_rows), 1};
  return encode_tiled(map, x, kOperand<E>, 4, dim, stride, box, TensorSwizzle::kNone);
}

template <class T, class Side, class E>
cudaError_t halo_product(const char* stem, E* out, const E* pixels, const E* filters,
                         const Epilogue<E>& epilogue, const Conv2dShape& shape, const WgmmaLayout& layout,
                         void* workspace, cudaStream_t stream) {
  const WgmmaSteps steps = wgmma_steps<T, Side>(shape.c / shape.groups);
  const HaloStrips h = halo_strips<T>(shape);
  HaloArgs args = {};
  args.bias = epilogue.bias;
  args.mask = epilogue.mask;
  args.shape = shape;
  args.relu = epilogue.relu;
  args.chunks = steps.chunks, args.channels = steps.channels;
  args.out = out;
  args.pitch = h.pitch, args.strip_rows = h.rows, args.strips = h.strips;
  args.box = h.box_rows * h.pitch, args.plane = h.plane;
  args.per_pitch = static_cast<uint32_t>(ceil_div(1 << 20, h.pitch));
  lay_out(args, layout, workspace);
  cudaError_t status = map_planes<T>(&args.pixels, pixels, shape, h);
  if (status == cudaSuccess) status = map_filters<T, Side>(&args.filters, filters, shape, steps.channels);
  if (status != cudaSuccess) return status;
  auto kernel = halo_kernel<T, Side, kHaloProducts<T, Side>>;
  if constexpr (Side::NARROW) {
    static_assert(kHaloProducts<T, Side> == 4, "steps of 128 or 96 bytes");
    if (steps.ks == 3) kernel = halo_kernel<T, Side, 3>;
  }
  status = launch(stem, kernel, blocks_of(args), dim3(T::THREADS), T::SHARED_BYTES, stream, args);
  return status == cudaSuccess ? add_parts<T>(stem, out, args, epilogue, stream) : status;
}

// ---- either tile
template <class T, class Side>
bool wgmma_supports(const Conv2dShape& s) {
  if constexpr (T::HALO)
    return halo_supports<T, Side>(s);
  else
    return ring_supports<T, Side>(s);
}
// How a product is laid over the blocks: tiles of halo.h have no even pieces, those that transpose share none.
template <class T, class Side>
WgmmaLayout wgmma_layout(const Conv2dShape& s, double efficiency = 1) {
  GemmExtent extent = wgmma_extent<T, Side>(s);
  if constexpr (T::HALO) extent = halo_extent<T, Side>(s);
  return layout_of(extent, wgmma_info<T, Side>(s, efficiency), Side::SHARES ? s.splits : 1);
}
template <class T, class Side>
std::size_t wgmma_workspace(const Conv2dShape& s) {
  return layout_bytes(wgmma_layout<T, Side>(s));
}
template <class T, class Side, int PERCENT>
double wgmma_cost(const Conv2dShape& s) {
  if (T::HALO && s.splits > 1) return std::numeric_limits<double>::infinity();
  return layout_cost(wgmma_layout<T, Side>(s, PERCENT / 100.0), s.precision);
}
template <class T, class Side>
SharedTiles wgmma_shared(const Conv2dShape& s) {
  return wgmma_layout<T, Side>(s).shared;
}
template <class T, class Side, class E>
cudaError_t wgmma_product(const char* stem, E* out, const E* pixels, const E* filters,
                          const Epilogue<E>& epilogue, const Conv2dShape& shape, const WgmmaLayout& layout,
                          void* workspace, cudaStream_t stream) {
  if constexpr (T::HALO)
    return halo_product<T, Side>(stem, out, pixels, filters, epilogue, shape, layout, workspace, stream);
  else
    return ring_product<T, Side>(stem, out, pixels, filters, epilogue, shape, layout, workspace, stream);
}

}  // namespace pcn::conv
