// The conv family: two-dimensional convolution and its two gradients, of float32 or bfloat16 arrays, and
// through it the fully connected layers (a 1x1 convolution of one-pixel images).
//
//   fprop  y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
//   dgrad  dx[n,h,w,c] = sum of dy[n,p,q,k] w[k,r,s,c] over the (p, r) and (q, s) that meet in (h, w), and over k
//   wgrad  dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c]
//          and, on demand, db[k] = sum_{n,p,q} dy[n,p,q,k]
//
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K); pixels outside the image are zero. Filter k of group g sees
// the channels [g*C/groups, (g+1)*C/groups). All sums run in an order fixed by the shape.
//
// E, the type of an element: x, w, y, their gradients dx and dy are all float or all Bf16; b, dw and db are
// float, and so are the sums.
#pragma once
#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "common/types.h"

namespace pcn {

// How exactly the products of a sum are formed. Sums are float32 always.
//   kFp32    float32 operands, by fused multiply-adds (FFMA)
//   kTf32    operands rounded to TF32 (11 significant bits), to a neighbour, nearly always the nearer (mma_tile.h)
//   kFp32x3  each operand the sum of two TF32 numbers, three of the four products: about float32's accuracy
//   kBf16    operands bfloat16 in memory, whose products are exact in float32
// A kernel may be more exact than asked for: FFMA kernels serve every precision. kBf16 is the precision of
// the Bf16 kernels, and theirs alone.
enum class Precision : int { kFp32 = 0, kTf32 = 1, kFp32x3 = 2, kBf16 = 3 };

// Of a launch the last tiles, which so many blocks share (hopper/stream_k.h); 0, 0: none.
constexpr int kShareTiles = -1;  // as Conv2dShape::splits: that there are some
struct SharedTiles {
  int tiles = 0, shares = 0;
};

struct Conv2dShape {
  int n, h, w, c;  // input; c over all groups
  int k, r, s;     // filters over all groups, their height and width
  int p, q;        // output; with pad_h, pad_w it implies the padding below and to the right
  int stride_h, stride_w;
  int pad_h, pad_w;  // above and to the left
  int groups;
  int aligned;  // 1: every pointer is a multiple of 16 bytes, so that kernels may move 16 bytes at once
  Precision precision;
  int capability;  // compute capability of the device, 10 * major + minor
  int splits;      // pieces into which the reduction is cut; 0: as each kernel finds good; or kShareTiles
  int bias_grad;   // 1: wgrad is asked for db, too, for which its rows may need scratch memory
};

template <class E>
using Conv2dFpropFn = cudaError_t(E* y, const E* x, const E* w, const float* b /* or null */,
                                  const Conv2dShape& shape, Activation activation, void* workspace,
                                  cudaStream_t stream);
// mask: like dx, the output of the ReLU that x is; dx is 0 where it is not positive (see relu_backward).
template <class E>
using Conv2dDgradFn = cudaError_t(E* dx, const E* dy, const E* w, const E* mask /* or null */,
                                  const Conv2dShape& shape, void* workspace, cudaStream_t stream);
// db: null, unless the row's sums_bias says that it makes it.
template <class E>
using Conv2dWgradFn = cudaError_t(float* dw, float* db /* or null */, const E* dy, const E* x,
                                  const Conv2dShape& shape, void* workspace, cudaStream_t stream);

// What a kernel says about itself: the shapes it accepts, the scratch memory it needs, and the time it is
// estimated to take (arbitrary units, comparable within a table; infinite where it cannot cut the reduction
// into shape.splits pieces). sums_bias: whether a wgrad kernel makes db beside dw for a shape that it supports;
// for others bias_backward of the pointwise family reads dy once more. shared: tiles that blocks share.
inline bool never(const Conv2dShape&) { return false; }
inline SharedTiles none_shared(const Conv2dShape&) { return {}; }
struct Conv2dTraits {
  bool (*supports)(const Conv2dShape&);
  std::size_t (*workspace_bytes)(const Conv2dShape&);
  double (*cost)(const Conv2dShape&);
  bool (*sums_bias)(const Conv2dShape&) = never;
  SharedTiles (*shared)(const Conv2dShape&) = none_shared;
};

template <class Launch>
struct Conv2dRow : KernelRow<Conv2dShape, Launch> {
  double (*cost)(const Conv2dShape&);
  bool (*sums_bias)(const Conv2dShape&);
  SharedTiles (*shared)(const Conv2dShape&);
};
template <class E>
using Conv2dFpropRow = Conv2dRow<Conv2dFpropFn<E>>;
template <class E>
using Conv2dDgradRow = Conv2dRow<Conv2dDgradFn<E>>;
template <class E>
using Conv2dWgradRow = Conv2dRow<Conv2dWgradFn<E>>;

// ---- kernels of both types
template <class E>
cudaError_t conv2d_fprop_first_layer(E* y, const E* x, const E* w, const float* b, const Conv2dShape& shape,
                                     Activation activation, void* workspace, cudaStream_t stream);
template <class E>
cudaError_t conv2d_fprop_generic(E* y, const E* x, const E* w, const float* b, const Conv2dShape& shape,
                                 Activation activation, void* workspace, cudaStream_t stream);
template <class E>
cudaError_t conv2d_dgrad_generic(E* dx, const E* dy, const E* w, const E* mask, const Conv2dShape& shape,
                                 void* workspace, cudaStream_t stream);
template <class E>
cudaError_t conv2d_wgrad_first_layer(float* dw, float* db, const E* dy, const E* x, const Conv2dShape& shape,
                                     void* workspace, cudaStream_t stream);
template <class E>
cudaError_t conv2d_wgrad_generic(float* dw, float* db, const E* dy, const E* x, const Conv2dShape& shape,
                                 void* workspace, cudaStream_t stream);
extern const Conv2dTraits conv2d_fprop_first_layer_traits, conv2d_fprop_generic_traits,
    conv2d_dgrad_generic_traits, conv2d_wgrad_first_layer_traits, conv2d_wgrad_generic_traits;

// ---- the tiles: float by FFMA and on tensor cores, Bf16 on tensor cores
#define PCN_DECLARE(Fn, E, stem)           \
  extern const Conv2dTraits stem##_traits; \
  Fn<E> stem;
#define PCN_FPROP_WGMMA(stem, ...) PCN_DECLARE(Conv2dFpropFn, float, stem)
#define PCN_FPROP_MMA(stem, ...) PCN_DECLARE(Conv2dFpropFn, float, stem)
#define PCN_FPROP_TILE(stem, ...) PCN_DECLARE(Conv2dFpropFn, float, stem)
#define PCN_FPROP_ROWS(stem, ...) PCN_DECLARE(Conv2dFpropFn, float, stem)
#define PCN_FPROP_WGMMA_BF16(stem, ...) PCN_DECLARE(Conv2dFpropFn, Bf16, stem)
#define PCN_FPROP_MMA_BF16(stem, ...) PCN_DECLARE(Conv2dFpropFn, Bf16, stem)
#define PCN_DGRAD_WGMMA(stem, ...) PCN_DECLARE(Conv2dDgradFn, float, stem)
#define PCN_DGRAD_MMA(stem, ...) PCN_DECLARE(Conv2dDgradFn, float, stem)
#define PCN_DGRAD_TILE(stem, ...) PCN_DECLARE(Conv2dDgradFn, float, stem)
#define PCN_DGRAD_ROWS(stem, ...) PCN_DECLARE(Conv2dDgradFn, float, stem)
#define PCN_DGRAD_WGMMA_BF16(stem, ...) PCN_DECLARE(Conv2dDgradFn, Bf16, stem)
#define PCN_DGRAD_MMA_BF16(stem, ...) PCN_DECLARE(Conv2dDgradFn, Bf16, stem)
#define PCN_WGRAD_MMA(stem, ...) PCN_DECLARE(Conv2dWgradFn, float, stem)
#define PCN_WGRAD_TILE(stem, ...) PCN_DECLARE(Conv2dWgradFn, float, stem)
#define PCN_WGRAD_WGMMA(stem, ...) PCN_DECLARE(Conv2dWgradFn, float, stem)
#define PCN_WGRAD_WGMMA_BF16(stem, ...) PCN_DECLARE(Conv2dWgradFn, Bf16, stem)
#define PCN_WGRAD_MMA_BF16(stem, ...) PCN_DECLARE(Conv2dWgradFn, Bf16, stem)
#include "conv/tiles.inc"
#undef PCN_DECLARE

// The tables of an element type, in order of preference among equals; every row accepts what its `supports`
// says, the last one everything.
template <class E>
KernelTable<Conv2dFpropRow<E>> conv2d_fprop_kernels();
template <class E>
KernelTable<Conv2dDgradRow<E>> conv2d_dgrad_kernels();
template <class E>
KernelTable<Conv2dWgradRow<E>> conv2d_wgrad_kernels();

// Whether a row takes a shape, and can cut the reduction as the shape asks.
template <class Row>
bool applies(const Row& row, const Conv2dShape& shape) {
  if (shape.splits == kShareTiles) return row.supports(shape) && row.shared(shape).tiles > 0;
  return row.supports(shape) && (shape.splits == 0 || std::isfinite(row.cost(shape)));
}

// The rows of a table that apply to `shape`, cheapest first by their own estimate; the order of the table
// breaks ties. The first one is the one that runs.
template <class Row>
std::vector<const Row*> ranked(const KernelTable<Row>& table, const Conv2dShape& shape) {
  std::vector<std::pair<double, const Row*>> costs;
  for (const Row& row : table)
    if (applies(row, shape)) costs.emplace_back(row.cost(shape), &row);
  std::stable_sort(costs.begin(), costs.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<const Row*> rows;
  for (const auto& [cost, row] : costs) rows.push_back(row);
  return rows;
}

}  // namespace pcn
