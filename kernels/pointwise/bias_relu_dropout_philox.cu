// bias_relu_dropout_philox: y[r,c] = u(e) >= p ? max(x[r,c] + b[c], 0) * scale : 0
// x, y (rows, cols) of float32 or bfloat16; b (cols) of float32, or none; y may be x. u(e) as in
// dropout_philox, e the element of the matrix that x is a part of: the bits, and in float32 the results, are
// those of add_bias_rows, relu_forward and dropout_philox after each other. No mask is written: y > 0 says
// that an element is kept and that its ReLU is active, which is all that the gradient needs. NaN stays where
// it is kept.
//
// 8 bytes of memory traffic an element (bfloat16: 4) in place of 25 by the three kernels. A thread makes the
// four elements of a Philox block, 20 wide multiplications; where all four lie inside and the pointers allow,
// they move in one access. Bound by memory, with integer arithmetic not far behind. Not timed on a GPU yet.
#include "common/element.h"
#include "pointwise/dropout.h"

namespace pcn {
namespace {

using elementwise::THREADS;

__device__ __forceinline__ float activated(float x, bool keep, float scale) {
  const float y = x < 0.f ? 0.f : x;  // keeps NaN
  return keep ? y * scale : 0.f;
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    bias_relu_dropout_kernel(T* y, const T* x, const float* __restrict__ b, unsigned cols, unsigned threshold,
                             float scale, DropoutStream random, dropout::Blocks blocks) {
  const unsigned i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= blocks.count) return;
  const dropout::Block block(blocks, i);
  if (block.column >= blocks.shape.cols) return;
  const long long at = block.at;
  const bool vectors = block.whole(blocks.shape) && dropout::aligned_to(x + at, 4 * sizeof(T)) &&
                       dropout::aligned_to(y + at, 4 * sizeof(T));
  bool keep[4];
  if (vectors) {
    float4 v = load4(x + at);  // on its way while the bits are drawn
    block.draw(random, threshold, keep);
    if (b != nullptr) {
      unsigned c = static_cast<unsigned>(at) % cols;
      if ((cols | c) % 4 == 0 && dropout::aligned_to(b, 16)) {
        const float4 bias = __ldg(reinterpret_cast<const float4*>(b + c));
        v.x += bias.x, v.y += bias.y, v.z += bias.z, v.w += bias.w;
      } else {  // four channels that may begin again at the first
        v.x += __ldg(b + c);
        c = c + 1 == cols ? 0 : c + 1;
        v.y += __ldg(b + c);
        c = c + 1 == cols ? 0 : c + 1;
        v.z += __ldg(b + c);
        c = c + 1 == cols ? 0 : c + 1;
        v.w += __ldg(b + c);
      }
    }
    const float kept[4] = {activated(v.x, keep[0], scale), activated(v.y, keep[1], scale),
                           activated(v.z, keep[2], scale), activated(v.w, keep[3], scale)};
    store_run(y + at, kept);
  } else {
    block.draw(random, threshold, keep);
    PCN_UNROLL
    for (int w = 0; w < 4; ++w)
      if (block.inside(blocks.shape, w)) {
        float v = widen(x[at + w]);
        if (b != nullptr) v += __ldg(b + static_cast<unsigned>(at + w) % cols);
        y[at + w] = narrow<T>(activated(v, keep[w], scale));
      }
  }
}

}  // namespace

template <class T>
cudaError_t bias_relu_dropout_philox(T* y, const T* x, const float* b, std::uint32_t threshold, float scale,
                                     const DropoutStream& random, const DropoutShape& shape,
                                     cudaStream_t stream) {
  dropout::Blocks blocks;
  const cudaError_t status = dropout::blocks_of(shape, blocks);
  if (status != cudaSuccess) return status;
  return launch("bias_relu_dropout_philox", bias_relu_dropout_kernel<T>,
                dim3((blocks.count + THREADS - 1) / THREADS), dim3(THREADS), 0, stream, y, x, b,
                static_cast<unsigned>(shape.cols), threshold, scale, random, blocks);
}
template BiasReluDropoutFn<float> bias_relu_dropout_philox<float>;
template BiasReluDropoutFn<Bf16> bias_relu_dropout_philox<Bf16>;

}  // namespace pcn
