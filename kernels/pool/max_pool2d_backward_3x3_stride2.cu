// max_pool2d_backward_3x3_stride2: gradient of AlexNet's overlapping maximum, windows of 3x3 pixels every 2
//   dx[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p,q) whose argmax (uint8) points at pixel (h,w)
//                 zero where mask[n,h,w,c] <= 0, if there is a mask
// dx, mask (n,h,w,c)   dy, argmax (n,p,q,c)   of float or Bf16   c % 4 == 0; padding 0 … 2; windows may hang
// over the edges
//
// In padded coordinates the pixels (2i, 2j), (2i, 2j+1), (2i+1, 2j), (2i+1, 2j+1) are held by the windows
// (i-1, i) x (j-1, j) and by no other. A thread makes 4 channels of such a square from those four windows: 4
// loads for 4 results, where pixel by pixel it would be 9. A gather in ascending order of windows: no
// atomics, the same bits every time. DRAM: 4*h*w + 5*p*q bytes a channel, in bfloat16 2*h*w +
// 3*p*q, with a mask 4*h*w or 2*h*w more where relu_backward after it would move three times that. Bound by
// memory. max_pool2d_backward_generic stands in where an array does not start on a pack's boundary. To be
// measured: 8 channels a thread in bfloat16, accesses of 16 bytes, not 8.
#include "pool/windows.h"

namespace pcn {
namespace {

using namespace pool;

constexpr int NOWHERE = 255;  // no position of a 3x3 window

struct Window {
  Pack<float, 4> dy;
  Pack<std::uint8_t, 4> where;
};

template <class T>
PCN_FN Window window_at(const T* dy, const std::uint8_t* argmax, bool exists, int index) {
  Window window = {};
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) window.where.v[j] = NOWHERE;
  if (exists) {
    window.dy = load_values<4>(dy + index);
    window.where = load<4>(argmax + index);
  }
  return window;
}

PCN_FN void add_share(Pack<float, 4>& sum, const Window& window, int position) {
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) sum.v[j] += window.where.v[j] == position ? window.dy.v[j] : 0.f;
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    max_pool2d_backward_3x3_stride2_kernel(T* __restrict__ dx, const T* __restrict__ dy,
                                           const std::uint8_t* __restrict__ argmax,
                                           const T* __restrict__ mask, Pool2dShape shape, int squares_h,
                                           int squares_w, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const Place at = place_of<4>(thread, squares_h, squares_w, shape.c);
  const int i = at.row + shape.pad_h / 2,
            j = at.col + shape.pad_w / 2;  // squares wholly in the padding are left out
  const bool above = i >= 1 && i - 1 < shape.p, here = i < shape.p;
  const bool before = j >= 1 && j - 1 < shape.q, after = j < shape.q;
  const int pixel = shape.c, line = shape.q * shape.c;
  const int index =
      ((at.n * shape.p + i) * shape.q + j) * shape.c + at.c;  // read only where the window exists
  const Window w00 = window_at(dy, argmax, above && before, index - line - pixel);
  const Window w01 = window_at(dy, argmax, above && after, index - line);
  const Window w10 = window_at(dy, argmax, here && before, index - pixel);
  const Window w11 = window_at(dy, argmax, here && after, index);

  Pack<float, 4> sums[2][2] = {};
  add_share(sums[0][0], w00, 8);
  add_share(sums[0][0], w01, 6);
  add_share(sums[0][0], w10, 2);
  add_share(sums[0][0], w11, 0);
  add_share(sums[0][1], w01, 7);
  add_share(sums[0][1], w11, 1);
  add_share(sums[1][0], w10, 5);
  add_share(sums[1][0], w11, 3);
  add_share(sums[1][1], w11, 4);
  PCN_UNROLL
  for (int r = 0; r < 2; ++r) {
    PCN_UNROLL
    for (int s = 0; s < 2; ++s) {
      const int h = 2 * i + r - shape.pad_h, w = 2 * j + s - shape.pad_w;
      if (h >= 0 && h < shape.h && w >= 0 && w < shape.w) {
        const long long out = ((static_cast<long long>(at.n) * shape.h + h) * shape.w + w) * shape.c + at.c;
        if (mask != nullptr) mask_out(sums[r][s], load_values<4>(mask + out));
        store_values(dx + out, sums[r][s]);
      }
    }
  }
}

}  // namespace

bool max_pool2d_backward_3x3_stride2_supports(const Pool2dShape& shape) {
  return shape.r == 3 && shape.s == 3 && shape.stride_h == 2 && shape.stride_w == 2 && shape.c % 4 == 0;
}

template <class T>
cudaError_t max_pool2d_backward_3x3_stride2(T* dx, const T* dy, const void* argmax, const T* mask,
                                            const Pool2dShape& shape, cudaStream_t stream) {
  if (!aligned(dx, 4 * sizeof(T)) || !aligned(dy, 4 * sizeof(T)) || !aligned(mask, 4 * sizeof(T)) ||
      !aligned(argmax, 4))
    return max_pool2d_backward_generic(dx, dy, argmax, mask, shape, stream);
  const int squares_h = (shape.h - 1 + shape.pad_h) / 2 - shape.pad_h / 2 + 1;
  const int squares_w = (shape.w - 1 + shape.pad_w) / 2 - shape.pad_w / 2 + 1;
  const long long threads = static_cast<long long>(shape.n) * squares_h * squares_w * (shape.c / 4);
  return launch("max_pool2d_backward_3x3_stride2", max_pool2d_backward_3x3_stride2_kernel<T>,
                blocks_for(threads), dim3(THREADS), 0, stream, dx, dy,
                static_cast<const std::uint8_t*>(argmax), mask, shape, squares_h, squares_w,
                static_cast<unsigned>(threads));
}
template MaxPool2dBackwardFn<float> max_pool2d_backward_3x3_stride2<float>;
template MaxPool2dBackwardFn<Bf16> max_pool2d_backward_3x3_stride2<Bf16>;

}  // namespace pcn
