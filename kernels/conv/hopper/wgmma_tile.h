// The tile of a convolution on sm_90a, out[m, n] = sum_k pixels[m, k] filters[n, k], which all conv2d_*_wgmma*
// kernels share. Operands are Bf16, or float multiplied as TF32. At stride 1 dgrad is such a convolution, too: of dy,
// with filters turned round, whose channels have become the columns (Backward below). In wgrad filters and pixels have
// changed places (Weights in hopper/weights.h): rows are weights, columns filters, and the reduction runs over pixels.
//
// A block stays and takes one tile after the other (persistent). Its warps have roles. One thread, the producer,
// brings both operands by TMA into a ring of STAGES steps of up to 128 bytes along the reduction: pixels through an
// im2col map, which walks output pixels for a fixed filter tap (a tiled map where filters are single pixels), filters
// through a tiled one. Two warpgroups, the consumers, multiply by wgmma straight from shared memory, each its half of
// the tile's rows; the registers that the producer's warpgroup gives back are theirs. Then each of them adds bias and
// rectifies, or masks, rounds, and leaves its rows by TMA, 64 rows and up to 128 bytes of columns at a time, while the
// producer is steps ahead in the next tile.
//
// Barriers: full[s] counts the bytes of stage s that have landed, empty[s] the 8 warps that have multiplied it. A stage's
// parity turns each time that the ring has turned round; the producer waits for the parity before, which a fresh barrier
// counts as passed.
// Shared memory is 128-byte swizzled: chunk c of 16 bytes of row r lies at c ^ r % 8, as wgmma's descriptors and the maps
// have it, also where a step or a row of outputs has 96 bytes of the 128 (48 channels of Bf16: a tower's in AlexNet).
// What lies outside tensors, TMA reads as zeros and does not write; so ragged tiles need no code. A group is an offset of
// channels: no step reaches over the group's end, so a NaN of the other group does not come in.
//
// Order of tiles: columns, groups, rows, pieces of the reduction, columns fastest. The 132 blocks that run side by side
// share the pixels of a few image rows, and all filters, which for AlexNet's layers are in L2 anyway.
// The last ones, which do not fill a wave, blocks may share, and then do so first (stream_k.h).
//
// Device code, for 90a alone; wgmma_kernel.h has the kernel, which hopper/fprop.h, dgrad.h and wgrad.h instantiate. What is
// said above of producer and ring is its: halo.h and weights_tf32.h bring their operands otherwise.
#pragma once
#include "common/device.h"
#include "common/element.h"
#include "common/primitives.h"
#include "common/tensor_map.h"
#include "conv/gemm_tile.h"
#include "conv/hopper/ring.h"
#include "conv/hopper/stream_k.h"

namespace pcn::conv {

// What tiles of wgmma have in common: rows and columns, elements of a step, element type.
template <int BM_, int BN_, int BK_, class E>
struct WgmmaProducts {
  using Element = E;
  static constexpr int BM = BM_, BN = BN_, BK = BK_;
  static constexpr int ROW_BYTES = 128, WARPGROUP = 128, CONSUMERS = 2;
  static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP;
  // A thread's at first, and what three threads, one of each warpgroup, make of theirs. 512 would be all; the 32 that are
  // left take a warp of the update (sgd_momentum_beside), without which no parameter is updated during backward. (__launch_bounds__ would give all.)
  static constexpr int REGISTERS = 160, PRODUCER_REGISTERS = 32, CONSUMER_REGISTERS = 224;
  static_assert(PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS <= (CONSUMERS + 1) * REGISTERS &&
                    (CONSUMERS + 1) * REGISTERS + 32 <= 512,
                "of 16384 a quarter of a multiprocessor has");
  static constexpr int PARTS = BM / (64 * CONSUMERS);             // of 64 rows, which a consumer has
  static constexpr int STORE_BYTES = 64 * ROW_BYTES, STORES = 2;  // what a consumer's outputs pass through
  static_assert(PARTS >= 1 && BM == PARTS * 64 * CONSUMERS && BN % 8 == 0 && BN <= 256, "shapes of wgmma");
  static_assert(PARTS * BN <= 384, "sums that fit into the registers");

  // Columns of an output of type Out that pass at once: 128 or 96 bytes, without remainder.
  template <class Out>
  static constexpr int WHOLE = ROW_BYTES / static_cast<int>(sizeof(Out));
  template <class Out>
  static constexpr int STORE_COLUMNS = BN % WHOLE<Out> == 0 ? WHOLE<Out> : WHOLE<Out> / 4 * 3;
  static_assert(BN % STORE_COLUMNS<E> == 0 && BN % STORE_COLUMNS<float> == 0, "columns of 128 or 96 bytes");
  // Products by which odd rows of outputs are ahead (wgmma_store).
  template <class Out>
  static constexpr int AHEAD = sizeof(Out) == 4 && STORE_COLUMNS<Out> % 32 == 0 ? 2 : 0;
  // d = a b or, with `accumulate`, d += a b: 64 x BN outputs, 32 bytes along the reduction. A, B: how they lie.
  template <Major A, Major B>
  static __device__ __forceinline__ void product(float (&d)[BN / 2], uint64_t a, uint64_t b, int accumulate) {
    static_assert((A == Major::kK && B == Major::kK) || std::is_same<E, Bf16>::value, "TF32 is K-major");
    if constexpr (std::is_same<E, Bf16>::value)
      wgmma_m64k16_bf16<BN, A, B>(d, a, b, accumulate);
    else
      wgmma_m64k8_tf32<BN>(d, a, b, accumulate);
  }
};

// And stages of a ring that bring both operands, 128 bytes along the reduction.
template <int BM, int BN, int BK, int STAGES_, class E = float>
struct WgmmaTile : WgmmaProducts<BM, BN, BK, E> {
  using P = WgmmaProducts<BM, BN, BK, E>;
  static constexpr bool HALO = false, TRANSPOSES = false;
  static constexpr int STAGES = STAGES_;
  static constexpr int A_BYTES = BM * P::ROW_BYTES, STAGE_BYTES = (BM + BN) * P::ROW_BYTES;
  static constexpr std::size_t SHARED_BYTES =  // the swizzle begins at multiples of 1024
      1024 + std::size_t{STAGES} * STAGE_BYTES + P::CONSUMERS * P::STORES * P::STORE_BYTES;
  static_assert(BK * sizeof(E) == P::ROW_BYTES, "a step is a row of the swizzle");
  static_assert(STAGES >= 3, "a step being multiplied, one waited for and one on its way");
  static_assert(SHARED_BYTES + 16 * STAGES + 16 + 8 * BN <= 227 * 1024, "what a block may have");
};

// What a launch is told; the maps are made by the host.
struct WgmmaOperands {
  // pixels   (channels, W, H, N), im2col; or (channels, pixels)
  // filters  (channels of a group, S, R, filters), as the layer has them
  TensorMap pixels, filters;
  const float* bias;  // or null; Forward
  const void* mask;   // like out, or null; Backward
  Conv2dShape shape;  // of the convolution that is computed
  int relu;
  int chunks, channels;  // steps a filter tap, channels a step; Weights: blocks a tap
  int n_tiles, work;     // tiles of a group's columns; of all groups and pieces, but those that are shared
  StreamK stream_k;
};
struct WgmmaArgs : WgmmaOperands {
  // out (columns of a group, groups, rows, pieces)
  // Weights: pixels of x; filters (filters, pixels), which is dy; out (rows, columns of a group, groups, pieces)
  TensorMap out;
  float* sums;             // of dy, or null; Weights
  long long piece;         // floats from a piece's sums to the next one's; Weights
  int single;              // filters of one pixel: the map of pixels is tiled
  int pieces;              // the results are float and incomplete
  int rows, m_tiles;       // outputs and tiles of a group
  int steps, piece_steps;  // of the reduction, of a piece of it
};

// The columns of a tile.
struct WgmmaColumns {
  int group, n0;
};
struct WgmmaWork : WgmmaColumns {
  int m0, piece, begin, end;  // steps [begin, end)
};
template <class T>
__device__ __forceinline__ WgmmaWork wgmma_work(const WgmmaArgs& args, int index) {
  const int n = index % args.n_tiles;
  index /= args.n_tiles;
  const int group = index % args.shape.groups;
  index /= args.shape.groups;
  const int m = index % args.m_tiles, piece = index / args.m_tiles;
  const int begin = piece * args.piece_steps;
  return {{group, n * T::BN}, m * T::BM, piece, begin, min(begin + args.piece_steps, args.steps)};
}
template <class T, bool SHARES>
__device__ __forceinline__ WgmmaWork wgmma_work(const WgmmaArgs& args, const BlockWork<SHARES>& block) {
  WgmmaWork work = wgmma_work<T>(args, block.tile);
  block.narrow(work.begin, work.end);
  return work;
}

template <class T>
struct WgmmaBarriers {
  uint64_t full[T::STAGES], empty[T::STAGES];
  BlockStart start;
  alignas(16) float bias[T::CONSUMERS][T::BN];  // BiasAndRelu's
};

// Where a thread's outputs lie among 64 rows: columns pair and pair + 1 of every 8, rows row and row + 8.
template <class T>
struct OutputPlace {
  int thread, row, pair;
  __device__ __forceinline__ OutputPlace()
      : thread(threadIdx.x % T::WARPGROUP), row(thread / 32 * 16 + thread % 32 / 4), pair(thread % 4 * 2) {}
};

// ---- what fprop and dgrad have each for itself: how filters come into shared memory, what becomes of a sum
template <class T, class Side>
struct TapSteps;

// What they have in common. Rows are pixels: K-major, 128 bytes each.
struct PixelRows {
  static constexpr Major A_MAJOR = Major::kK;
  static constexpr bool PLAIN = false;  // whether filters come without a swizzle
  static constexpr bool SHARES = true;  // whether blocks may share tiles (stream_k.h)
  // Steps of a round of a consumer's loop: 8 products, of 128 rows as of 256.
  template <class T>
  static constexpr int ROUND = T::PARTS == 1 ? 2 : 1;
  // What a descriptor has more from a product of a step to the next: 32 bytes.
  template <class T>
  static constexpr int A_PRODUCT = 2;
  template <class T>
  static __device__ __forceinline__ uint64_t a_descriptor(uint32_t address) {
    return wgmma_descriptor(address);
  }
  // Of the producer's other three warps: how many give stages back, and what they do.
  template <class T>
  static __device__ __forceinline__ int helpers(const WgmmaArgs&) {
    return 0;
  }
  template <class T>
  static __device__ __forceinline__ void help(const WgmmaArgs&, WgmmaBarriers<T>&, unsigned char*) {}
  // What becomes of a consumer's sums: wgmma_store below.
  template <class T, class Finish>
  static __device__ __forceinline__ void store(const WgmmaArgs& args, const float (&acc)[T::PARTS][T::BN / 2],
                                               const WgmmaWork& work, int warpgroup, unsigned char* buffers,
                                               int& turn, Finish& finish);
};

// The bias of a tile's columns, which a consumer's threads put into shared memory, 0 where there is none; and ReLU.
template <class T>
struct BiasAndRelu {
  const float* bias;
  int relu;
  __device__ __forceinline__ BiasAndRelu(const WgmmaOperands& args, const WgmmaColumns& work, float* own)
      : bias(own), relu(args.relu) {
    const int columns = args.shape.k / args.shape.groups, first = work.group * columns + work.n0;
    PCN_UNROLL_ON_DEVICE
    for (int column = threadIdx.x % T::WARPGROUP; column < T::BN; column += T::WARPGROUP)
      own[column] =
          args.bias != nullptr && work.n0 + column < columns ? __ldg(args.bias + first + column) : 0.f;
    named_barrier_sync(1 + threadIdx.x / T::WARPGROUP, T::WARPGROUP);
  }
  template <class Rows>
  __device__ __forceinline__ void begin(const Rows&) {}
  template <class Out>
  __device__ __forceinline__ void pair(float (&v)[2], int column, int) const {
    const float2 add = *reinterpret_cast<const float2*>(bias + column);
    v[0] += add.x, v[1] += add.y;
    PCN_UNROLL_ON_DEVICE
    for (int e = 0; e < 2; ++e)
      if (relu != 0) v[e] = v[e] < 0.f ? 0.f : v[e];  // keeps NaN
  }
};

// Columns are filters. In shared memory a row is a filter's 128 bytes along the reduction: K-major.
struct Forward : PixelRows {
  static constexpr Major MAJOR = Major::kK;
  static constexpr bool NARROW = true;  // whether steps of 96 bytes are compiled
  template <class T>
  static constexpr int SPAN = T::BK * static_cast<int>(sizeof(typename T::Element));
  template <class T>
  static constexpr int PRODUCT = 2;  // as A_PRODUCT
  template <class T>
  using Steps = TapSteps<T, Forward>;
  template <class T>
  using Finish = BiasAndRelu<T>;

  template <class T>
  static __device__ __forceinline__ uint64_t descriptor(uint32_t address) {
    return wgmma_descriptor(address, 8 * SPAN<T>, SPAN<T>);
  }
  // A step's filters: from channel c of the group on, of a tap.
  template <class T>
  static __device__ __forceinline__ void load(const WgmmaOperands& args, const WgmmaColumns& work,
                                              unsigned char* b, uint64_t* full, int c, int tap_w, int tap_h) {
    const int filter = work.group * (args.shape.k / args.shape.groups) + work.n0;
    tma_load_4d(b, &args.filters, full, c, tap_w, tap_h, filter);
  }
};

// The mask of 64 rows, in a bit for each of a thread's outputs, which is 0 where the mask is not positive: read while
// the last products are made, it takes 2 to 4 registers where numbers would not fit beside 192 sums. The four lanes that
// have a row's outputs read 8 columns each, of every 32, and tell each other.
template <class T>
struct ReluBits {
  using E = typename T::Element;
  static constexpr int PRODUCTS = T::BN / 8, WORDS = (PRODUCTS + 15) / 16;  // 2 bits of each product
  const WgmmaOperands& args;
  int column0, columns;
  uint32_t bits[2][WORDS];
  __device__ __forceinline__ ReluBits(const WgmmaOperands& args_, const WgmmaColumns& work, float*)
      : args(args_),
        column0(work.group * (args_.shape.k / args_.shape.groups) + work.n0),
        columns(args_.shape.k / args_.shape.groups - work.n0) {}
  // rows(r): which row of the mask the r-th of 64 has; of those that do not exist, any.
  template <class Rows>
  __device__ __forceinline__ void begin(const Rows& rows) {
    const OutputPlace<T> place;
    const int ahead = place.row % 2 * T::template AHEAD<E>;  // of odd rows, see wgmma_store
    PCN_UNROLL_ON_DEVICE
    for (int half = 0; half < 2; ++half) PCN_UNROLL_ON_DEVICE
    for (int word = 0; word < WORDS; ++word) {
      uint32_t& mine = bits[half][word];
      mine = ~0u;
      if (args.mask == nullptr) continue;
      const int row = rows(place.row + 8 * half);
      const uint32_t read = read_columns(row * args.shape.k + column0, word, place.pair * 4);
      mine = 0;
      PCN_UNROLL_ON_DEVICE
      for (int lane = 0; lane < 4; ++lane)
        mine |= (__shfl_sync(0xffffffffu, read, lane ^ ahead, 4) >> place.pair & 0x03030303u) << 2 * lane;
    }
  }
  // 8 columns of every 32 of a word's 128, from `first` on, a byte each.
  __device__ __forceinline__ uint32_t read_columns(int row, int word, int first) const {
    constexpr int N = PER_ACCESS<E>;
    uint32_t read = 0;
    PCN_UNROLL_ON_DEVICE
    for (int at = 0; at < 32; at += N) {
      const int run = word * 128 + at / 8 * 32, column = run + first + at % 8;
      if (run >= T::BN) continue;
      float v[N] = {};
      if (column < columns) load_constant(v, static_cast<const E*>(args.mask) + (row + column));
      PCN_UNROLL_ON_DEVICE
      for (int e = 0; e < N; ++e)
        if (!(v[e] <= 0.f)) read |= 1u << (at + e);
    }
    return read;
  }
  // Pieces are masked when they have been added.
  template <class Out>
  __device__ __forceinline__ void pair(float (&v)[2], int, int index) const {
    if constexpr (std::is_same<Out, E>::value) {
      const uint32_t both = bits[index % 2][index / 32] >> index / 2 * 2 % 32;
      v[0] = (both & 1) != 0 ? v[0] : 0.f;
      v[1] = (both & 2) != 0 ? v[1] : 0.f;
    }
  }
};

// dgrad. The convolution is of dy; its channels are the layer's filters, its columns the layer's channels, and its tap
// (r, s) is the layer's (R - 1 - r, S - 1 - s). w[k][r][s][c] is not transposed for it. In shared memory a row has as
// many columns as the swizzle has room for, 64, 32 or 16, of one k: MN-major. Blocks of such rows, one for each k of
// the step, lie one behind the other.
struct Backward : PixelRows {
  static constexpr Major MAJOR = Major::kMN;
  static constexpr bool NARROW = false;
  template <class T>
  static constexpr int SPAN = T::BN % 64 == 0   ? 128
                              : T::BN % 32 == 0 ? 64
                                                : 32;  // bytes of a row, all filled
  template <class T>
  static constexpr int COLUMNS = SPAN<T> / static_cast<int>(sizeof(typename T::Element));
  template <class T>
  static constexpr int BLOCK_BYTES = T::BK * SPAN<T>;
  template <class T>
  static constexpr int PRODUCT = 16 * SPAN<T> / 16;  // 16 rows
  template <class T>
  using Steps = TapSteps<T, Backward>;
  template <class T>
  using Finish = ReluBits<T>;

  template <class T>
  static __device__ __forceinline__ uint64_t descriptor(uint32_t address) {
    return wgmma_descriptor(address, 8 * SPAN<T>, SPAN<T>, BLOCK_BYTES<T>);
  }
  template <class T>
  static __device__ __forceinline__ void load(const WgmmaOperands& args, const WgmmaColumns& work,
                                              unsigned char* b, uint64_t* full, int c, int tap_w, int tap_h) {
    const Conv2dShape& s = args.shape;
    const int filter = work.group * (s.c / s.groups) + c;
    PCN_UNROLL_ON_DEVICE
    for (int block = 0; block < T::BN / COLUMNS<T>; ++block)
      tma_load_4d(b + block * BLOCK_BYTES<T>, &args.filters, full, work.n0 + block * COLUMNS<T>,
                  s.s - 1 - tap_w, s.r - 1 - tap_h, filter);
  }
};

// The steps of a tile of pixels: a filter's taps, of each its channels.
template <class T, class Side>
struct TapSteps {
  const WgmmaArgs& args;
  const WgmmaWork& work;
  int w, h, n, chunk, tap_w, tap_h;
  __device__ __forceinline__ TapSteps(const WgmmaArgs& args_, const WgmmaWork& work_)
      : args(args_), work(work_) {
    const Conv2dShape& s = args.shape;
    const int q = work.m0 % s.q, np = work.m0 / s.q, tap = work.begin / args.chunks;
    w = q * s.stride_w - s.pad_w, h = np % s.p * s.stride_h - s.pad_h, n = np / s.p;
    chunk = work.begin % args.chunks, tap_w = tap % s.s, tap_h = tap / s.s;
  }
  __device__ __forceinline__ void load(unsigned char* a, uint64_t* full) const {
    const int group_channels = args.shape.c / args.shape.groups;
    const int c = chunk * args.channels, channel = work.group * group_channels + c;
    if (args.single != 0)
      tma_load_2d(a, &args.pixels, full, channel, work.m0);
    else
      tma_load_im2col_4d(a, &args.pixels, full, channel, w, h, n, static_cast<uint16_t>(tap_w),
                         static_cast<uint16_t>(tap_h));
    Side::template load<T>(args, work, a + T::A_BYTES, full, c, tap_w, tap_h);
  }
  __device__ __forceinline__ void advance() {
    if (++chunk == args.chunks) {
      chunk = 0;
      if (++tap_w == args.shape.s) tap_w = 0, ++tap_h;
    }
  }
};

// Two neighbouring outputs of a row, as they lie in a store's buffer; `column` of the buffer is even.
__device__ __forceinline__ void put_pair(unsigned char* row, int row_in_8, int column, float a, float b,
                                         Bf16*) {
  const uint32_t pair = static_cast<uint32_t>(to_bf16(a)) | static_cast<uint32_t>(to_bf16(b)) << 16;
  *reinterpret_cast<uint32_t*>(row + ((column / 8 ^ row_in_8) * 16 + column % 8 * 2)) = pair;
}
__device__ __forceinline__ void put_pair(unsigned char* row, int row_in_8, int column, float a, float b,
                                         float*) {
  *reinterpret_cast<float2*>(row + ((column / 4 ^ row_in_8) * 16 + column % 4 * 4)) = make_float2(a, b);
}

// 64 of a consumer's sums' rows, `columns` of them from column c * COLUMNS on, finished and put into a buffer. Where pairs
// are of floats, rows 2 i and 2 i + 1 of a product have their 8 columns in the same banks; so odd rows are two products ahead.
template <class T, class Out, class Finish>
__device__ __forceinline__ void put_outputs(unsigned char* buffer, const float (&acc)[T::BN / 2], int c,
                                            const Finish& finish) {
  constexpr int COLUMNS = T::template STORE_COLUMNS<Out>, PRODUCTS = COLUMNS / 8;
  constexpr int AHEAD = T::template AHEAD<Out>;
  const OutputPlace<T> place;
  const int ahead = place.row % 2 * AHEAD;
  PCN_UNROLL_ON_DEVICE
  for (int j = 0; j < PRODUCTS; ++j) {
    const int within = 8 * (j ^ ahead) + place.pair;
    PCN_UNROLL_ON_DEVICE
    for (int half = 0; half < 2; ++half) {
      float v[2];
      PCN_UNROLL_ON_DEVICE
      for (int e = 0; e < 2; ++e) {
        const int at = 4 * c * PRODUCTS + 2 * half + e;
        v[e] = ahead == 0 ? acc[at + 4 * j] : acc[at + 4 * (j ^ AHEAD)];
      }
      finish.template pair<Out>(v, c * COLUMNS + within, 2 * (c * PRODUCTS + j) + half);
      put_pair(buffer + (place.row + 8 * half) * T::ROW_BYTES, place.row % 8, within, v[0], v[1],
               static_cast<Out*>(nullptr));
    }
  }
}

// A consumer's sums of a part of a tile, as they are: rows of BN, of which those that exist() are written.
template <class T, class Exists>
__device__ __forceinline__ void put_part(float* part, const float (&acc)[T::PARTS][T::BN / 2], int warpgroup,
                                         const Exists& exists) {
  const OutputPlace<T> place;
  float* const to = part + (warpgroup * T::PARTS * 64 + place.row) * T::BN + place.pair;
  PCN_UNROLL_ON_DEVICE
  for (int of = 0; of < T::PARTS; ++of) PCN_UNROLL_ON_DEVICE
  for (int half = 0; half < 2; ++half) {
    if (!exists(of * 64 + half * 8 + place.row)) continue;
    PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < T::BN / 8; ++j)
      *reinterpret_cast<float2*>(to + (of * 64 + half * 8) * T::BN + j * 8) =
          make_float2(acc[of][4 * j + 2 * half], acc[of][4 * j + 2 * half + 1]);
  }
}

// Row r of the 64 from m on, which the last one stands for where they end.
struct RowsFrom {
  int m, last;
  __device__ __forceinline__ int operator()(int r) const { return min(m + r, last); }
};

// A consumer's outputs of a tile, through its buffers, of which `turn` is the next.
template <class T, class Out, class Finish>
__device__ __forceinline__ void wgmma_store(const WgmmaArgs& args, const float (&acc)[T::PARTS][T::BN / 2],
                                            const WgmmaWork& work, int warpgroup, unsigned char* buffers,
                                            int& turn, Finish& finish) {
  constexpr int COLUMNS = T::template STORE_COLUMNS<Out>;
  const int group_filters = args.shape.k / args.shape.groups;
  const int thread = threadIdx.x % T::WARPGROUP;
  PCN_UNROLL_ON_DEVICE
  for (int part = 0; part < T::PARTS; ++part) {
    const int m = work.m0 + (warpgroup * T::PARTS + part) * 64;
    if constexpr (std::is_same<Out, typename T::Element>::value)
      if (part > 0) finish.begin(RowsFrom{m, args.rows - 1});
    PCN_UNROLL_ON_DEVICE
    for (int c = 0; c < T::BN / COLUMNS; ++c) {
      if (m >= args.rows || work.n0 + c * COLUMNS >= group_filters) continue;  // nothing of it exists
      unsigned char* buffer = buffers + turn * T::STORE_BYTES;
      if (thread == 0) tma_store_wait_read<T::STORES - 1>();  // what left through this buffer has been read
      named_barrier_sync(1 + warpgroup, T::WARPGROUP);
      put_outputs<T, Out>(buffer, acc[part], c, finish);
      fence_proxy_async();  // what TMA reads has been written by threads
      named_barrier_sync(1 + warpgroup, T::WARPGROUP);
      if (thread == 0) {
        tma_store_4d(&args.out, buffer, work.n0 + c * COLUMNS, work.group, m, work.piece);
        tma_store_commit();
      }
      turn = turn + 1 == T::STORES ? 0 : turn + 1;
    }
  }
}

template <class T, class Finish>
__device__ __forceinline__ void PixelRows::store(const WgmmaArgs& args,
                                                 const float (&acc)[T::PARTS][T::BN / 2],
                                                 const WgmmaWork& work, int warpgroup, unsigned char* buffers,
                                                 int& turn, Finish& finish) {
  if constexpr (std::is_same<typename T::Element, Bf16>::value) {
    if (args.pieces == 0) return wgmma_store<T, Bf16>(args, acc, work, warpgroup, buffers, turn, finish);
  }
  wgmma_store<T, float>(args, acc, work, warpgroup, buffers, turn, finish);
}

}  // namespace pcn::conv
