// A convolution at stride 1 on sm_90a whose taps share what one load brings: the products, sums and outputs of
// wgmma_tile.h, of which pixels lie in shared memory once for all of a filter's taps, with the halo that its windows reach.
//
// A tile's consumers have a strip each: up to `strip_rows` rows of one image's outputs. In shared memory its pixels are rows of
// `pitch` positions, from `pad_w` pixels left of the image on, of which outside the image TMA makes zeros; what a window
// reaches right of the image are the zeros left of the next row. Output p of a strip is at row p / pitch and column p % pitch, and
// its window's tap (r, s) at position p + r pitch + s: a number that is added to an address, so that any 64 positions
// that follow each other are rows of a product. Columns behind the image's last one, and rows behind the strip's, are
// multiplied in vain and not stored.
//
// Pixels lie in planes of 16 bytes of channels, one behind the other: K-major without swizzle, whose rows of 8 x 16 bytes may begin
// at any position (128-byte swizzle wants the first of 8). Each plane is a tiled load of its own. So L2, which reads 32
// bytes, is asked twice for a pixel, and no more: of 25 taps 2 where an im2col map asks 25 times.
//
// Two threads are producers: one brings a step of channels of both strips, into two buffers in turns, the other the filters of a
// tap and step, through a ring of STAGES. Consumers take for each step of channels all taps. Where blocks share a tile (stream_k.h), a
// part may begin and end at any tap; both parts bring the pixels of that step of channels.
//
// Outputs leave by a warp for each consumer, through shared memory, 16 bytes a lane: a strip's rows do not end where 64
// positions do, so that no map can tell which of them are outputs. Their consumer begins the next tile meanwhile.
//
// Order of tiles: columns, groups, strips, columns fastest, as in wgmma_tile.h.
#pragma once
#include "conv/hopper/wgmma_kernel.h"

namespace pcn::conv {

// Positions of both strips and columns of a tile, elements of a step of channels, stages of the filters' ring, element type.
template <int BM, int BN, int BK, int STAGES_, class E = float>
struct HaloTile : WgmmaProducts<BM, BN, BK, E> {
  using P = WgmmaProducts<BM, BN, BK, E>;
  static constexpr bool HALO = true, TRANSPOSES = false;
  static constexpr int STAGES = STAGES_, BUFFERS = 2;
  static constexpr int POSITIONS = BM / P::CONSUMERS;  // of a strip
  static constexpr int CHUNK = 16 / sizeof(E);         // channels of a plane
  static constexpr int FILTER_BYTES = BN * BK * static_cast<int>(sizeof(E));
  // Shared memory but for the pixels, whose extent a launch decides; and all that a block takes, barriers aside.
  static constexpr std::size_t FIXED_BYTES =
      1024 + STAGES * FILTER_BYTES + P::CONSUMERS * P::STORES * P::STORE_BYTES;
  static constexpr std::size_t SHARED_BYTES = 225 * 1024;
  static_assert(FILTER_BYTES % 1024 == 0, "where swizzles begin");
  static_assert(STAGES >= 3, "a step being multiplied, one waited for and one on its way");
};

using HaloBlock = BlockWork<true>;
struct HaloArgs : WgmmaOperands {
  void* out;
  int pitch, strip_rows, strips;  // strips of an image
  int box, plane;                 // positions of a plane that a load brings, and that lie between planes
  uint32_t per_pitch;  // 2^20 / pitch, rounded up: p / pitch is p per_pitch / 2^20 for p and pitch to 1023
};

// A tile, its columns and the first of its strips; its steps, taps of a step of channels, all or a part of them.
struct HaloWork : WgmmaColumns {
  int strip, begin, end;
};
template <class T>
__device__ __forceinline__ HaloWork halo_work(const HaloArgs& args, const HaloBlock& block) {
  int index = block.tile;
  const int n = index % args.n_tiles;
  index /= args.n_tiles;
  const int groups = args.shape.groups;
  HaloWork work = {{index % groups, n * T::BN}, index / groups * T::CONSUMERS, 0, args.stream_k.steps};
  block.narrow(work.begin, work.end);
  return work;
}

// A strip: its image and first row of outputs. Behind the last image there are zeros, and no outputs.
struct Strip {
  const HaloArgs& args;
  int image, row;
  __device__ __forceinline__ Strip(const HaloArgs& args_, int strip)
      : args(args_), image(strip / args_.strips), row(strip % args_.strips * args_.strip_rows) {}
  // The output at a position, as a row of (N P Q, K); -1: there is none.
  __device__ __forceinline__ int output(int position) const {
    const int down = static_cast<int>(static_cast<uint32_t>(position) * args.per_pitch >> 20);
    const int q = position - down * args.pitch, p = row + down;
    const bool exists =
        q < args.shape.q && down < args.strip_rows && p < args.shape.p && image < args.shape.n;
    return exists ? (image * args.shape.p + p) * args.shape.q + q : -1;
  }
};
// The outputs of 64 positions of a strip, from `first` on: the first image's first where there is none.
struct StripRows {
  const Strip& strip;
  int first;
  __device__ __forceinline__ int operator()(int r) const { return max(strip.output(first + r), 0); }
};

template <class T>
struct HaloBarriers {
  uint64_t full[T::STAGES], empty[T::STAGES];  // of filters
  uint64_t pixels_full[T::BUFFERS], pixels_empty[T::BUFFERS];
  BlockStart start;
  alignas(16) float bias[T::CONSUMERS][T::BN];  // BiasAndRelu's
};
// Where shared memory has what, in bytes from its start: filters, pixels, what outputs pass through.
template <class T, int KS>
struct HaloLayout {
  static constexpr int PLANES = 2 * KS;  // of a step
  int strip, buffer;
  __device__ __forceinline__ explicit HaloLayout(const HaloArgs& args)
      : strip(PLANES * args.plane * 16), buffer(T::CONSUMERS * strip) {}
  static constexpr int PIXELS = T::STAGES * T::FILTER_BYTES;
  __device__ __forceinline__ int outputs(int warpgroup) const {
    return PIXELS + T::BUFFERS * buffer + warpgroup * T::STORES * T::STORE_BYTES;
  }
};

// The producer of pixels: the steps of channels of all the block's tiles, as fast as buffers fall empty.
template <class T, int KS>
__device__ __forceinline__ void halo_produce_pixels(const HaloArgs& args, HaloBarriers<T>& barriers,
                                                    unsigned char* shared_memory) {
  const HaloLayout<T, KS> layout(args);
  const Conv2dShape& s = args.shape;
  const int taps = s.r * s.s;
  RingPlace<T::BUFFERS> buffer;
  for (HaloBlock block(args.stream_k, args.work, barriers.start); block.more(); block.advance()) {
    const HaloWork work = halo_work<T>(args, block);
    for (int chunk = work.begin / taps; chunk * taps < work.end; ++chunk) {
      mbarrier_wait(&barriers.pixels_empty[buffer.stage], buffer.parity ^ 1);
      uint64_t* full = &barriers.pixels_full[buffer.stage];
      mbarrier_arrive_expect_tx(full, T::CONSUMERS * layout.PLANES * args.box * 16);
      unsigned char* to = shared_memory + layout.PIXELS + buffer.stage * layout.buffer;
      for (int of = 0; of < T::CONSUMERS; ++of) {
        const Strip strip(args, work.strip + of);
        int channel = work.group * (s.c / s.groups) + chunk * args.channels;
        for (int plane = 0; plane < layout.PLANES; ++plane, channel += T::CHUNK, to += args.plane * 16)
          tma_load_4d(to, &args.pixels, full, channel, -s.pad_w, strip.row - s.pad_h, strip.image);
      }
      buffer.advance();
    }
  }
}

// The producer of filters: for each step of channels all taps.
template <class T, class Side, int KS>
__device__ __forceinline__ void halo_produce_filters(const HaloArgs& args, HaloBarriers<T>& barriers,
                                                     unsigned char* filters) {
  RingPlace<T::STAGES> place;
  for (HaloBlock block(args.stream_k, args.work, barriers.start); block.more(); block.advance()) {
    const HaloWork work = halo_work<T>(args, block);
    const int taps = args.shape.r * args.shape.s, first = work.begin % taps;
    int chunk = work.begin / taps, tap_h = first / args.shape.s, tap_w = first % args.shape.s;
    for (int left = work.end - work.begin; left > 0; --left) {
      mbarrier_wait(&barriers.empty[place.stage], place.parity ^ 1);
      uint64_t* full = &barriers.full[place.stage];
      mbarrier_arrive_expect_tx(full, KS * 32 * T::BN);
      Side::template load<T>(args, work, filters + place.stage * T::FILTER_BYTES, full, chunk * args.channels,
                             tap_w, tap_h);
      place.advance();
      if (++tap_w == args.shape.s) tap_w = 0, ++tap_h;
      if (tap_h == args.shape.r) tap_h = 0, ++chunk;
    }
  }
}

// Outputs of a strip pass from its consumer to a warp of the producers' through two buffers in turns. Who has done with
// one, in writing or in reading, waits for the other, so that a buffer is written while the one before is read.
template <class T>
__device__ __forceinline__ void halo_pass(int warpgroup) {
  named_barrier_sync(1 + T::CONSUMERS + warpgroup, T::WARPGROUP + 32);
}

// The consumer's side.
template <class T, class Finish>
__device__ __forceinline__ void halo_put(const float (&acc)[T::PARTS][T::BN / 2], const Strip& strip,
                                         int columns, int warpgroup, unsigned char* buffers, int& turn,
                                         Finish& finish) {
  using E = typename T::Element;
  constexpr int COLUMNS = T::template STORE_COLUMNS<E>;
  PCN_UNROLL_ON_DEVICE
  for (int part = 0; part < T::PARTS; ++part) {
    if (part > 0) finish.begin(StripRows{strip, part * 64});
    PCN_UNROLL_ON_DEVICE
    for (int c = 0; c < T::BN / COLUMNS; ++c) {
      if (c * COLUMNS >= columns) continue;  // nothing of it exists
      put_outputs<T, E>(buffers + turn * T::STORE_BYTES, acc[part], c, finish);
      turn ^= 1;
      halo_pass<T>(warpgroup);
    }
  }
}

// The warp's: all strips of its consumer, 16 bytes a lane.
template <class T>
__device__ __forceinline__ void halo_store(const HaloArgs& args, HaloBarriers<T>& barriers,
                                           const unsigned char* buffers, int warpgroup) {
  using E = typename T::Element;
  constexpr int COLUMNS = T::template STORE_COLUMNS<E>, CHUNKS = COLUMNS / T::CHUNK;
  const int group_columns = args.shape.k / args.shape.groups;
  int turn = 0;
  for (HaloBlock block(args.stream_k, args.work, barriers.start); block.more(); block.advance()) {
    const HaloWork work = halo_work<T>(args, block);
    if (block.sharing()) continue;  // its sums do not come this way
    const Strip strip(args, work.strip + warpgroup);
    PCN_NO_UNROLL
    for (int part = 0; part < T::PARTS; ++part) {
      for (int c = 0; c < T::BN / COLUMNS && work.n0 + c * COLUMNS < group_columns; ++c) {
        halo_pass<T>(warpgroup);
        const unsigned char* buffer = buffers + turn * T::STORE_BYTES;
        turn ^= 1;
        PCN_NO_UNROLL
        for (int i = threadIdx.x % 32; i < 64 * 8; i += 32) {  // 8 lanes a row: without bank conflicts
          const int row = i / 8, chunk = i % 8;
          const int output = strip.output(part * 64 + row);
          const int column = work.n0 + c * COLUMNS + chunk * T::CHUNK;
          if (chunk >= CHUNKS || output < 0 || column >= group_columns) continue;
          E* const to = static_cast<E*>(args.out) + static_cast<std::int64_t>(output) * args.shape.k;
          *reinterpret_cast<uint4*>(to + work.group * group_columns + column) =
              *reinterpret_cast<const uint4*>(buffer + row * T::ROW_BYTES + (chunk ^ row % 8) * 16);
        }
        __syncwarp();  // a named barrier is one instruction of a whole warp
      }
    }
  }
}

// A consumer: multiplies what has landed, one step behind in giving filters and pixels back, and stores.
template <class T, class Side, int KS>
__device__ __forceinline__ void halo_consume(const HaloArgs& args, HaloBarriers<T>& shared_barriers,
                                             unsigned char* shared_memory) {
  const HaloLayout<T, KS> layout(args);
  const int warpgroup = own_warpgroup<T>();
  const uint64_t filters =
      __shfl_sync(0xffffffffu, Side::template descriptor<T>(shared_address(shared_memory)), 0);
  const uint64_t pixels = wgmma_descriptor(
      shared_address(shared_memory) + layout.PIXELS + warpgroup * layout.strip, 128, 0, args.plane * 16);
  HaloBarriers<T>& barriers = *kept_shared(&shared_barriers);
  unsigned char* outputs = shared_memory + layout.outputs(warpgroup);
  const int along_k = 2 * args.plane;  // from product to product, in the units of a descriptor
  RingPlace<T::STAGES> place;
  RingPlace<T::BUFFERS> buffer;
  int turn = 0;
  float acc[T::PARTS][T::BN / 2];
  for (HaloBlock block(args.stream_k, args.work, shared_barriers.start); block.more(); block.advance()) {
    const HaloWork work = halo_work<T>(args, block);
    uint64_t* before = barriers.empty;          // of the step before
    uint64_t* emptied = barriers.pixels_empty;  // of the step of channels before
    int accumulate = 0;                         // whether there was one
    const int taps = args.shape.r * args.shape.s;
    int tap = work.begin % taps, tap_w = tap % args.shape.s;  // of a step of channels
    int offset = tap / args.shape.s * args.pitch + tap_w;
    for (int left = work.end - work.begin; left > 0;) {
      const int stop = max(left + tap - taps, 0);  // what is left behind this step of channels
      uint64_t a = further(pixels, buffer.stage * layout.buffer / 16 + offset);
      mbarrier_wait(&barriers.pixels_full[buffer.stage], buffer.parity);
      int first = accumulate;  // whether there was a step of channels before; 0 behind this one's first tap
      for (; left > stop; --left) {
        const uint64_t b = further(filters, place.stage * (T::FILTER_BYTES / 16));
        mbarrier_wait(&barriers.full[place.stage], place.parity);
        wgmma_fence();
        PCN_UNROLL_ON_DEVICE
        for (int ks = 0; ks < KS; ++ks) PCN_UNROLL_ON_DEVICE
        for (int part = 0; part < T::PARTS; ++part)
          T::template product<Major::kK, Side::MAJOR>(acc[part], further(a, ks * along_k + part * 64),
                                                      b + Side::template PRODUCT<T> * ks, ks || accumulate);
        wgmma_commit();
        wgmma_wait<1>();
        if (accumulate) release(before);
        if (first) release(emptied);
        accumulate = 1, first = 0;
        before = &barriers.empty[place.stage];
        place.advance();
        a = further(a, 1);
        if (++tap_w == args.shape.s) tap_w = 0, a = further(a, args.pitch - args.shape.s);
      }
      tap = 0, offset = 0;
      emptied = &barriers.pixels_empty[buffer.stage];
      buffer.advance();
    }
    const Strip strip(args, work.strip + warpgroup);
    typename Side::template Finish<T> finish(args, work, shared_barriers.bias[warpgroup]);
    finish.begin(StripRows{strip, 0});  // while the last products are made
    wgmma_wait<0>(acc);
    release(before);
    release(emptied);
    if (block.sharing()) {
      put_part<T>(block.sums(T::BM * T::BN), acc, warpgroup,
                  [&](int position) { return strip.output(position) >= 0; });
      continue;
    }
    halo_put<T>(acc, strip, args.shape.k / args.shape.groups - work.n0, warpgroup, outputs, turn, finish);
  }
}

// What lies between a load's end and the next plane is multiplied in vain.
template <class T, int KS>
__device__ __forceinline__ void halo_gaps(const HaloArgs& args, const unsigned char* shared_memory) {
  using Layout = HaloLayout<T, KS>;
  for (int plane = 0; plane < T::BUFFERS * T::CONSUMERS * Layout::PLANES; ++plane)
    read_in_vain(shared_memory + Layout::PIXELS + (plane * args.plane + args.box) * 16,
                 (args.plane - args.box) * 16);
}

// Side: Forward, Backward or Turned of hopper/dgrad.h. KS: products of 32 bytes a step.
template <class T, class Side, int KS>
__global__ void __maxnreg__(T::REGISTERS) halo_kernel(const __grid_constant__ HaloArgs args) {
  HaloBarriers<T>& barriers = shared<HaloBarriers<T>>();
  unsigned char* shared_memory = dynamic_shared<unsigned char>();
  shared_memory += (1024 - (shared_address(shared_memory) & 1023)) & 1023;
  constexpr int PRODUCER = T::CONSUMERS * T::WARPGROUP;
  if (threadIdx.x == 0) {
    PCN_UNROLL_ON_DEVICE
    for (int stage = 0; stage < T::STAGES; ++stage) {
      mbarrier_init(&barriers.full[stage], 1);
      mbarrier_init(&barriers.empty[stage], PRODUCER / 32);
    }
    PCN_UNROLL_ON_DEVICE
    for (int buffer = 0; buffer < T::BUFFERS; ++buffer) {
      mbarrier_init(&barriers.pixels_full[buffer], 1);
      mbarrier_init(&barriers.pixels_empty[buffer], PRODUCER / 32);
    }
    fence_mbarrier_init();
    barriers.start.find(args.stream_k, args.work);
    halo_gaps<T, KS>(args, shared_memory);
  } else if (threadIdx.x == PRODUCER) {
    for (const TensorMap* map : {&args.pixels, &args.filters}) prefetch_tensor_map(map);
  }
  __syncthreads();
  if (threadIdx.x >= PRODUCER) {
    setmaxnreg_dec<T::PRODUCER_REGISTERS>();
    if (threadIdx.x == PRODUCER)
      halo_produce_pixels<T, KS>(args, barriers, shared_memory);
    else if (threadIdx.x == PRODUCER + 32)
      halo_produce_filters<T, Side, KS>(args, barriers, shared_memory);
    else if (threadIdx.x >= PRODUCER + 64)
      halo_store<T>(args, barriers,
                    shared_memory + HaloLayout<T, KS>(args).outputs((threadIdx.x - PRODUCER) / 32 - 2),
                    (threadIdx.x - PRODUCER) / 32 - 2);
  } else {
    setmaxnreg_inc<T::CONSUMER_REGISTERS>();
    halo_consume<T, Side, KS>(args, barriers, shared_memory);
  }
}

}  // namespace pcn::conv
