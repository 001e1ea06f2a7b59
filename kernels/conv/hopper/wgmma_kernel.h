// The kernel of the tile of wgmma_tile.h: what its producer and its consumers do.
//
// Rounds: a consumer's loop has 8 products, of tiles of 128 rows two steps, in stages that lie side by side. They share
// addresses, parity and count; each is waited for and given back by itself, so that the ring holds as much on its way as
// without rounds. Where a tile's steps are odd in number, its last round's second stage passes empty.
#pragma once
#include "conv/hopper/wgmma_tile.h"

namespace pcn::conv {

// The producer: the steps of all the block's tiles, as fast as stages fall empty.
template <class T, class Side, int KS>
__device__ __forceinline__ void wgmma_produce(const WgmmaArgs& args, WgmmaBarriers<T>& barriers,
                                              unsigned char* stages) {
  constexpr int ROUND = Side::template ROUND<T>;
  static_assert(T::STAGES % ROUND == 0, "a round's stages lie side by side");
  RingPlace<T::STAGES> place;
  for (BlockWork<Side::SHARES> block(args.stream_k, args.work, barriers.start); block.more();
       block.advance()) {
    const WgmmaWork work = wgmma_work<T>(args, block);
    typename Side::template Steps<T> steps(args, work);
    const int stages_end =
        work.end + static_cast<unsigned>(work.begin - work.end) % ROUND;  // of whole rounds
    for (int step = work.begin; step < stages_end; ++step) {
      mbarrier_wait(&barriers.empty[place.stage], place.parity ^ 1);
      uint64_t* full = &barriers.full[place.stage];
      if (ROUND == 1 || step < work.end) {
        mbarrier_arrive_expect_tx(full, KS * 32 * (T::BM + T::BN));
        steps.load(stages + place.stage * T::STAGE_BYTES, full);
        steps.advance();
      } else {
        mbarrier_arrive(full);  // nothing comes: the next tile begins with a round's first stage
      }
      place.advance();
    }
  }
}

// A consumer: multiplies what has landed, one step behind in giving stages back, and stores. Filters' descriptor is one
// lane's for all, barriers are kept_shared: of what they are made of, the compiler would make them anew in every round.
template <class T, class Side, int KS>
__device__ __forceinline__ void wgmma_consume(const WgmmaArgs& args, WgmmaBarriers<T>& shared_barriers,
                                              unsigned char* stages) {
  const int warpgroup = own_warpgroup<T>();
  constexpr int ROUND = Side::template ROUND<T>;
  constexpr int ROWS = 64 * T::ROW_BYTES / 16, STAGE = T::STAGE_BYTES / 16;  // in the units of a descriptor
  const uint64_t pixels =
      Side::template a_descriptor<T>(shared_address(stages)) + warpgroup * (T::PARTS * ROWS);
  const uint64_t filters =
      __shfl_sync(0xffffffffu, Side::template descriptor<T>(shared_address(stages) + T::A_BYTES), 0);
  WgmmaBarriers<T>& barriers = *kept_shared(&shared_barriers);
  unsigned char* buffers = stages + T::STAGES * T::STAGE_BYTES + warpgroup * T::STORES * T::STORE_BYTES;
  RingPlace<T::STAGES> place;
  int turn = 0;
  float acc[T::PARTS][T::BN / 2];
  for (BlockWork<Side::SHARES> block(args.stream_k, args.work, shared_barriers.start); block.more();
       block.advance()) {
    const WgmmaWork work = wgmma_work<T>(args, block);
    uint64_t* before = barriers.empty;  // of the stages that the round before has multiplied
    int accumulate = 0;                 // whether there was one
    int left = work.end - work.begin;   // steps
    for (; left > 0; left -= ROUND) {
      const uint64_t a = further(pixels, place.stage * STAGE), b = further(filters, place.stage * STAGE);
      PCN_UNROLL_ON_DEVICE
      for (int later = 0; later < ROUND; ++later) {
        mbarrier_wait(&barriers.full[place.stage + later], place.parity);
        if (later > 0 && left == 1) break;  // the last step is alone in its round: nothing came
        wgmma_fence();
        PCN_UNROLL_ON_DEVICE
        for (int ks = 0; ks < KS; ++ks) PCN_UNROLL_ON_DEVICE
        for (int part = 0; part < T::PARTS; ++part)
          T::template product<Side::A_MAJOR, Side::MAJOR>(
              acc[part], a + (later * STAGE + part * ROWS + Side::template A_PRODUCT<T> * ks),
              b + (later * STAGE + Side::template PRODUCT<T> * ks), ks + later > 0 || accumulate);
        wgmma_commit();
        wgmma_wait<1>();
        if (later > 0)
          release(&barriers.empty[place.stage + later - 1]);
        else if (accumulate)
          release(before + ROUND - 1);
      }
      accumulate = 1;
      before = &barriers.empty[place.stage];
      place.advance(ROUND);
    }
    typename Side::template Finish<T> finish(args, work, shared_barriers.bias[warpgroup]);
    finish.begin(
        RowsFrom{work.m0 + warpgroup * T::PARTS * 64, args.rows - 1});  // while the last products are made
    wgmma_wait<0>(acc);
    if (ROUND > 1 && left < 0) release(before);  // which a second step would have given back
    release(before + ROUND - 1);
    if (block.sharing()) {
      const int first = work.m0 + warpgroup * T::PARTS * 64;
      put_part<T>(block.sums(T::BM * T::BN), acc, warpgroup,
                  [&](int row) { return first + row < args.rows; });
      continue;
    }
    Side::template store<T>(args, acc, work, warpgroup, buffers, turn, finish);
  }
  if (threadIdx.x % T::WARPGROUP == 0) tma_store_wait_read<0>();  // shared memory ends with the block
}

// Side: Forward, Backward, Turned of hopper/dgrad.h or Weights of hopper/weights.h. KS: products of 32 bytes a step, 4 or 3.
template <class T, class Side, int KS>
__global__ void __maxnreg__(T::REGISTERS) wgmma_kernel(const __grid_constant__ WgmmaArgs args) {
  WgmmaBarriers<T>& barriers = shared<WgmmaBarriers<T>>();
  unsigned char* stages = dynamic_shared<unsigned char>();
  stages += (1024 - (shared_address(stages) & 1023)) & 1023;
  if (threadIdx.x == 0) {
    PCN_UNROLL_ON_DEVICE
    for (int stage = 0; stage < T::STAGES; ++stage) {
      mbarrier_init(&barriers.full[stage], 1);
      mbarrier_init(&barriers.empty[stage],
                    T::CONSUMERS * T::WARPGROUP / 32 + Side::template helpers<T>(args));
    }
    fence_mbarrier_init();
    if (Side::SHARES) barriers.start.find(args.stream_k, args.work);
  } else if (threadIdx.x == T::CONSUMERS * T::WARPGROUP) {
    for (const TensorMap* map : {&args.pixels, &args.filters, &args.out}) prefetch_tensor_map(map);
  }
  __syncthreads();
  if (threadIdx.x >= T::CONSUMERS * T::WARPGROUP) {
    setmaxnreg_dec<T::PRODUCER_REGISTERS>();
    if (threadIdx.x == T::CONSUMERS * T::WARPGROUP)
      wgmma_produce<T, Side, KS>(args, barriers, stages);
    else if (threadIdx.x >= T::CONSUMERS * T::WARPGROUP + 32)
      Side::template help<T>(args, barriers, stages);
  } else {
    setmaxnreg_inc<T::CONSUMER_REGISTERS>();
    wgmma_consume<T, Side, KS>(args, barriers, stages);
  }
}

}  // namespace pcn::conv
