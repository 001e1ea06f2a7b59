// max_pool2d_3x3_stride2: AlexNet's overlapping maximum, windows of 3x3 pixels every 2, with the place it was
// found
//   y[n,p,q,c] = max over r,s < 3 of x[n, 2p + r - pad_h, 2q + s - pad_w, c];  argmax = 3r + s, uint8
// x (n,h,w,c)   y, argmax (n,p,q,c)   x, y of float or Bf16   c % 4 == 0; padding 0 … 2; windows may hang
// over the edges
//
// A thread makes 4 channels of STRIP outputs, one below the other. It walks down 2 * STRIP + 1 rows and keeps
// for each the maximum of three columns; the last row of a window is the first of the next, so an output
// costs 7 loads instead of 9. DRAM: 4*h*w + 5*p*q bytes a channel, at 55x55 -> 27x27 about 15.7 KB; in
// bfloat16 2*h*w + 3*p*q, 8.2 KB. Bound by memory. NaN and ties as in max_pool2d_generic, which also stands
// in where an array does not start on a pack's boundary. To be measured: 8 channels a thread in bfloat16,
// accesses of 16 bytes, not 8.
#include "pool/windows.h"

namespace pcn {
namespace {

using namespace pool;

constexpr int STRIP = 3;  // 27 = 9 strips, 13 = 4.3, 6 = 2

// Maxima of the columns of one row, and the column of the first.
struct RowMax {
  float v[4];
  int s[4];
};

template <class T>
PCN_FN RowMax row_max(const T* line, bool inside, Clip cols, int c) {
  RowMax row;
  PCN_UNROLL
  for (int j = 0; j < 4; ++j) {
    row.v[j] = -INFINITY;
    row.s[j] = cols.begin;
  }
  PCN_UNROLL
  for (int s = 0; s < 3; ++s) {
    if (inside && s >= cols.begin && s < cols.end) {
      const Pack<float, 4> value = load_values<4>(line + s * c);
      PCN_UNROLL
      for (int j = 0; j < 4; ++j) {
        if (!(value.v[j] <= row.v[j]) && row.v[j] == row.v[j]) {
          row.v[j] = value.v[j];
          row.s[j] = s;
        }
      }
    }
  }
  return row;
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    max_pool2d_3x3_stride2_kernel(T* __restrict__ y, std::uint8_t* __restrict__ argmax,
                                  const T* __restrict__ x, Pool2dShape shape, int strips, unsigned threads) {
  const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const Place at = place_of<4>(thread, strips, shape.q, shape.c);
  const int p0 = at.row * STRIP, h0 = 2 * p0 - shape.pad_h, w0 = 2 * at.col - shape.pad_w;
  const Clip cols = clip(w0, 3, shape.w);
  const int pitch = shape.w * shape.c;
  // May lie before x, by no more than the padding; only lines inside the image are read.
  const T* line = x + (static_cast<long long>(at.n * shape.h + h0) * shape.w + w0) * shape.c + at.c;
  long long out = (static_cast<long long>(at.n * shape.p + p0) * shape.q + at.col) * shape.c + at.c;

  int h = h0;
  bool top_inside = h >= 0 && h < shape.h;
  RowMax top = row_max(line, top_inside, cols, shape.c);
  PCN_UNROLL
  for (int i = 0; i < STRIP; ++i) {
    const bool wanted = p0 + i < shape.p;
    const bool mid_inside = wanted && h + 1 >= 0 && h + 1 < shape.h;
    const bool end_inside = wanted && h + 2 >= 0 && h + 2 < shape.h;
    const RowMax mid = row_max(line + pitch, mid_inside, cols, shape.c);
    const RowMax end = row_max(line + 2 * pitch, end_inside, cols, shape.c);
    Pack<float, 4> best;
    Pack<std::uint8_t, 4> where;
    PCN_UNROLL
    for (int j = 0; j < 4; ++j) {
      best.v[j] = top.v[j];  // -inf where the row is outside
      int position = top_inside ? top.s[j] : mid_inside ? 3 + mid.s[j] : 6 + end.s[j];
      if (!(mid.v[j] <= best.v[j]) && best.v[j] == best.v[j]) {
        best.v[j] = mid.v[j];
        position = 3 + mid.s[j];
      }
      if (!(end.v[j] <= best.v[j]) && best.v[j] == best.v[j]) {
        best.v[j] = end.v[j];
        position = 6 + end.s[j];
      }
      where.v[j] = static_cast<std::uint8_t>(position);
    }
    if (wanted) {
      store_values(y + out, best);
      store<4>(argmax + out, where);
    }
    top = end;
    top_inside = end_inside;
    h += 2;
    line += 2 * pitch;
    out += static_cast<long long>(shape.q) * shape.c;
  }
}

}  // namespace

bool max_pool2d_3x3_stride2_supports(const Pool2dShape& shape) {
  return shape.r == 3 && shape.s == 3 && shape.stride_h == 2 && shape.stride_w == 2 && shape.c % 4 == 0;
}

template <class T>
cudaError_t max_pool2d_3x3_stride2(T* y, void* argmax, const T* x, const Pool2dShape& shape,
                                   cudaStream_t stream) {
  if (!aligned(y, 4 * sizeof(T)) || !aligned(x, 4 * sizeof(T)) || !aligned(argmax, 4))
    return max_pool2d_generic(y, argmax, x, shape, stream);
  const int strips = (shape.p + STRIP - 1) / STRIP;
  const long long threads = static_cast<long long>(shape.n) * strips * shape.q * (shape.c / 4);
  return launch("max_pool2d_3x3_stride2", max_pool2d_3x3_stride2_kernel<T>, blocks_for(threads),
                dim3(THREADS), 0, stream, y, static_cast<std::uint8_t*>(argmax), x, shape, strips,
                static_cast<unsigned>(threads));
}
template MaxPool2dFn<float> max_pool2d_3x3_stride2<float>;
template MaxPool2dFn<Bf16> max_pool2d_3x3_stride2<Bf16>;

}  // namespace pcn
