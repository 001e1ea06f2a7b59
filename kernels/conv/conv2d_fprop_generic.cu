// conv2d_fprop_generic: forward convolution of any shape
//   y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride_h - pad_h + r, q*stride_w - pad_w + s, c] w[k,r,s,c])
// x (N,H,W,C)   w (K,R,S,C/groups)   y (N,P,Q,K)   float32 or bfloat16, last axis contiguous
// Implicit GEMM (conv/fprop.h). One element a load, so any number of channels; about a third of the fast
// kernels' rate is to be expected. First layers of 3 channels at stride 1 end here.
// Block: 128 threads, 6656 bytes of shared memory, 95 / 95 / 95 registers on sm_75 / 80 / 90 (no spills),
// which leave room for 4 blocks a multiprocessor. 16 FMAs for 32 bytes read from shared memory a thread;
// 11 flops per byte fetched from L2. Bound by FFMA.
// Few outputs (at most 8192 multiply-adds) are made by a thread each, in blocks of 64, without shared memory;
// bound by the latency of their loads. The sums are the tiles', to the bit. Accepts: everything. Not timed on
// a GPU yet.
#include "conv/fprop.h"

namespace pcn {
namespace {

using namespace conv;

// ---- tile: 64 x 32 outputs, 8 along the reduction; 4 x 4 outputs a thread
using GenericTile = Tile<64, 32, 8, 4, 4, 4, 4>;
constexpr TileInfo kTile = GenericTile::info(0.3);
static_assert(GenericTile::THREADS == 128, "threads a block");

// ---- few outputs: a thread makes one, without shared memory
constexpr int kFewThreads = 64;
// Below this many multiply-adds most of any tile would be empty.
constexpr std::int64_t kFewMultiplyAdds = 8192, kFewTerms = 256;

bool few_outputs(const Conv2dShape& shape) {
  const GemmExtent e = fprop_extent(shape);
  return e.depth < kFewTerms && e.rows * e.cols * e.batches * e.depth <= kFewMultiplyAdds &&
         gemm_grid(e, kTile).splits == 1;
}

// The terms of a sum in the tiles' order.
template <int VEC, class E>
__global__ void __launch_bounds__(kFewThreads)
    few_outputs_kernel(E* __restrict__ y, const E* __restrict__ x, const E* __restrict__ w,
                       const float* __restrict__ b, const Conv2dShape s, bool relu, int outputs) {
  const int i = blockIdx.x * kFewThreads + threadIdx.x;
  if (i >= outputs) return;
  const int k = i % s.k, pixel = i / s.k;
  const int h0 = pixel / s.q % s.p * s.stride_h - s.pad_h, w0 = pixel % s.q * s.stride_w - s.pad_w;
  const unsigned first_row =
      static_cast<unsigned>(pixel / s.q / s.p) * s.h;  // sums may wrap around: loaders.h
  const int channels = s.c / s.groups;
  const E* filter = w + k * s.r * s.s * channels;
  const E* image = x + k / (s.k / s.groups) * channels;
  float sum = 0.f;
  for (int r = 0; r < s.r; ++r) {
    for (int tap = 0; tap < s.s; ++tap) {
      const int row = h0 + r, column = w0 + tap;
      const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(s.h) &&
                          static_cast<unsigned>(column) < static_cast<unsigned>(s.w);
      const unsigned start = ((first_row + row) * s.w + column) * s.c;
      for (int c = 0; c < channels; c += VEC, filter += VEC) {
        float seen[VEC], weight[VEC];
        load_vector(seen, image, start + c, inside);
        load_constant(weight, filter);
        PCN_UNROLL
        for (int j = 0; j < VEC; ++j) sum += seen[j] * weight[j];
      }
    }
  }
  if (b != nullptr) sum += __ldg(b + k);
  y[i] = narrow<E>(relu && sum < 0.f ? 0.f : sum);  // keeps NaN
}

// ---- supports
std::size_t workspace_bytes(const Conv2dShape& shape) { return split_bytes(fprop_extent(shape), kTile); }
double cost(const Conv2dShape& shape) {
  const GemmExtent e = fprop_extent(shape);
  // Of few outputs no operand is used twice. (Lower precisions stay with the tensor cores.)
  if (shape.precision == Precision::kFp32 && few_outputs(shape) && e.splits == 0)
    return 256.0 * static_cast<double>(e.depth) / 0.05;
  return gemm_cost(e, kTile, shape.precision);
}

}  // namespace

const Conv2dTraits conv2d_fprop_generic_traits = {always<Conv2dShape>, workspace_bytes, cost};

// ---- launcher
template <class E>
cudaError_t conv2d_fprop_generic(E* y, const E* x, const E* w, const float* b, const Conv2dShape& shape,
                                 Activation activation, void* workspace, cudaStream_t stream) {
  const char* stem = "conv2d_fprop_generic";
  if (!few_outputs(shape))
    return conv::fprop<GenericTile, 1>(stem, y, x, w, b, shape, activation, workspace, stream);
  const auto kernel = fprop_vectors(shape) ? few_outputs_kernel<4, E> : few_outputs_kernel<1, E>;
  const int outputs = shape.n * shape.p * shape.q * shape.k;
  return launch(stem, kernel, dim3(static_cast<unsigned>(ceil_div(outputs, kFewThreads))), dim3(kFewThreads),
                0, stream, y, x, w, b, shape, activation == Activation::kRelu, outputs);
}

template cudaError_t conv2d_fprop_generic(float*, const float*, const float*, const float*,
                                          const Conv2dShape&, Activation, void*, cudaStream_t);
template cudaError_t conv2d_fprop_generic(Bf16*, const Bf16*, const Bf16*, const float*, const Conv2dShape&,
                                          Activation, void*, cudaStream_t);
// For the rows of 9.0, whose unit is for it alone.
template cudaError_t conv::fprop_finish(const char*, Bf16*, const float*, const Conv2dShape&, Activation,
                                        void*, const conv::GemmGrid&, cudaStream_t);
template cudaError_t conv::fprop_finish(const char*, float*, const float*, const Conv2dShape&, Activation,
                                        void*, const conv::GemmGrid&, cudaStream_t);

}  // namespace pcn
