// dgrad of float on sm_90a, multiplied as TF32, of filters that are transposed on the way: what fully connected layers take, whose
// filters are too many to be turned by a pass of their own (turn_filters.h). The convolution is that of Backward in
// wgmma_tile.h. As in weights_tf32.h three warps transpose what the producer has brought, here w[k][r][s][c], 32 channels
// of one k a row, into rows of 32 k, which wgmma takes; pixels lie as they are multiplied.
#pragma once
#include "conv/hopper/weights_tf32.h"

namespace pcn::conv {

// Filters as Backward brings them, but for a swizzle.
struct BackwardTf32 : Backward {
  static constexpr bool PLAIN = true;
  static constexpr bool SHARES = false;
  template <class T>
  using Steps = TapSteps<T, BackwardTf32>;
  template <class T>
  static constexpr int ROUND = 1;  // the warps that transpose give back no stage that passes empty
  static __device__ __forceinline__ int pixel_of(int k) { return k; }  // as pixels lie

  // A consumer: see wgmma_consume.
  template <class T>
  static __device__ __forceinline__ void consume(const WgmmaArgs& args,
                                                 TransposingBarriers<T>& shared_barriers,
                                                 unsigned char* stages, unsigned char* columns) {
    const int warpgroup = own_warpgroup<T>();
    constexpr int ROWS = 64 * T::ROW_BYTES / 16;  // in the units of a descriptor
    const uint64_t pixels = wgmma_descriptor(shared_address(stages)) + warpgroup * (T::PARTS * ROWS);
    const uint64_t filters = __shfl_sync(0xffffffffu, wgmma_descriptor(shared_address(columns)), 0);
    TransposingBarriers<T>& barriers = *kept_shared(&shared_barriers);
    unsigned char* buffers = stages + T::STAGES * T::STAGE_BYTES + warpgroup * T::STORES * T::STORE_BYTES;
    RingPlace<T::STAGES> place;
    RingPlace<T::BUFFERS> buffer;
    int turn = 0;
    float acc[T::PARTS][T::BN / 2];
    for (int index = blockIdx.x; index < args.work; index += gridDim.x) {
      const WgmmaWork work = wgmma_work<T>(args, index);
      uint64_t *before = barriers.empty, *columns_before = barriers.columns_empty;  // of the step before
      int accumulate = 0;                                                           // whether there was one
      for (int left = work.end - work.begin; left > 0; --left) {
        const uint64_t a = further(pixels, place.stage * (T::STAGE_BYTES / 16));
        const uint64_t b = further(filters, buffer.stage * (T::BUFFER_BYTES / 16));
        mbarrier_wait(&barriers.full[place.stage], place.parity);
        mbarrier_wait(&barriers.columns_full[buffer.stage], buffer.parity);
        wgmma_fence();
        PCN_UNROLL_ON_DEVICE
        for (int ks = 0; ks < 4; ++ks) PCN_UNROLL_ON_DEVICE
        for (int part = 0; part < T::PARTS; ++part)
          T::template product<Major::kK, Major::kK>(acc[part], a + (part * ROWS + 2 * ks), b + 2 * ks,
                                                    ks || accumulate);
        wgmma_commit();
        wgmma_wait<1>();
        if (accumulate) release(before), release(columns_before);
        accumulate = 1;
        before = &barriers.empty[place.stage], columns_before = &barriers.columns_empty[buffer.stage];
        place.advance();
        buffer.advance();
      }
      ReluBits<T> finish(args, work, nullptr);
      finish.begin(
          RowsFrom{work.m0 + warpgroup * T::PARTS * 64, args.rows - 1});  // while the last products are made
      wgmma_wait<0>(acc);
      release(before), release(columns_before);
      PixelRows::store<T>(args, acc, work, warpgroup, buffers, turn, finish);
    }
    if (threadIdx.x % T::WARPGROUP == 0) tma_store_wait_read<0>();  // shared memory ends with the block
  }
};

}  // namespace pcn::conv
