// dropout_philox: mask[e] = 1 where u(e) >= p, else 0; y[e] = mask[e] ? x[e] * scale : 0
// x, y (rows, cols) of float or Bf16, mask of bytes; y may be x. u(e) is 24 bits of Philox4x32-10, a pure
// function of (seed, step, layer, e), where e = (row0 + r) * total_cols + col0 + c: a shard of a matrix draws
// the mask of the whole, and both types draw the same. 9 bytes of memory traffic an element, 5 in bfloat16.
// One Philox call of ten rounds (20 wide multiplications) makes four elements, so the kernel is bound by
// memory, with integer arithmetic not far behind.
//
// A thread owns one Philox block, the four elements 4b … 4b+3, as far as they lie inside the rectangle. Where
// all four do and the pointers allow, they move as one vector and one uchar4; whole matrices, and shards cut
// at multiples of 4, always do. In bfloat16 that vector has 8 bytes; two Philox blocks a thread would make it
// 16, which is to be measured.
#include "common/element.h"
#include "pointwise/dropout.h"

namespace pcn {
namespace {

using dropout::aligned_to;
using elementwise::THREADS;

template <class T>
__global__ void __launch_bounds__(THREADS)
    dropout_kernel(T* y, std::uint8_t* mask, const T* x, unsigned threshold, float scale,
                   DropoutStream random, dropout::Blocks blocks) {
  const unsigned i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= blocks.count) return;
  const dropout::Block block(blocks, i);
  if (block.column >= blocks.shape.cols) return;
  bool keep[4];
  block.draw(random, threshold, keep);
  const long long at = block.at;
  if (block.whole(blocks.shape) && aligned_to(x + at, 4 * sizeof(T)) && aligned_to(y + at, 4 * sizeof(T)) &&
      aligned_to(mask + at, 4)) {
    float v[4];
    load_run(v, x + at);
    PCN_UNROLL
    for (int w = 0; w < 4; ++w) v[w] = keep[w] ? v[w] * scale : 0.f;
    store_run(y + at, v);
    *reinterpret_cast<uchar4*>(mask + at) = make_uchar4(keep[0], keep[1], keep[2], keep[3]);
  } else {
    PCN_UNROLL
    for (int w = 0; w < 4; ++w)
      if (block.inside(blocks.shape, w)) {
        y[at + w] = narrow<T>(keep[w] ? widen(x[at + w]) * scale : 0.f);
        mask[at + w] = keep[w];
      }
  }
}

}  // namespace

template <class T>
cudaError_t dropout_philox(T* y, std::uint8_t* mask, const T* x, std::uint32_t threshold, float scale,
                           const DropoutStream& random, const DropoutShape& shape, cudaStream_t stream) {
  dropout::Blocks blocks;
  const cudaError_t status = dropout::blocks_of(shape, blocks);
  if (status != cudaSuccess) return status;
  return launch("dropout_philox", dropout_kernel<T>, dim3((blocks.count + THREADS - 1) / THREADS),
                dim3(THREADS), 0, stream, y, mask, x, threshold, scale, random, blocks);
}
template DropoutFn<float> dropout_philox<float>;
template DropoutFn<Bf16> dropout_philox<Bf16>;

}  // namespace pcn
