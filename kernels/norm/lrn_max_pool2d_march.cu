// lrn_max_pool2d_march: normalisation across channels, then AlexNet's overlapping maximum (3x3 pixels every
// 2), without the map between
//   u[i] = x[i] * (k + alpha * sum of x[j]^2)^-beta, j in [i - size/2, i - size/2 + size - 1] in i's group
//   y[n,p,q,c] = max over r,s < 3 of u[n, 2p + r - pad_h, 2q + s - pad_w, c];  argmax = 3r + s, uint8
// x (n,h,w,c)   y, argmax (n,p,q,c)   x, y of float or Bf16   c <= 1024, groups of a multiple of 4 channels,
// size (lrn_size) <= 9; padding 0 … 2; windows may hang over the edges
//
// A thread has 4 channels of columns 2q and 2q + 1, see pooled_march.h, and makes output q of each row of its
// strip: it normalises two new rows, gets those of column 2q + 2 from the next thread through shared memory,
// takes the maximum of each row, and keeps that of the last, which is the first of the next window: one
// barrier a row of outputs. A block's last columns are there for its last outputs' third column only. Each x
// is loaded once, but for the halo (one row in 2 * POOLED_STRIP, one column in 2 * columns) and 2 in 32
// float4s at the warps' edges, which L1 and L2 have. DRAM: 4*h*w + 5*p*q bytes a channel instead of 16*h*w +
// 5*p*q of lrn and max_pool2d, at 55x55 -> 27x27 15.7 KB instead of 52 KB (computed, not measured). In
// bfloat16 2*h*w + 3*p*q: 8.2 KB; maxima are of float values, only the greatest is rounded. Then the
// instructions count for more: to be measured, with 8 channels a thread and accesses of 16 bytes, not 8.
//
// A thread of the paper's instance runs 586 instructions for a row of outputs, which is 84 bytes (sm_90):
// bound by memory, the arithmetic close behind. Tried, by their instructions: maxima of columns first, to
// exchange half as much, 100 more, since ties then need positions; a rsqrtf that minds denormal numbers, 96
// more. lrn_max_pool2d_generic stands in where an array does not start on a pack's boundary.
#include "norm/pooled_march.h"

namespace pcn {
namespace {

using namespace norm;

constexpr int POOLED_THREADS = 512;
constexpr int POOLED_STRIP = 9;  // rows of outputs: 27 = 3 strips, 13 = 2

struct PooledSmem {  // even columns of two rows; two buffers, so that one barrier a row of outputs is enough
  Float4 even[2][2][POOLED_THREADS];
};

// Maximum of three columns of one row, and which column it is in.
struct RowMax {
  Float4 best;
  int column[4];
};

PCN_FN RowMax row_max(const Float4 (&values)[3], const bool (&inside)[3], int first) {
  RowMax row;
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) {
    row.best.v[j] = -INFINITY;
    row.column[j] = first;
    PCN_UNROLL
    for (int s = 0; s < 3; ++s) {
      if (inside[s] && beats(values[s].v[j], row.best.v[j])) {
        row.best.v[j] = values[s].v[j];
        row.column[j] = s;
      }
    }
  }
  return row;
}

template <class T, bool PAPER>
__global__ void __launch_bounds__(POOLED_THREADS, PAPER ? 2 : 1)
    lrn_max_pool2d_march_kernel(Pack<T, 4>* __restrict__ y, Byte4* __restrict__ argmax,
                                const Pack<T, 4>* __restrict__ x, LrnMaxPool2dShape shape, float alpha,
                                float beta, float k, Reach reach, March march) {
  PooledSmem& smem = shared<PooledSmem>();
  const int packs = shape.c / 4;
  const Block block = block_of(blockIdx.x, march);
  const int outputs = min(march.columns, shape.q - block.first_column);
  const Lane mine = lane_of(packs, packs / shape.groups, outputs + 1);
  const int q = block.first_column + mine.pair, w = 2 * q - shape.pad_w;
  const bool makes = mine.pair < outputs;
  const bool even_inside = mine.pair <= outputs && w >= 0 && w < shape.w;
  const bool odd_inside = makes && w + 1 >= 0 && w + 1 < shape.w;
  const bool columns[3] = {even_inside, odd_inside, makes && w + 2 < shape.w};
  const int first = even_inside ? 0 : odd_inside ? 1 : 2;

  const int pitch = shape.w * packs;
  int h = 2 * block.first_row - shape.pad_h;
  int at = (block.n * shape.h + h) * pitch + w * packs + mine.pack;  // read only where inside
  int out = ((block.n * shape.p + block.first_row) * shape.q + q) * packs + mine.pack;

  const auto pixel_at = [&](int place, bool inside) { return load_pixel(x, place, inside, mine.edge); };
  const auto normalise = [&](const Pixel& pixel) {
    const Response response = response_of<PAPER>(pixel, mine, alpha, beta, k, reach);
    Float4 value;
    PCN_UNROLL
    for (int j = 0; j < 4; ++j) value.v[j] = pixel.own.v[j] * response.power.v[j];
    return value;
  };

  bool top_inside = h >= 0;
  RowMax top;
  {
    const Float4 even = normalise(pixel_at(at, top_inside && even_inside));
    const Float4 odd = normalise(pixel_at(at + packs, top_inside && odd_inside));
    smem.even[1][0][threadIdx.x] = even;
    __syncthreads();
    const Float4 next = makes ? smem.even[1][0][threadIdx.x + packs] : even;
    top = row_max({even, odd, next}, columns, first);
  }
  const int rows = min(march.rows, shape.p - block.first_row);
  for (int i = 0; i < rows; ++i) {
    const bool mid_inside = h + 1 >= 0 && h + 1 < shape.h, end_inside = h + 2 < shape.h;
    const Pixel pixels[4] = {pixel_at(at + pitch, mid_inside && even_inside),
                             pixel_at(at + pitch + packs, mid_inside && odd_inside),
                             pixel_at(at + 2 * pitch, end_inside && even_inside),
                             pixel_at(at + 2 * pitch + packs, end_inside && odd_inside)};
    const Float4 mid_even = normalise(pixels[0]), mid_odd = normalise(pixels[1]);
    const Float4 end_even = normalise(pixels[2]), end_odd = normalise(pixels[3]);
    Float4(&even)[2][POOLED_THREADS] = smem.even[i % 2];
    even[0][threadIdx.x] = mid_even;
    even[1][threadIdx.x] = end_even;
    __syncthreads();
    if (makes) {
      const RowMax mid = row_max({mid_even, mid_odd, even[0][threadIdx.x + packs]}, columns, first);
      const RowMax end = row_max({end_even, end_odd, even[1][threadIdx.x + packs]}, columns, first);
      Float4 best;
      Byte4 where;
      PCN_UNROLL
      for (int j = 0; j < 4; ++j) {
        best.v[j] = top_inside ? top.best.v[j] : -INFINITY;
        int position = top_inside ? top.column[j] : mid_inside ? 3 + mid.column[j] : 6 + end.column[j];
        if (mid_inside && beats(mid.best.v[j], best.v[j])) {
          best.v[j] = mid.best.v[j];
          position = 3 + mid.column[j];
        }
        if (end_inside && beats(end.best.v[j], best.v[j])) {
          best.v[j] = end.best.v[j];
          position = 6 + end.column[j];
        }
        where.v[j] = static_cast<std::uint8_t>(position);
      }
      store(y + out, best);
      argmax[out] = where;
      top = end;
    }
    top_inside = end_inside;
    h += 2;
    at += 2 * pitch;
    out += shape.q * packs;
  }
}

}  // namespace

bool lrn_max_pool2d_march_supports(const LrnMaxPool2dShape& shape) {
  return pooled_march_supports(shape, POOLED_THREADS);
}

template <class T>
cudaError_t lrn_max_pool2d_march(T* y, void* argmax, const T* x, float alpha, float beta, float k,
                                 const LrnMaxPool2dShape& shape, cudaStream_t stream) {
  if (!aligned4(y) || !aligned(argmax, 4) || !aligned4(x))
    return lrn_max_pool2d_generic(y, argmax, x, alpha, beta, k, shape, stream);
  const March march = march_over(shape.q, shape.p, shape.c / 4, POOLED_THREADS, POOLED_STRIP, 1);
  const auto kernel =
      is_papers(shape, beta) ? lrn_max_pool2d_march_kernel<T, true> : lrn_max_pool2d_march_kernel<T, false>;
  return launch(
      "lrn_max_pool2d_march", kernel, dim3(static_cast<unsigned>(shape.n) * march.strips * march.tiles),
      dim3(march.threads), 0, stream, reinterpret_cast<Pack<T, 4>*>(y), static_cast<Byte4*>(argmax),
      reinterpret_cast<const Pack<T, 4>*>(x), shape, alpha, beta, k, reach_of_window(shape.lrn_size), march);
}
template LrnMaxPool2dFn<float> lrn_max_pool2d_march<float>;
template LrnMaxPool2dFn<Bf16> lrn_max_pool2d_march<Bf16>;

}  // namespace pcn
