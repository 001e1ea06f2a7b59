// lrn_max_pool2d_backward_march: gradient of normalisation across channels and AlexNet's overlapping maximum
// (3x3 pixels every 2), from x alone
//   g[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p,q) whose argmax (uint8) points at pixel (h,w)
//   t = g * x * scale^-beta / scale
//   dx[i] = g[i] * scale[i]^-beta - 2 alpha beta x[i] * sum of t[j] over the channels j whose windows hold i;
//   zero where x[i] <= 0, with relu
// dx, x (n,h,w,c)   dy, argmax (n,p,q,c)   dx, dy, x of float or Bf16   c <= 512, groups of a multiple of 4
// channels, lrn_size <= 9; padding 0 … 2; windows may hang over the edges
//
// In padded coordinates the square of pixels (2i, 2j), (2i, 2j+1), (2i+1, 2j), (2i+1, 2j+1) is held by the
// windows (i-1, i) x (j-1, j) and by no other. A thread has 4 channels of one square, see pooled_march.h, and
// walks down: the lower two windows of one square are the upper two of the next. scale is worked out anew
// from x; t of other channels comes from the lanes beside, and across the warps' edges through shared memory:
// one barrier a row. A gather in ascending order of windows: no atomics, the same bits every time. x and dx
// move once, dy and argmax once but for a second load that L1 has and a row of windows in BACKWARD_STRIP.
// DRAM: 8*h*w + 5*p*q bytes a channel instead of 20*h*w + 5*p*q of max_pool2d_backward and lrn_backward, at
// 27x27 -> 55x55 27.8 KB instead of 64 KB (computed, not measured). In bfloat16 4*h*w + 3*p*q: 14.3 KB. With
// relu, relu_backward after it is saved: 12*h*w bytes a channel, 6*h*w in bfloat16.
//
// A thread of the paper's instance runs 757 instructions for a row of squares, which is 148 bytes (sm_90):
// bound by memory. lrn_max_pool2d_backward_generic stands in where an array does not start on a pack's
// boundary.
#include "norm/pooled_march.h"

namespace pcn {
namespace {

using namespace norm;

constexpr int BACKWARD_THREADS = 256;
constexpr int BACKWARD_STRIP = 7;  // rows of squares: 55 = 4 strips, 27 = 2
constexpr int NOWHERE = 255;       // no position of a 3x3 window

struct EdgeSmem {  // [buffer][column][warp][lane 0, lane 31]; two buffers, so that one barrier a row is
                   // enough
  Float4 terms[2][2][BACKWARD_THREADS / 32][2];
};

struct Window {
  Float4 dy;
  Byte4 where;
};

template <class T>
PCN_FN Window window_at(const Pack<T, 4>* dy, const Byte4* argmax, bool exists, int index) {
  Window window = {};
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) window.where.v[j] = NOWHERE;
  if (exists) {
    window.dy = load(dy + index);
    window.where = argmax[index];
  }
  return window;
}

PCN_FN void add_share(Float4& sum, const Window& window, int position) {
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) sum.v[j] += window.where.v[j] == position ? window.dy.v[j] : 0.f;
}

template <class T, bool PAPER>
__global__ void __launch_bounds__(BACKWARD_THREADS, PAPER ? 3 : 2)
    lrn_max_pool2d_backward_march_kernel(Pack<T, 4>* __restrict__ dx, const Pack<T, 4>* __restrict__ dy,
                                         const Byte4* __restrict__ argmax, const Pack<T, 4>* __restrict__ x,
                                         LrnMaxPool2dShape shape, float alpha, float beta, float k,
                                         float factor, bool relu, Reach reach, Reach over, int squares_h,
                                         int squares_w, March march) {
  EdgeSmem& smem = shared<EdgeSmem>();
  const int packs = shape.c / 4;
  const Block block = block_of(blockIdx.x, march);
  const int columns = min(march.columns, squares_w - block.first_column);
  const Lane mine = lane_of(packs, packs / shape.groups, columns);
  const bool active = mine.pair < columns;
  // Squares wholly in the padding are left out.
  const int j = block.first_column + mine.pair + shape.pad_w / 2;
  const int first = block.first_row + shape.pad_h / 2;
  const int rows = min(march.rows, squares_h - block.first_row);
  const int w = 2 * j - shape.pad_w;
  const bool inside[2] = {active && w >= 0 && w < shape.w, active && w + 1 >= 0 && w + 1 < shape.w};
  const bool before = active && j >= 1 && j - 1 < shape.q, after = active && j < shape.q;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  const auto window = [&](int i, bool exists, int column) {
    const int index = ((block.n * shape.p + i) * shape.q + column) * packs + mine.pack;
    return window_at(dy, argmax, exists && i >= 0 && i < shape.p, index);
  };

  Window upper_left = window(first - 1, before, j - 1), upper_right = window(first - 1, after, j);
  int buffer = 0;
  for (int i = first; i < first + rows; ++i) {
    const Window lower_left = window(i, before, j - 1), lower_right = window(i, after, j);
    PCN_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int h = 2 * i + r - shape.pad_h;
      if (h < 0 || h >= shape.h) continue;  // the whole block
      const int at = ((block.n * shape.h + h) * shape.w + w) * packs + mine.pack;
      Pixel pixels[2];
      PCN_UNROLL
      for (int s = 0; s < 2; ++s) pixels[s] = load_pixel(x, at + s * packs, inside[s], mine.edge);

      Float4 g[2] = {};
      if (r == 0) {
        add_share(g[0], upper_left, 8);
        add_share(g[0], upper_right, 6);
        add_share(g[0], lower_left, 2);
        add_share(g[0], lower_right, 0);
        add_share(g[1], upper_right, 7);
        add_share(g[1], lower_right, 1);
      } else {
        add_share(g[0], lower_left, 5);
        add_share(g[0], lower_right, 3);
        add_share(g[1], lower_right, 4);
      }

      Float4 terms[2];
      PCN_UNROLL
      for (int s = 0; s < 2; ++s) {
        const Response response = response_of<PAPER>(pixels[s], mine, alpha, beta, k, reach);
        PCN_UNROLL
        for (int v = 0; v < 4; ++v) {
          terms[s].v[v] = g[s].v[v] * (pixels[s].own.v[v] * response.power.v[v]) * response.inverse.v[v];
          g[s].v[v] *= response.power.v[v];
        }
        if (lane == 0) smem.terms[buffer][s][warp][0] = terms[s];
        if (lane == 31) smem.terms[buffer][s][warp][1] = terms[s];
      }
      __syncthreads();
      PCN_UNROLL
      for (int s = 0; s < 2; ++s) {
        Float4 edge = {};
        if (mine.edge != 0) edge = smem.terms[buffer][s][warp + mine.edge][mine.edge < 0];
        float sums[4];
        window_sums<PAPER>(sums, terms[s], edge, mine.has_left, mine.has_right, over);
        Float4 result;
        PCN_UNROLL
        for (int v = 0; v < 4; ++v) {
          const float value = pixels[s].own.v[v];
          result.v[v] = before_relu(relu, value, g[s].v[v] - factor * value * sums[v]);
        }
        if (inside[s]) store(dx + at + s * packs, result);
      }
      buffer ^= 1;
    }
    upper_left = lower_left;
    upper_right = lower_right;
  }
}

}  // namespace

bool lrn_max_pool2d_backward_march_supports(const LrnMaxPool2dShape& shape) {
  return pooled_march_supports(shape, BACKWARD_THREADS);
}

template <class T>
cudaError_t lrn_max_pool2d_backward_march(T* dx, const T* dy, const void* argmax, const T* x, float alpha,
                                          float beta, float k, bool relu, const LrnMaxPool2dShape& shape,
                                          cudaStream_t stream) {
  if (!aligned4(dx) || !aligned4(dy) || !aligned(argmax, 4) || !aligned4(x))
    return lrn_max_pool2d_backward_generic(dx, dy, argmax, x, alpha, beta, k, relu, shape, stream);
  const int squares_h = (shape.h - 1 + shape.pad_h) / 2 - shape.pad_h / 2 + 1;
  const int squares_w = (shape.w - 1 + shape.pad_w) / 2 - shape.pad_w / 2 + 1;
  const March march = march_over(squares_w, squares_h, shape.c / 4, BACKWARD_THREADS, BACKWARD_STRIP, 0);
  const auto kernel = is_papers(shape, beta) ? lrn_max_pool2d_backward_march_kernel<T, true>
                                             : lrn_max_pool2d_backward_march_kernel<T, false>;
  return launch("lrn_max_pool2d_backward_march", kernel,
                dim3(static_cast<unsigned>(shape.n) * march.strips * march.tiles), dim3(march.threads), 0,
                stream, reinterpret_cast<Pack<T, 4>*>(dx), reinterpret_cast<const Pack<T, 4>*>(dy),
                static_cast<const Byte4*>(argmax), reinterpret_cast<const Pack<T, 4>*>(x), shape, alpha, beta,
                k, 2.f * alpha * beta, relu, reach_of_window(shape.lrn_size),
                reach_of_windows_over(shape.lrn_size), squares_h, squares_w, march);
}
template LrnMaxPool2dBackwardFn<float> lrn_max_pool2d_backward_march<float>;
template LrnMaxPool2dBackwardFn<Bf16> lrn_max_pool2d_backward_march<Bf16>;

}  // namespace pcn
