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
#include "common/philox.h"
#include "pointwise/elementwise.h"

namespace pcn {
namespace {

using elementwise::THREADS;

__device__ __forceinline__ bool aligned_to(const void* pointer, unsigned bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    dropout_kernel(T* y, std::uint8_t* mask, const T* x, unsigned threshold, float scale,
                   DropoutStream random, DropoutShape shape, unsigned blocks_per_row, unsigned blocks) {
  const unsigned i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= blocks) return;
  const unsigned r = i / blocks_per_row;
  const long long row_start =
      (shape.row0 + r) * shape.total_cols + shape.col0;  // the row's first element in the whole
  const long long block = row_start / 4 + (i - r * blocks_per_row);
  const long long c = 4 * block - row_start;  // column of the block's first element; -3 … cols + 3
  if (c >= shape.cols) return;

  const std::int64_t step = random.step_on_device ? *random.step_on_device : random.step;
  const uint4 words = philox_block(random.seed, static_cast<std::uint64_t>(step), random.layer, block);
  const bool keep[4] = {(words.x >> 8) >= threshold, (words.y >> 8) >= threshold, (words.z >> 8) >= threshold,
                        (words.w >> 8) >= threshold};

  const long long at = static_cast<long long>(r) * shape.cols + c;
  if (c >= 0 && c + 4 <= shape.cols && aligned_to(x + at, 4 * sizeof(T)) &&
      aligned_to(y + at, 4 * sizeof(T)) && aligned_to(mask + at, 4)) {
    float4 v = load4(x + at);
    v.x = keep[0] ? v.x * scale : 0.f;
    v.y = keep[1] ? v.y * scale : 0.f;
    v.z = keep[2] ? v.z * scale : 0.f;
    v.w = keep[3] ? v.w * scale : 0.f;
    store4(y + at, v);
    *reinterpret_cast<uchar4*>(mask + at) = make_uchar4(keep[0], keep[1], keep[2], keep[3]);
  } else {
    PCN_UNROLL
    for (int w = 0; w < 4; ++w)
      if (c + w >= 0 && c + w < shape.cols) {
        y[at + w] = narrow<T>(keep[w] ? widen(x[at + w]) * scale : 0.f);
        mask[at + w] = keep[w];
      }
  }
}

}  // namespace

template <class T>
cudaError_t dropout_philox(T* y, std::uint8_t* mask, const T* x, std::uint32_t threshold, float scale,
                           const DropoutStream& random, const DropoutShape& shape, cudaStream_t stream) {
  DropoutShape flat = shape;
  if (shape.col0 == 0 && shape.cols == shape.total_cols) {  // whole rows are one long row
    flat = {1, shape.rows * shape.cols, 0, shape.row0 * shape.total_cols, 0};
  }
  // A row of any alignment touches at most one block more than its length fills.
  const bool whole_blocks = flat.total_cols % 4 == 0 && flat.col0 % 4 == 0;
  const unsigned blocks_per_row = (static_cast<unsigned>(flat.cols) + 3) / 4 + (whole_blocks ? 0 : 1);
  const unsigned long long blocks = static_cast<unsigned long long>(blocks_per_row) * flat.rows;
  if (blocks > 0xffffffffull) return cudaErrorInvalidValue;
  return launch("dropout_philox", dropout_kernel<T>,
                dim3(static_cast<unsigned>((blocks + THREADS - 1) / THREADS)), dim3(THREADS), 0, stream, y,
                mask, x, threshold, scale, random, flat, blocks_per_row, static_cast<unsigned>(blocks));
}
template DropoutFn<float> dropout_philox<float>;
template DropoutFn<Bf16> dropout_philox<Bf16>;

}  // namespace pcn
