// What wgrad on sm_90a has for itself: dw[k, weight] = sum over pixels of x[pixel, weight] dy[pixel, k], on the tile of
// wgmma_tile.h. Rows are the weights of a group's filters (tap, channel), columns its filters, the reduction runs over all
// output pixels, in pieces that are added in order (conv/wgrad.h).
//
// Both operands lie across the reduction, MN-major, which wgmma takes of Bf16 (weights_tf32.h: of float). A step is 64
// pixels. Of x it brings a tile's rows in blocks of one tap and CHANNELS channels, by an im2col map that walks the pixels (a
// tiled one of 1x1 filters), of dy 64, 32 or 16 filters a block by a tiled one. Nothing of it is gathered or transposed by threads.
//
// Sums leave transposed, 32 weights of 32 filters at a time: in a buffer a row is a filter, as in dw.
//
// db, where it is asked for, is made beside the products: one of the producer's other warps for each block of dy adds
// up what lies in the stages of the tiles that have the first weights.
#pragma once
#include "conv/hopper/wgmma_kernel.h"

namespace pcn::conv {

// The steps of a tile of weights: pixels, of which each step has the next 64.
template <class T, class Side>
struct PixelSteps {
  const WgmmaArgs& args;
  const WgmmaWork& work;
  int pixel, channel, chunk, tap_w, tap_h;  // the next pixel; the first block of the tile
  __device__ __forceinline__ PixelSteps(const WgmmaArgs& args_, const WgmmaWork& work_)
      : args(args_), work(work_), pixel(work_.begin * T::BK) {
    const int block = work.m0 / Side::CHANNELS, tap = block / args.chunks;
    channel = work.group * (args.shape.c / args.shape.groups);
    chunk = block % args.chunks, tap_w = tap % args.shape.s, tap_h = tap / args.shape.s;
  }
  // Blocks behind the last weight lie behind the last channel, where there are zeros.
  __device__ __forceinline__ void load(unsigned char* stage, uint64_t* full) const {
    const Conv2dShape& s = args.shape;
    const int q = pixel % s.q, np = pixel / s.q;
    const int w = q * s.stride_w - s.pad_w, h = np % s.p * s.stride_h - s.pad_h, n = np / s.p;
    int at = chunk, x = tap_w, y = tap_h;
    for (int block = 0; block < T::BM / Side::CHANNELS; ++block) {
      unsigned char* a = stage + block * Side::template A_BLOCK_BYTES<T>;
      const bool exists = y < s.r;
      const int c = exists ? channel + at * Side::CHANNELS : s.c;
      if (args.single != 0)
        tma_load_2d(a, &args.pixels, full, c, pixel);
      else
        tma_load_im2col_4d(a, &args.pixels, full, c, w, h, n, static_cast<uint16_t>(exists ? x : 0),
                           static_cast<uint16_t>(exists ? y : 0));
      if (++at == args.chunks) {
        at = 0;
        if (++x == s.s) x = 0, ++y;
      }
    }
    constexpr int COLUMNS = Side::template COLUMNS<T>;
    const int filter = work.group * (s.k / s.groups) + work.n0;
    PCN_UNROLL_ON_DEVICE
    for (int block = 0; block < T::BN / COLUMNS; ++block)
      tma_load_2d(stage + T::A_BYTES + block * Side::template BLOCK_BYTES<T>, &args.filters, full,
                  filter + block * COLUMNS, pixel);
  }
  __device__ __forceinline__ void advance() { pixel += T::BK; }
};

// A consumer's sums, on their way to dw or a piece of it.
template <class T>
struct Transposed {
  static constexpr int RUN = 32;  // weights, 128 bytes, and filters that leave at once
  static_assert(T::BN % RUN == 0 && 2 * RUN * T::ROW_BYTES == T::STORE_BYTES, "a buffer is full");
  __device__ __forceinline__ Transposed(const WgmmaOperands&, const WgmmaColumns&, float*) {}
  __device__ __forceinline__ void begin(const RowsFrom&) {}
};

// CHANNELS of a block of x: 64, rows of 128 bytes, or 16, rows of 32.
template <int CHANNELS_>
struct Weights : Backward {
  static constexpr bool SHARES = false;
  static constexpr int CHANNELS = CHANNELS_, A_SPAN = CHANNELS * 2;
  static constexpr Major A_MAJOR = Major::kMN;
  template <class T>
  static constexpr int ROUND = 1;  // help() gives back no stage that passes empty
  template <class T>
  static constexpr int A_BLOCK_BYTES = T::BK * A_SPAN;
  template <class T>
  static constexpr int A_PRODUCT = 16 * A_SPAN / 16;  // 16 pixels
  template <class T>
  using Steps = PixelSteps<T, Weights>;
  template <class T>
  using Finish = Transposed<T>;

  template <class T>
  static __device__ __forceinline__ uint64_t a_descriptor(uint32_t address) {
    return wgmma_descriptor(address, 8 * A_SPAN, A_SPAN, A_BLOCK_BYTES<T>);
  }

  template <class T>
  static __device__ __forceinline__ void store(const WgmmaArgs& args, const float (&acc)[T::PARTS][T::BN / 2],
                                               const WgmmaWork& work, int warpgroup, unsigned char* buffers,
                                               int& turn, Transposed<T>&) {
    constexpr int RUN = Transposed<T>::RUN, HALF = RUN * T::ROW_BYTES;
    const int group_filters = args.shape.k / args.shape.groups;
    const OutputPlace<T> place;
    const int weight = place.row % RUN, first_half = place.row / RUN * HALF;
    PCN_UNROLL_ON_DEVICE
    for (int part = 0; part < T::PARTS; ++part) {
      const int m = work.m0 + (warpgroup * T::PARTS + part) * 64;
      PCN_UNROLL_ON_DEVICE
      for (int c = 0; c < T::BN / RUN; ++c) {
        if (m >= args.rows || work.n0 + c * RUN >= group_filters) continue;  // nothing of it exists
        unsigned char* buffer = buffers + turn * T::STORE_BYTES;
        if (place.thread == 0)
          tma_store_wait_read<T::STORES - 1>();  // what left through this buffer has been read
        named_barrier_sync(1 + warpgroup, T::WARPGROUP);
        PCN_UNROLL_ON_DEVICE
        for (int half = 0; half < 2; ++half) {
          PCN_UNROLL_ON_DEVICE
          for (int e = 0; e < 2; ++e) {
            const int row = weight + 8 * half, in_8 = place.pair + e;  // of the swizzle's 8 filters
            unsigned char* to =
                buffer + first_half + in_8 * T::ROW_BYTES + (row / 4 ^ in_8) * 16 + row % 4 * 4;
            PCN_UNROLL_ON_DEVICE
            for (int j = 0; j < RUN / 8; ++j)
              *reinterpret_cast<float*>(to + j * 8 * T::ROW_BYTES) =
                  acc[part][(c * RUN / 8 + j) * 4 + 2 * half + e];
          }
        }
        fence_proxy_async();  // what TMA reads has been written by threads
        named_barrier_sync(1 + warpgroup, T::WARPGROUP);
        if (place.thread == 0) {
          tma_store_4d(&args.out, buffer, m, work.n0 + c * RUN, work.group, work.piece);
          if (m + RUN < args.rows)
            tma_store_4d(&args.out, buffer + HALF, m + RUN, work.n0 + c * RUN, work.group, work.piece);
          tma_store_commit();
        }
        turn = turn + 1 == T::STORES ? 0 : turn + 1;
      }
    }
  }

  // ---- db
  template <class T>
  static __device__ __forceinline__ int helpers(const WgmmaArgs& args) {
    return args.sums != nullptr ? T::BN / Backward::COLUMNS<T> : 0;
  }
  // A lane has two neighbouring filters, of which it adds every LANES-th pixel of a step, all steps; in the end the
  // lanes of the same filters are added. (More filters a lane would be more registers than there are.)
  template <class T>
  static __device__ __forceinline__ void help(const WgmmaArgs& args, WgmmaBarriers<T>& barriers,
                                              unsigned char* stages) {
    constexpr int SPAN = Backward::SPAN<T>, COLUMNS = Backward::COLUMNS<T>, PAIRS = COLUMNS / 2,
                  LANES = 32 / PAIRS;
    static_assert(T::BN / COLUMNS <= 3 && PAIRS >= 16, "warps beside the producer; a lane for each filter");
    const int block = static_cast<int>(threadIdx.x) / 32 - T::CONSUMERS * T::WARPGROUP / 32 - 1;
    if (block >= helpers<T>(args)) return;
    const int lane = threadIdx.x % 32;
    RingPlace<T::STAGES> place;
    for (int index = blockIdx.x; index < args.work; index += gridDim.x) {
      const WgmmaWork work = wgmma_work<T>(args, index);
      float sum[2] = {0.f, 0.f};
      for (int step = work.begin; step < work.end; ++step) {
        mbarrier_wait(&barriers.full[place.stage], place.parity);
        if (work.m0 == 0) {
          const unsigned char* dy =
              stages + place.stage * T::STAGE_BYTES + T::A_BYTES + block * Backward::BLOCK_BYTES<T>;
          for (int pixel = lane / PAIRS; pixel < T::BK; pixel += LANES) {
            const int at = pixel * SPAN + lane % PAIRS * 4, swizzled = at ^ (at / 128 % (SPAN / 16)) * 16;
            const uint32_t pair = *reinterpret_cast<const uint32_t*>(dy + swizzled);
            sum[0] += from_bf16(static_cast<uint16_t>(pair));
            sum[1] += from_bf16(static_cast<uint16_t>(pair >> 16));
          }
        }
        __syncwarp();
        if (lane == 0) mbarrier_arrive(&barriers.empty[place.stage]);
        place.advance();
      }
      if (work.m0 != 0) continue;
      float* const to = args.sums + work.piece * args.piece + work.group * (args.shape.k / args.shape.groups);
      PCN_UNROLL_ON_DEVICE
      for (int e = 0; e < 2; ++e) PCN_UNROLL_ON_DEVICE
      for (int other = PAIRS; other < 32; other *= 2) sum[e] += __shfl_xor_sync(0xffffffffu, sum[e], other);
      PCN_UNROLL_ON_DEVICE
      for (int first = 0; first < COLUMNS; first += 32) {  // neighbouring lanes, neighbouring filters
        const int from = (first + lane) / 2, filter = work.n0 + block * COLUMNS + first + lane;
        const float even = __shfl_sync(0xffffffffu, sum[0], from),
                    odd = __shfl_sync(0xffffffffu, sum[1], from);
        if (filter < args.shape.k / args.shape.groups) to[filter] = lane % 2 == 0 ? even : odd;
      }
    }
  }
};

}  // namespace pcn::conv
