// The kernels of the `cpu` device: what the module calls and each level of vector instructions defines.
//
// kernels.cpp is compiled once for each level (CMakeLists.txt), so nothing it includes may define an inline function that
// another file shares: the linker keeps one of them, and that may be the one an older processor cannot run. Hence no
// standard library but C's, and everything static.
//
// All arrays are float32 (positions of maxima and images uint8), NHWC and contiguous; the module has checked extents and lengths. A
// kernel writes its part of the output completely, allocates nothing and starts no threads: the caller hands out parts,
// and no bit depends on how.
#pragma once

namespace pcn_host {

// y[n,i,j,k] = sum over taps (r,s) and channels c of x[n, i*stride_h + r - top, j*stride_w + s - left, c] * filter;
// pixels outside the image are zero. c and k count all channels and filters, of which groups see their part.
struct Conv {
  long n, h, w, c, k, r, s, p, q, stride_h, stride_w, top, left, groups;
};

struct Pool {
  long n, h, w, c, r, s, p, q, stride_h, stride_w, top, left;
};

// Windows reach so many rows and columns back and ahead.
struct Norm {
  long n, h, w, c, before_h, after_h, before_w, after_w;
  float alpha, beta, k, factor;  // beta: 3/4, 1/2 or 1; factor: 2 alpha beta
};

// n crops of images; the mean has so many pixels: none, one for all, or those of an image.
struct Crops {
  long images, h, w, c, n, crop_h, crop_w, mean_pixels;
};

// One image of bytes, of 1 or 3 channels, to (to_h, to_w); every output row and column has at most so many weights.
struct Resize {
  long h, w, c, to_h, to_w, taps_h, taps_w;
};

// Parts of an output: images [n0, n1), rows [p0, p1) of each.
struct Part {
  long n0, n1, p0, p1;
};

struct Kernels {
  const char* name;
  long lanes;  // numbers in a vector; filters are packed in panels of twice as many

  // Filters (K, R, S, C/groups) as panels, of which [begin, end): of each group, of 2 lanes of outputs, taps, channels,
  // outputs; the last panel of a group has one lane where that suffices, and zeros. Of the transposed: outputs are the
  // channels, the taps run backwards.
  void (*pack)(const Conv&, long begin, long end, const float* w, bool transposed, float* panels);
  // activation(x * filters + bias), zero where mask <= 0; bias and mask may be null
  void (*correlate)(const Conv&, const Part&, const float* x, const float* panels, const float* bias,
                    bool relu, const float* mask, float* y);
  // sums (groups, R, S, C/groups, K/groups rounded up to lanes) = those of images [n0, n1), and so, unless null, bias (K);
  // `room`: wgrad_image, and P Q gradients of a group, rounded up likewise
  void (*wgrad)(const Conv&, long n0, long n1, const float* dy, const float* x, float* room, float* sums,
                float* bias);
  // dw (K, R, S, C/groups) = the sum of `count` such sums, in their order; rows [begin, end) of (groups, R, S, C/groups)
  void (*wgrad_sum)(const Conv&, long count, long begin, long end, const float* sums, float* dw);

  void (*max_pool)(const Pool&, const Part&, const float* x, float* y, unsigned char* argmax);
  void (*max_pool_backward)(const Pool&, const Part&, const float* dy, const unsigned char* argmax,
                            const float* mask, float* dx);
  void (*inverse_counts)(const Pool&, const long* counted, float* inverse);
  void (*avg_pool)(const Pool&, const Part&, const float* inverse, const float* x, float* y);
  void (*avg_pool_backward)(const Pool&, const Part&, const float* inverse, const float* dy,
                            const float* mask, float* dx);

  // `room`: an image and two of its rows
  void (*lrn)(const Norm&, long n0, long n1, const float* x, float* room, float* y, float* scale);
  void (*lrn_backward)(const Norm&, long n0, long n1, const float* dy, const float* x, const float* y,
                       const float* scale, bool relu, float* room, float* dx);

  void (*relu)(long count, const float* x, float* y);
  void (*relu_backward)(long count, const float* dy, const float* y, float* dx);
  void (*column_sums)(long rows, long columns, const float* x, float* sums);
  void (*sgd)(long count, float momentum, float decay, float rate, const float* g, float* w, float* v);

  // Images are bytes or floats, the other is null, as indices (then crop i is of image i), crop, mirror, colour and mean may
  // be; `room`: three rows of a crop
  void (*augment)(const Crops&, long n0, long n1, const unsigned char* bytes, const float* floats,
                  const int* indices, const int* crop, const unsigned char* mirror, const float* colour,
                  const float* mean, float scale, float* room, float* y);

  // An output row is that of rows [spans[0], spans[0] + spans[1]) weighted, in 1 / 2^22, and so are columns; `room`:
  // resize_room
  void (*resize)(const Resize&, const unsigned char* x, const int* spans_h, const int* weights_h,
                 const int* spans_w, const int* weights_w, unsigned char* room, unsigned char* y);
};

// Bytes: the rows made narrower, and 16 rows before and after, turned.
static inline long resize_room(const Resize& g) { return (g.h * g.to_w + 16 * (g.w + g.to_w)) * g.c; }

// Floats of the image that wgrad copies between zeros; 0 where it does not: many channels, or windows far apart.
static inline long wgrad_image(const Conv& g) {
  const long across = (g.q - 1) * g.stride_w + g.s;
  return g.groups == 1 && g.c < 8 && g.s > 1 && across <= 2 * g.w + 4 * g.s ? g.h * across * g.c : 0;
}

extern const Kernels kernels_generic;
#ifdef PCN_HOST_X86
extern const Kernels kernels_avx2, kernels_avx512;
#endif

}  // namespace pcn_host
