// bias_backward_two_stage: db[c] = sum_r dy[r, c]
// dy (rows, cols) of float or Bf16, db (cols) of float. 4 bytes read an element, 2 in bfloat16, the partial
// sums are a few percent: bound by memory.
//
// Stage 1: a block sums one slice of the rows over a tile of up to 32 vectors' width (512 bytes of a row).
// Its threads lie over the tile as the memory does: thread t reads vector t % W of row t / W, W being the
// tile's width, so that for AlexNet's narrow rows (96 channels: W = 24) nearly all threads of a block work
// and neighbours read neighbouring addresses. Every thread sees one vector of columns only; the threads of a
// column meet in shared memory and are added in order. Stage 2 adds the slices. Slices and tiles depend on
// the shape alone and every sum has a fixed order, so the result is the same bits on every run and every GPU.
// A matrix of one slice (the fully connected layers' 128 rows) needs no second launch.
#include <algorithm>

#include "pointwise/elementwise.h"

namespace pcn {
namespace {

constexpr int SUM_THREADS = 256;
constexpr int TILE = 32;         // most vectors of a row that a block takes
constexpr int BLOCKS = 1024;     // of stage 1, about: some eight on each of an H200's 132 multiprocessors
constexpr int SLICE_ROWS = 128;  // at least: with fewer, a slice is not worth its partial sum
constexpr int LANES = 8;         // stage 2: columns of a block, 32 bytes of a row of partial sums
constexpr int GROUPS = SUM_THREADS / LANES;

template <int VEC>
struct Stage1Smem {
  float sum[SUM_THREADS * VEC];
};
struct Stage2Smem {
  float sum[GROUPS][LANES + 1];
};

int ceil_div(int a, int b) { return (a - 1) / b + 1; }

// Independent of the vectors' width, so that a misaligned view needs no more workspace.
int slice_count(const RowsShape& shape) {
  const int tiles = ceil_div(shape.cols, 4 * TILE);
  return std::max(1, std::min(ceil_div(shape.rows, SLICE_ROWS), BLOCKS / tiles));
}

// partial[slice, c] = sum of dy[r, c] over the rows of the slice; width = vectors of this block's columns.
template <class T, int VEC>
__global__ void __launch_bounds__(SUM_THREADS)
    bias_backward_slices_kernel(float* partial, const T* __restrict__ dy, int rows, int cols, int slice_rows,
                                int tile) {
  auto& smem = shared<Stage1Smem<VEC>>();
  const int first_col = blockIdx.x * tile * VEC;
  const int width = min(tile, (cols - first_col) / VEC);
  const int rows_at_once = SUM_THREADS / width;
  const int lane = threadIdx.x % width, row_lane = threadIdx.x / width;
  const int first_row = blockIdx.y * slice_rows;
  const unsigned last_row = rows - first_row < slice_rows ? rows : first_row + slice_rows;

  float sum[VEC];
  PCN_UNROLL
  for (int v = 0; v < VEC; ++v) sum[v] = 0.f;
  if (row_lane < rows_at_once) {
    const T* from = dy + first_col + lane * VEC;
    for (unsigned r = first_row + row_lane; r < last_row; r += rows_at_once) {
      float x[VEC];
      load_run(x, from + static_cast<long long>(r) * cols);
      PCN_UNROLL
      for (int v = 0; v < VEC; ++v) sum[v] += x[v];
    }
  }
  PCN_UNROLL
  for (int v = 0; v < VEC; ++v) smem.sum[threadIdx.x * VEC + v] = sum[v];
  __syncthreads();
  const int width_cols = width * VEC;
  for (int c = threadIdx.x; c < width_cols; c += SUM_THREADS) {
    float total = 0.f;
    for (int r = 0; r < rows_at_once; ++r) total += smem.sum[r * width_cols + c];
    partial[static_cast<long long>(blockIdx.y) * cols + first_col + c] = total;
  }
}

// db[c] = sum_s partial[s, c]
__global__ void __launch_bounds__(SUM_THREADS)
    bias_backward_sum_kernel(float* db, const float* __restrict__ partial, int slices, int cols) {
  auto& smem = shared<Stage2Smem>();
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const int c = blockIdx.x * LANES + lane;
  float sum = 0.f;
  if (c < cols)
    for (int s = group; s < slices; s += GROUPS) sum += partial[static_cast<long long>(s) * cols + c];
  smem.sum[group][lane] = sum;
  __syncthreads();
  if (group == 0 && c < cols) {
    float total = 0.f;
    PCN_UNROLL
    for (int g = 0; g < GROUPS; ++g) total += smem.sum[g][lane];
    db[c] = total;
  }
}

}  // namespace

std::size_t bias_backward_two_stage_workspace(const RowsShape& shape) {
  const int slices = slice_count(shape);
  return slices == 1 ? 0 : sizeof(float) * static_cast<std::size_t>(slices) * shape.cols;
}

template <class T>
cudaError_t bias_backward_two_stage(float* db, const T* dy, const RowsShape& shape, void* workspace,
                                    cudaStream_t stream) {
  const int slices = slice_count(shape);
  const int slice_rows = ceil_div(shape.rows, slices);
  float* partial = slices == 1 ? db : static_cast<float*>(workspace);
  constexpr int VEC = PER_ACCESS<T>;
  const bool vectors = shape.cols % VEC == 0 && elementwise::aligned16(dy);
  const int vectors_per_row = vectors ? shape.cols / VEC : shape.cols;
  const int tiles = ceil_div(vectors_per_row, TILE);
  const int tile = ceil_div(vectors_per_row, tiles);  // tiles of one width, not full ones and a rest
  const cudaError_t status =
      launch("bias_backward_two_stage",
             vectors ? bias_backward_slices_kernel<T, VEC> : bias_backward_slices_kernel<T, 1>,
             dim3(ceil_div(vectors_per_row, tile), slices), dim3(SUM_THREADS), 0, stream, partial, dy,
             shape.rows, shape.cols, slice_rows, tile);
  if (status != cudaSuccess || slices == 1) return status;
  return launch("bias_backward_two_stage", bias_backward_sum_kernel, dim3(ceil_div(shape.cols, LANES)),
                dim3(SUM_THREADS), 0, stream, db, static_cast<const float*>(partial), slices, shape.cols);
}
template BiasBackwardFn<float> bias_backward_two_stage<float>;
template BiasBackwardFn<Bf16> bias_backward_two_stage<Bf16>;

}  // namespace pcn
