// wgrad of float on sm_90a, multiplied as TF32: the product of weights.h, of operands that lie across the reduction, where
// wgmma takes TF32 along it alone. Neither operand is copied for it in global memory.
//
// x passes through registers: a consumer's threads read what has landed, 4 numbers of 8 pixels for a product of 64 weights,
// as wgmma takes its first operand. dy is transposed in shared memory, by the three warps beside the producer, which read 32 filters of
// a pixel at a time, a lane each, and write four pixels of a filter: rows of 128 bytes along the reduction, swizzled, in two
// buffers in turns. They also add up db: a lane has what it needs for it in its registers. dy therefore lands as it is, and
// what they write is raised(); x is rounded by TMA.
//
// Which of 8 pixels of a step is which along the reduction is free, as long as both operands agree. The order is one in which
// the 4 pixels of 8 channels that a warp reads at once lie in 32 different banks (pixel_of).
//
// A step is 32 pixels, in two halves: while one is multiplied the other one's weights come into registers, so that tensor
// cores have the next products before the last ones are done.
#pragma once
#include "conv/hopper/weights.h"

namespace pcn::conv {

// Rows and columns, pixels of a step, stages.
template <int BM, int BN, int BK, int STAGES>
struct TransposingTile : WgmmaTile<BM, BN, BK, STAGES> {
  using Ring = WgmmaTile<BM, BN, BK, STAGES>;
  // 32 would spill what the warps that transpose have.
  static constexpr int PRODUCER_REGISTERS = 48, CONSUMER_REGISTERS = 216;
  static_assert(PRODUCER_REGISTERS + 2 * CONSUMER_REGISTERS <= 3 * Ring::REGISTERS, "of all threads");
  static constexpr bool TRANSPOSES = true;
  static constexpr int BLOCKS = BN / 32, WARPS = 3;  // of dy, a lane a filter; that transpose
  static constexpr int BUFFERS = 2, BUFFER_BYTES = BN * Ring::ROW_BYTES;
  static constexpr std::size_t SHARED_BYTES = Ring::SHARED_BYTES + BUFFERS * BUFFER_BYTES;
  static_assert(BN % 32 == 0 && BK == 32, "a row of the swizzle");
  static_assert(SHARED_BYTES + 2048 + 20 * BN <= 227 * 1024, "what a block may have");
};

template <class T>
struct TransposingBarriers : WgmmaBarriers<T> {
  uint64_t columns_full[T::BUFFERS], columns_empty[T::BUFFERS];
  float sums[T::WARPS][T::BN];
};

// CHANNELS of a block of x: 32, rows of 128 bytes, or 16, rows of 64.
template <int CHANNELS_>
struct WeightsTf32 : Weights<CHANNELS_> {
  static constexpr int CHANNELS = CHANNELS_, A_SPAN = CHANNELS * 4;
  template <class T>
  static constexpr int A_BLOCK_BYTES = T::BK * A_SPAN;
  template <class T>
  static constexpr int COLUMNS = 32;
  template <class T>
  static constexpr int SPAN = 128;
  template <class T>
  static constexpr int BLOCK_BYTES = T::BK * SPAN<T>;
  template <class T>
  using Steps = PixelSteps<T, WeightsTf32>;

  // The pixel of 8 that is k-th along the reduction. Swizzled, rows of 128 bytes have the same 32 in different banks if their
  // numbers differ in what is above the last bit, rows of 64 in all but that.
  static __device__ __forceinline__ int pixel_of(int k) {
    return A_SPAN == 128 ? k % 4 * 2 + k / 4 : k % 2 + k % 4 / 2 * 4 + k / 4 * 2;
  }
  template <class T>
  static __device__ __forceinline__ void consume(const WgmmaArgs& args, TransposingBarriers<T>& barriers,
                                                 unsigned char* stages, unsigned char* columns);
};

// A thread's part of the fragments of 64 weights and 8 pixels: where its four numbers lie in the blocks of x.
template <class T, class Side>
struct WeightFragment {
  static constexpr int PART_BYTES = 64 / Side::CHANNELS * Side::template A_BLOCK_BYTES<T>;
  static constexpr int GROUP_BYTES = 8 * Side::A_SPAN;  // of 8 pixels
  int at[4];
  __device__ __forceinline__ WeightFragment() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    PCN_UNROLL_ON_DEVICE
    for (int i = 0; i < 4; ++i) {
      const int channel = warp * 16 + lane / 4 + i % 2 * 8, pixel = Side::pixel_of(lane % 4 + i / 2 * 4);
      const int in_block = pixel * Side::A_SPAN + channel % Side::CHANNELS * 4;
      at[i] = channel / Side::CHANNELS * Side::template A_BLOCK_BYTES<T> +
              (in_block ^ (in_block / 128 % (Side::A_SPAN / 16)) * 16);
      at[i] = __shfl_sync(0xffffffffu, at[i], lane);  // lest the compiler make it anew in every step
    }
  }
  // Two groups of 8 pixels, of all parts.
  __device__ __forceinline__ void read(uint32_t (&a)[2][T::PARTS][4], const unsigned char* x) const {
    PCN_UNROLL_ON_DEVICE
    for (int group = 0; group < 2; ++group) PCN_UNROLL_ON_DEVICE
    for (int part = 0; part < T::PARTS; ++part) PCN_UNROLL_ON_DEVICE
    for (int i = 0; i < 4; ++i)
      a[group][part][i] =
          *reinterpret_cast<const uint32_t*>(x + part * PART_BYTES + group * GROUP_BYTES + at[i]);
  }
};

// The warps that transpose dy and make db of the tiles that have the first weights.
template <class T, class Side>
__device__ __forceinline__ void transpose_filters(const WgmmaArgs& args, TransposingBarriers<T>& barriers,
                                                  const unsigned char* stages, unsigned char* columns) {
  const int warp = threadIdx.x / 32 - T::CONSUMERS * T::WARPGROUP / 32 - 1, lane = threadIdx.x % 32;
  RingPlace<T::STAGES> place;
  RingPlace<T::BUFFERS> buffer;
  for (int index = blockIdx.x; index < args.work; index += gridDim.x) {
    const WgmmaWork steps = wgmma_work<T>(args, index);
    float sums[T::BLOCKS] = {};
    for (int left = steps.end - steps.begin; left > 0; --left) {
      mbarrier_wait(&barriers.full[place.stage], place.parity);
      mbarrier_wait(&barriers.columns_empty[buffer.stage], buffer.parity ^ 1);
      const float* dy =
          reinterpret_cast<const float*>(stages + place.stage * T::STAGE_BYTES + T::A_BYTES) + lane;
      unsigned char* to = columns + buffer.stage * T::BUFFER_BYTES + lane * T::ROW_BYTES;
      PCN_UNROLL_ON_DEVICE
      for (int block = 0; block < T::BLOCKS; ++block) {
        PCN_NO_UNROLL
        for (int four = warp; four < T::BK / 4; four += T::WARPS) {
          const float* from = dy + (four / 2 * 8 + Side::pixel_of(four % 2 * 4)) * 32;
          float v[4];
          PCN_UNROLL_ON_DEVICE
          for (int e = 0; e < 4; ++e) {
            const float exact = from[block * (Side::template BLOCK_BYTES<T> / 4) + Side::pixel_of(e) * 32];
            sums[block] += exact;
            v[e] = __uint_as_float(raised(__float_as_uint(exact)));
          }
          *reinterpret_cast<float4*>(to + block * 32 * T::ROW_BYTES + (four ^ lane % 8) * 16) =
              make_float4(v[0], v[1], v[2], v[3]);
        }
      }
      fence_proxy_async();  // what wgmma reads has been written by threads
      __syncwarp();
      if (lane == 0) {
        mbarrier_arrive(&barriers.columns_full[buffer.stage]);
        mbarrier_arrive(&barriers.empty[place.stage]);
      }
      place.advance();
      buffer.advance();
    }
    if (args.sums == nullptr) continue;
    const WgmmaWork work =
        wgmma_work<T>(args, __shfl_sync(0xffffffffu, index, 0));  // not kept in registers till now
    if (work.m0 != 0) continue;
    const int id = 1 + T::CONSUMERS;
    PCN_UNROLL_ON_DEVICE
    for (int block = 0; block < T::BLOCKS; ++block) barriers.sums[warp][block * 32 + lane] = sums[block];
    named_barrier_sync(id, T::WARPS * 32);
    const int filters = args.shape.k / args.shape.groups;
    float* const to = args.sums + work.piece * args.piece + work.group * filters;
    PCN_NO_UNROLL
    for (int column = warp * 32 + lane; column < min(T::BN, filters - work.n0); column += T::WARPS * 32) {
      float sum = barriers.sums[0][column];
      PCN_UNROLL_ON_DEVICE
      for (int other = 1; other < T::WARPS; ++other) sum += barriers.sums[other][column];
      to[work.n0 + column] = sum;
    }
    __syncwarp();                           // a named barrier is one instruction of a whole warp
    named_barrier_sync(id, T::WARPS * 32);  // they have been read
  }
}

// A consumer: see wgmma_consume.
template <class T, class Side>
__device__ __forceinline__ void transposing_consume(const WgmmaArgs& args,
                                                    TransposingBarriers<T>& shared_barriers,
                                                    unsigned char* stages, unsigned char* columns) {
  using Fragment = WeightFragment<T, Side>;
  const int warpgroup = own_warpgroup<T>();
  const Fragment fragment;
  const unsigned char* const weights = stages + warpgroup * T::PARTS * Fragment::PART_BYTES;
  const uint64_t filters = __shfl_sync(0xffffffffu, wgmma_descriptor(shared_address(columns)), 0);
  TransposingBarriers<T>& barriers = *kept_shared(&shared_barriers);
  unsigned char* buffers = stages + T::STAGES * T::STAGE_BYTES + warpgroup * T::STORES * T::STORE_BYTES;
  RingPlace<T::STAGES> place;
  RingPlace<T::BUFFERS> buffer;
  int turn = 0;
  float acc[T::PARTS][T::BN / 2];
  uint32_t a[2][2][T::PARTS][4];
  for (int index = blockIdx.x; index < args.work; index += gridDim.x) {
    const WgmmaWork work = wgmma_work<T>(args, index);
    uint64_t* before = barriers.columns_empty;  // of the step before
    int accumulate = 0;                         // whether there was one
    for (int left = work.end - work.begin; left > 0; --left) {
      const unsigned char* x = weights + place.stage * T::STAGE_BYTES;
      const uint64_t b = further(filters, buffer.stage * (T::BUFFER_BYTES / 16));
      mbarrier_wait(&barriers.full[place.stage], place.parity);
      PCN_UNROLL_ON_DEVICE
      for (int half = 0; half < 2; ++half) {
        fragment.read(a[half], x + half * 2 * Fragment::GROUP_BYTES);
        if (half == 0) {
          mbarrier_wait(&barriers.columns_full[buffer.stage], buffer.parity);
        } else {
          __syncwarp();
          release(&barriers.empty[place.stage]);  // of x all is in registers
        }
        wgmma_fence(a[half]);
        PCN_UNROLL_ON_DEVICE
        for (int group = 0; group < 2; ++group) PCN_UNROLL_ON_DEVICE
        for (int part = 0; part < T::PARTS; ++part)
          wgmma_m64k8_tf32<T::BN>(acc[part], a[half][group][part], b + 2 * (2 * half + group),
                                  half + group || accumulate);
        wgmma_commit();
        wgmma_wait<1>(a[1 - half]);
        if (half == 0 && accumulate) release(before);
      }
      accumulate = 1;
      before = &barriers.columns_empty[buffer.stage];
      place.advance();
      buffer.advance();
    }
    Transposed<T> finish(args, work, nullptr);
    wgmma_wait<0>(acc);
    release(before);
    Side::template store<T>(args, acc, work, warpgroup, buffers, turn, finish);
  }
  if (threadIdx.x % T::WARPGROUP == 0) tma_store_wait_read<0>();  // shared memory ends with the block
}

template <int CHANNELS>
template <class T>
__device__ __forceinline__ void WeightsTf32<CHANNELS>::consume(const WgmmaArgs& args,
                                                               TransposingBarriers<T>& barriers,
                                                               unsigned char* stages,
                                                               unsigned char* columns) {
  transposing_consume<T, WeightsTf32>(args, barriers, stages, columns);
}

template <class T, class Side>
__global__ void __maxnreg__(T::REGISTERS) transposing_kernel(const __grid_constant__ WgmmaArgs args) {
  TransposingBarriers<T>& barriers = shared<TransposingBarriers<T>>();
  unsigned char* stages = dynamic_shared<unsigned char>();
  stages += (1024 - (shared_address(stages) & 1023)) & 1023;
  unsigned char* columns = stages + T::Ring::SHARED_BYTES - 1024;
  constexpr int WARPS = T::CONSUMERS * T::WARPGROUP / 32;
  if (threadIdx.x == 0) {
    PCN_UNROLL_ON_DEVICE
    for (int stage = 0; stage < T::STAGES; ++stage) {
      mbarrier_init(&barriers.full[stage], 1);
      mbarrier_init(&barriers.empty[stage], WARPS + T::WARPS);
    }
    PCN_UNROLL_ON_DEVICE
    for (int buffer = 0; buffer < T::BUFFERS; ++buffer) {
      mbarrier_init(&barriers.columns_full[buffer], T::WARPS);
      mbarrier_init(&barriers.columns_empty[buffer], WARPS);
    }
    fence_mbarrier_init();
  } else if (threadIdx.x == 32 * WARPS) {
    for (const TensorMap* map : {&args.pixels, &args.filters, &args.out}) prefetch_tensor_map(map);
  }
  __syncthreads();
  if (threadIdx.x >= 32 * WARPS) {
    setmaxnreg_dec<T::PRODUCER_REGISTERS>();
    if (threadIdx.x == 32 * WARPS)
      wgmma_produce<T, Side, 4>(args, barriers, stages);
    else if (threadIdx.x >= 32 * (WARPS + 1))
      transpose_filters<T, Side>(args, barriers, stages, columns);
  } else {
    setmaxnreg_inc<T::CONSUMER_REGISTERS>();
    Side::template consume<T>(args, barriers, stages, columns);
  }
}

}  // namespace pcn::conv
