// The tile of a matrix product out[m, n] = sum_k a[m, k] b[n, k] on tensor cores, which all conv2d_*_mma*
// kernels share. Operands are float, multiplied as TF32, or Bf16.
//
// A block computes BM x BN outputs in steps of BK along the reduction, 64 or 128 bytes. Both operands travel
// by cp.async into a ring of STAGES steps in shared memory: while one step is multiplied, the next STAGES - 1
// are on their way, and one barrier a step is enough. Each warp owns WM x WN outputs, made of m16n8k8 (TF32)
// or m16n8k16 (Bf16) products, 32 bytes along the reduction: all that is counted in chunks of 16 bytes is
// the same for both types. The operands of the next 32 bytes are read from shared memory while the present
// ones are multiplied.
//
// Precision. Products of Bf16 are exact. Operands that are float32 in memory become TF32 in registers,
// rounded by raised() of elements.h, which halves the error of the hardware's own truncation and frees it of bias. With
// PRODUCTS = 3 each operand is the sum of two TF32 numbers, the nearest ones (cvt.rna), big = tf32(x) and
// small = tf32(x - big), and
//   a b = small big + big small + big big      (small small is below float32's own rounding)
// is summed over 8 terms from zero and then added to the float32 accumulator by an ordinary, rounded
// addition: tensor cores cut off the bits of a sum that do not fit, and over a long reduction these losses,
// all of one sign, would add up. An infinite operand gives NaN there (infinity minus infinity).
//
// Device code; kernels include it through mma_fprop.h, mma_dgrad.h or mma_wgrad.h.
#pragma once
#include "common/device.h"
#include "common/primitives.h"
#include "conv/gemm_extent.h"
#include "conv/gemm_tile.h"

namespace pcn::conv {

// Elements of a chunk: what a thread copies at once, and a row of what ldmatrix calls a matrix.
template <class E>
constexpr int kChunk = 16 / static_cast<int>(sizeof(E));

// An operand contiguous along the reduction: SIDE rows of BK elements. The chunks of a row are permuted by
// XOR with the row's number (its pair's, where two rows fill the 32 banks), so that eight rows at one k,
// which is what a phase of ldmatrix reads, lie in different banks, and so do the eight chunks that cp.async
// writes.
template <class E, int SIDE, int BK>
struct AlongTile {
  static constexpr int CHUNKS = BK / kChunk<E>;
  static_assert(CHUNKS == 4 || CHUNKS == 8, "the swizzle is made for 4 or 8 chunks a row");
  static constexpr int ELEMENTS = SIDE * BK;
  static __device__ __forceinline__ int at(int row, int chunk) {
    return row * BK + (CHUNKS == 8 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) * kChunk<E>;
  }
  // Fragments of the warp's rows from `first` (a multiple of 8) at chunk 2 * ks along the reduction; see
  // "m16n8k8" and "m16n8k16" in the PTX ISA.
  static __device__ __forceinline__ void read_a(uint32_t (&a)[4], const E* tile, int first, int ks) {
    const int lane = threadIdx.x % 32;  // matrices: rows 0-7, rows 8-15, the same one chunk further
    ldmatrix_x4(a, tile + at(first + lane % 16, 2 * ks + lane / 16));
  }
  template <int COUNT>
  static __device__ __forceinline__ void read_b(uint32_t (&b)[COUNT][2], const E* tile, int first, int ks) {
    static_assert(COUNT % 2 == 0, "one ldmatrix.x4 serves two products");
    const int lane = threadIdx.x % 32;  // matrices: one chunk, the next one, the same eight rows further
    PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < COUNT; j += 2) {
      uint32_t r[4];
      ldmatrix_x4(r, tile + at(first + 8 * j + lane / 16 * 8 + lane % 8, 2 * ks + lane / 8 % 2));
      b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
    }
  }
};

// An operand contiguous across the reduction: BK rows k of SIDE elements.
template <class E, int SIDE, int BK>
struct AcrossTile;

// Of float, rows are padded by 8. A warp's 32-bit read of 4 rows and 8 columns then meets banks 8 (or 24) *
// row + column: each bank once. (ldmatrix transposes 16-bit elements only.)
template <int SIDE, int BK>
struct AcrossTile<float, SIDE, BK> {
  static constexpr int STRIDE = SIDE + 8;
  static constexpr int ELEMENTS = BK * STRIDE;
  static_assert(STRIDE % 32 == 8 || STRIDE % 32 == 24, "bank-conflict-free fragments");
  static __device__ __forceinline__ int at(int k, int column) { return k * STRIDE + column; }
  static __device__ __forceinline__ void read_a(uint32_t (&a)[4], const float* tile, int first, int ks) {
    const int lane = threadIdx.x % 32;
    const float* mine = tile + at(8 * ks + lane % 4, first + lane / 4);
    a[0] = __float_as_uint(mine[0]);
    a[1] = __float_as_uint(mine[8]);
    a[2] = __float_as_uint(mine[4 * STRIDE]);
    a[3] = __float_as_uint(mine[4 * STRIDE + 8]);
  }
  template <int COUNT>
  static __device__ __forceinline__ void read_b(uint32_t (&b)[COUNT][2], const float* tile, int first,
                                                int ks) {
    const int lane = threadIdx.x % 32;
    const float* mine = tile + at(8 * ks + lane % 4, first + lane / 4);
    PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < COUNT; ++j) {
      b[j][0] = __float_as_uint(mine[8 * j]);
      b[j][1] = __float_as_uint(mine[8 * j + 4 * STRIDE]);
    }
  }
};

// Of Bf16, ldmatrix.trans reads 8 rows k of one chunk of columns. Rows are padded by one chunk, an odd number
// of chunks then: 8 consecutive rows at one column lie in different banks. (A permutation by XOR would need
// no padding, but SIDEs that are powers of 2, and an address of its own for every fragment.)
template <int SIDE, int BK>
struct AcrossTile<Bf16, SIDE, BK> {
  static constexpr int STRIDE = SIDE + 8;
  static constexpr int ELEMENTS = BK * STRIDE;
  static_assert(STRIDE / 8 % 2 == 1 && SIDE % 16 == 0, "bank-conflict-free fragments");
  static __device__ __forceinline__ int at(int k, int column) { return k * STRIDE + column; }
  static __device__ __forceinline__ void read_a(uint32_t (&a)[4], const Bf16* tile, int first, int ks) {
    const int lane = threadIdx.x % 32;  // matrices: columns 0-7, columns 8-15, the same eight rows k further
    ldmatrix_x4_trans(a, tile + at(16 * ks + lane / 16 * 8 + lane % 8, first + lane / 8 % 2 * 8));
  }
  template <int COUNT>
  static __device__ __forceinline__ void read_b(uint32_t (&b)[COUNT][2], const Bf16* tile, int first,
                                                int ks) {
    static_assert(COUNT % 2 == 0, "one ldmatrix.x4 serves two products");
    const int lane = threadIdx.x % 32;  // matrices: rows k 0-7, rows k 8-15, the same eight columns further
    const Bf16* mine = tile + at(16 * ks + lane % 16, first + lane / 16 * 8);
    PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < COUNT; j += 2) {
      uint32_t r[4];
      ldmatrix_x4_trans(r, mine + 8 * j);
      b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
    }
  }
};

template <int BM_, int BN_, int BK_, int WM_, int WN_, int STAGES_, class E = float>
struct MmaTile {
  using Element = E;
  static constexpr int BM = BM_, BN = BN_, BK = BK_, WM = WM_, WN = WN_, STAGES = STAGES_;
  static constexpr int WARPS_N = BN / WN;
  static constexpr int THREADS = 32 * (BM / WM) * WARPS_N;
  // Blocks a multiprocessor is to hold: eight warps. More would limit the registers so that some spill.
  static constexpr int MIN_CTAS = THREADS > 128 ? 1 : 2;
  static constexpr int MI = WM / 16, NI = WN / 8;  // products a warp makes at a time
  static_assert(BM % WM == 0 && BN % WN == 0 && WM % 16 == 0 && WN % 16 == 0, "warps cover the tile");
  static_assert(STAGES >= 3, "a step being multiplied and two on their way");

  // Where this thread's outputs lie: rows row(i, half), columns column(j) and the next one.
  static __device__ __forceinline__ int warp_row() { return threadIdx.x / 32 / WARPS_N * WM; }
  static __device__ __forceinline__ int warp_column() { return threadIdx.x / 32 % WARPS_N * WN; }
  static __device__ __forceinline__ int row(int i, int half) {
    return warp_row() + 16 * i + 8 * half + threadIdx.x % 32 / 4;
  }
  static __device__ __forceinline__ int column(int j) { return warp_column() + 8 * j + threadIdx.x % 4 * 2; }
  // The same tile for PRODUCTS = 3, which hold so many more values at a time: warps of half the outputs.
  static constexpr bool kWide = WM * WN > 64 * 32, kHalveN = WN % 32 == 0;
  using Narrow =
      MmaTile<BM, BN, BK, kWide && !kHalveN ? WM / 2 : WM, kWide && kHalveN ? WN / 2 : WN, STAGES, Element>;
  template <int PRODUCTS>
  using For = typename std::conditional<PRODUCTS == 1, MmaTile, Narrow>::type;
  // For the estimate of the time; mma_info() adds the rate of the tensor cores to the efficiency.
  static constexpr TileInfo info(double efficiency) {
    return {BM, BN, BK, THREADS, MIN_CTAS, efficiency, std::is_same<E, Bf16>::value ? 9. : 4.5};
  }
};

template <class T, class TileA, class TileB>
constexpr std::size_t ring_bytes() {
  constexpr std::size_t bytes = sizeof(typename T::Element) * T::STAGES * (TileA::ELEMENTS + TileB::ELEMENTS);
  static_assert(bytes <= 96 * 1024,
                "what a block may have on every device with tensor cores, sm_86 included");
  return bytes;
}

// acc += a b, 32 bytes along the reduction. The next fragments are read meanwhile: read_a(i) when a[i] has
// been used and may be overwritten, read_b() at the start or, with PRODUCTS = 3, when b may be.
template <class T, int PRODUCTS, class ReadA, class ReadB>
__device__ __forceinline__ void multiply_fragments(float (&acc)[T::MI][T::NI][4], uint32_t (&a)[T::MI][4],
                                                   uint32_t (&b)[T::NI][2], ReadA read_a, ReadB read_b) {
  if constexpr (PRODUCTS == 1) read_b();
  if constexpr (std::is_same<typename T::Element, Bf16>::value) {
    static_assert(PRODUCTS == 1, "products of Bf16 are exact");
    PCN_UNROLL_ON_DEVICE
    for (int i = 0; i < T::MI; ++i) {
      PCN_UNROLL_ON_DEVICE
      for (int j = 0; j < T::NI; ++j) mma_m16n8k16_bf16(acc[i][j], a[i], b[j]);
      read_a(i);
    }
  } else if constexpr (PRODUCTS == 1) {
    PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < T::NI; ++j) PCN_UNROLL_ON_DEVICE
    for (int e = 0; e < 2; ++e) b[j][e] = raised(b[j][e]);
    PCN_UNROLL_ON_DEVICE
    for (int i = 0; i < T::MI; ++i) {
      PCN_UNROLL_ON_DEVICE
      for (int e = 0; e < 4; ++e) a[i][e] = raised(a[i][e]);
      PCN_UNROLL_ON_DEVICE
      for (int j = 0; j < T::NI; ++j) mma_m16n8k8_tf32(acc[i][j], a[i], b[j]);
      read_a(i);
    }
  } else {
    uint32_t b_big[T::NI][2], b_small[T::NI][2];
    PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < T::NI; ++j) PCN_UNROLL_ON_DEVICE
    for (int e = 0; e < 2; ++e) {
      const float x = __uint_as_float(b[j][e]);
      b_big[j][e] = to_tf32(x);
      b_small[j][e] = to_tf32(x - __uint_as_float(b_big[j][e]));
    }
    read_b();
    PCN_UNROLL_ON_DEVICE
    for (int i = 0; i < T::MI; ++i) {
      uint32_t a_big[4], a_small[4];
      PCN_UNROLL_ON_DEVICE
      for (int e = 0; e < 4; ++e) {
        const float x = __uint_as_float(a[i][e]);
        a_big[e] = to_tf32(x);
        a_small[e] = to_tf32(x - __uint_as_float(a_big[e]));
      }
      read_a(i);
      float sum[T::NI][4];
      PCN_UNROLL_ON_DEVICE
      for (int j = 0; j < T::NI; ++j) {
        PCN_UNROLL_ON_DEVICE
        for (int e = 0; e < 4; ++e) sum[j][e] = 0.f;
        mma_m16n8k8_tf32(sum[j], a_small, b_big[j]);
      }
      PCN_UNROLL_ON_DEVICE
      for (int j = 0; j < T::NI; ++j) mma_m16n8k8_tf32(sum[j], a_big, b_small[j]);
      PCN_UNROLL_ON_DEVICE
      for (int j = 0; j < T::NI; ++j) mma_m16n8k8_tf32(sum[j], a_big, b_big[j]);
      PCN_UNROLL_ON_DEVICE
      for (int j = 0; j < T::NI; ++j) PCN_UNROLL_ON_DEVICE
      for (int e = 0; e < 4; ++e) acc[i][j][e] += sum[j][e];
    }
  }
}

// For mma_multiply: nothing is done with an operand beside the product.
struct NothingElse {
  static __device__ constexpr bool wanted() { return false; }
  template <class E>
  __device__ __forceinline__ void operator()(const E*) const {}
};

// acc = sum over `steps` steps. A loader's fetch(tile) starts the copies of its next step, zeros where there
// is nothing. also(tile) looks at each step of a in shared memory, if also.wanted(), which is alike in all
// threads of a block.
template <class T, int PRODUCTS, class TileA, class TileB, class LoadA, class LoadB, class Also = NothingElse>
__device__ __forceinline__ void mma_multiply(float (&acc)[T::MI][T::NI][4], LoadA& load_a, LoadB& load_b,
                                             int steps, Also&& also = {}) {
  PCN_UNROLL_ON_DEVICE
  for (int i = 0; i < T::MI; ++i) PCN_UNROLL_ON_DEVICE
  for (int j = 0; j < T::NI; ++j) PCN_UNROLL_ON_DEVICE
  for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.f;
  if (steps == 0) return;  // the whole block: a stride's phase that no filter tap meets

  using E = typename T::Element;
  constexpr int STAGE = TileA::ELEMENTS + TileB::ELEMENTS, KS = T::BK / (2 * kChunk<E>);
  E* const ring = dynamic_shared<E>();
  int into = 0, from = 0;  // offsets in the ring: where the next step goes, where the present one is read
  const auto fetch = [&](bool exists) {
    if (exists) {
      load_a.fetch(ring + into);
      load_b.fetch(ring + into + TileA::ELEMENTS);
    }
    cp_async_commit();  // also where there is nothing, so that groups and steps count alike
    into = into == (T::STAGES - 1) * STAGE ? 0 : into + STAGE;
  };
  PCN_UNROLL_ON_DEVICE
  for (int s = 0; s < T::STAGES - 1; ++s) fetch(s < steps);

  constexpr int BUFFERS = PRODUCTS == 1 ? 2 : 1;  // of b; what three products are made of are copies already
  uint32_t a[T::MI][4], b[BUFFERS][T::NI][2];
  const int m = T::warp_row(), n = T::warp_column();
  cp_async_wait<T::STAGES - 2>();
  __syncthreads();
  PCN_UNROLL_ON_DEVICE
  for (int i = 0; i < T::MI; ++i) TileA::read_a(a[i], ring, m + 16 * i, 0);
  TileB::read_b(b[0], ring + TileA::ELEMENTS, n, 0);
  const auto multiply = [&](int step, int ks) {
    if (ks == KS - 1) {
      // The next step has landed, and every warp has read the last of this one, whose place the fetch of
      // the next round overwrites.
      cp_async_wait<T::STAGES - 2>();
      __syncthreads();
      // After the last step its own first fragments are read again, in vain: a condition would cost more.
      if (step + 1 < steps) from = from == (T::STAGES - 1) * STAGE ? 0 : from + STAGE;
    }
    if (ks == 0) fetch(step + T::STAGES - 1 < steps);
    multiply_fragments<T, PRODUCTS>(
        acc, a, b[ks % BUFFERS], [&](int i) { TileA::read_a(a[i], ring + from, m + 16 * i, (ks + 1) % KS); },
        [&] { TileB::read_b(b[(ks + 1) % BUFFERS], ring + from + TileA::ELEMENTS, n, (ks + 1) % KS); });
  };
  // A loop of its own where there is more to do, so that blocks without pay nothing.
  const auto all_steps = [&](auto with) {
    for (int step = 0; step < steps; ++step) {
      if constexpr (decltype(with)::value) also(ring + from);
      if constexpr (BUFFERS == 1) {  // more at a time, and some of these spill
        PCN_NO_UNROLL
        for (int ks = 0; ks < KS; ks += 2) multiply(step, ks), multiply(step, ks + 1);
      } else {
        PCN_UNROLL_ON_DEVICE
        for (int ks = 0; ks < KS; ++ks) multiply(step, ks);
      }
    }
  };
  if (also.wanted())
    all_steps(std::true_type{});
  else
    all_steps(std::false_type{});
}

// Stores 2 columns of one product, from `column`, and the same 2 of the next product, 8 columns further, with
// the lane's neighbour: the two exchange what they hold, and the even lane stores 4 columns of the first
// product, the odd one 4 of the second, so that four lanes fill a sector of 32 bytes. All lanes of a warp
// must come; start, limit: as for mma_store.
__device__ __forceinline__ void store_sector(const float* first, const float* second, int column, Bf16* out,
                                             const Bf16* mask, long long start, int limit) {
  const auto pack = [](const float* v) {
    return static_cast<uint32_t>(to_bf16(v[0])) | static_cast<uint32_t>(to_bf16(v[1])) << 16;
  };
  const bool odd = threadIdx.x % 2 != 0;
  const uint32_t left = pack(first), right = pack(second);  // chosen as values: the sums have no address
  const uint32_t keep = odd ? right : left, give = odd ? left : right;
  const uint32_t taken = __shfl_xor_sync(0xffffffffu, give, 1);
  uint2 words = odd ? make_uint2(taken, keep) : make_uint2(keep, taken);
  column += odd ? 6 : 0;
  if (start < 0 || column >= limit) return;
  if (mask != nullptr) {
    float m[4];
    load_constant(m, mask + start + column);
    words.x &= (m[0] <= 0.f ? 0u : 0xffffu) | (m[1] <= 0.f ? 0u : 0xffff0000u);
    words.y &= (m[2] <= 0.f ? 0u : 0xffffu) | (m[3] <= 0.f ? 0u : 0xffff0000u);
  }
  *reinterpret_cast<uint2*>(out + start + column) = words;
}

// Stores a thread's outputs. offset(m): where row m of the tile starts in `out`, negative if it does not
// exist, in `out` and in the mask alike; columns [0, limit) of the tile exist. vectors: rows start at a
// multiple of 4 elements' bytes and limit is a multiple of 4.
// Four lanes hold the 8 columns of a product, a sector of 32 bytes of float; of Bf16, see store_sector.
template <class T, class E, class RowOffset>
__device__ __forceinline__ void mma_store(float (&acc)[T::MI][T::NI][4], E* out, RowOffset offset, int limit,
                                          bool vectors, const Epilogue<E>& epilogue) {
  if (epilogue.bias != nullptr) {
    PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < T::NI; ++j) PCN_UNROLL_ON_DEVICE
    for (int e = 0; e < 2; ++e) {
      const int column = T::column(j) + e;
      const float add = column < limit ? __ldg(epilogue.bias + column) : 0.f;
      PCN_UNROLL_ON_DEVICE
      for (int i = 0; i < T::MI; ++i) acc[i][j][e] += add, acc[i][j][e + 2] += add;
    }
  }
  if (epilogue.relu) {
    PCN_UNROLL_ON_DEVICE
    for (int i = 0; i < T::MI; ++i) PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < T::NI; ++j) PCN_UNROLL_ON_DEVICE
    for (int e = 0; e < 4; ++e) acc[i][j][e] = acc[i][j][e] < 0.f ? 0.f : acc[i][j][e];  // keeps NaN
  }
  PCN_UNROLL_ON_DEVICE
  for (int i = 0; i < T::MI; ++i) PCN_UNROLL_ON_DEVICE
  for (int half = 0; half < 2; ++half) {
    const long long start = offset(T::row(i, half));
    if constexpr (std::is_same<E, Bf16>::value) {
      if (vectors) {
        PCN_UNROLL_ON_DEVICE
        for (int j = 0; j < T::NI; j += 2)
          store_sector(&acc[i][j][2 * half], &acc[i][j + 1][2 * half], T::column(j), out, epilogue.mask,
                       start, limit);
        continue;
      }
    }
    if (start < 0) continue;
    if (epilogue.mask != nullptr) {
      PCN_UNROLL_ON_DEVICE
      for (int j = 0; j < T::NI; ++j)
        mask_part<2>(epilogue.mask + start, &acc[i][j][2 * half], T::column(j), limit, vectors);
    }
    PCN_UNROLL_ON_DEVICE
    for (int j = 0; j < T::NI; ++j)
      store_part<2>(out + start, &acc[i][j][2 * half], T::column(j), limit, vectors);
  }
}

// ---- the host's side

// Multiply-adds of one TF32 product over those of FFMA in the same time, for mma.sync. From data sheets
// (dense TF32 over float32: 8 on sm_80, 7.4 on sm_90, 1 on the consumer's sm_86, 89 and 120), less what
// mma.sync is known to leave on sm_90. Not measured.
inline double tf32_rate(int capability) {
  switch (capability) {
    case 80:
      return 6.5;
    case 86:
    case 89:
    case 120:
    case 121:
      return 1.;
    case 87:
      return 2.;
    default:
      return 4.5;
  }
}

template <class T>
TileInfo mma_info(const Conv2dShape& s, double efficiency) {
  // Of Bf16, twice as many products in the same time as of TF32, on every device.
  const double products = s.precision == Precision::kFp32x3 ? 3 : s.precision == Precision::kBf16 ? 0.5 : 1;
  TileInfo info = T::info(efficiency * tf32_rate(s.capability) / products);
  if (s.precision == Precision::kFp32x3) info.threads = T::template For<3>::THREADS;
  return info;
}

// What every kernel on tensor cores wants beside its layout: T::Element is the type that the precision has,
// and the kernel's code is for a device with them, as is the device.
template <class T, class Kernel>
bool mma_supports(const Conv2dShape& s, Kernel* kernel) {
  const bool bf16 = std::is_same<typename T::Element, Bf16>::value;
  return s.precision != Precision::kFp32 && (s.precision == Precision::kBf16) == bf16 && s.aligned != 0 &&
         s.capability >= kTensorCoresSince && image_at_least(kernel, kTensorCoresSince);
}

// run(the products that each element of a sum takes, as a type with a `value`) for the shape's precision.
template <class T, class E, class Run>
cudaError_t by_products(const Conv2dShape& s, Run run) {
  static_assert(std::is_same<E, typename T::Element>::value, "the tile is made for the arrays' type");
  if constexpr (std::is_same<E, float>::value)
    if (s.precision == Precision::kFp32x3) return run(std::integral_constant<int, 3>{});
  return run(std::integral_constant<int, 1>{});
}

// Channels or filters of a group that are copied by whole chunks.
template <class T>
bool whole_chunks(int count, int groups) {
  return count / groups % kChunk<typename T::Element> == 0;
}

template <ExtentFn* EXTENT, class T, int PERCENT>
double mma_cost(const Conv2dShape& s) {
  return gemm_cost(EXTENT(s), mma_info<T>(s, PERCENT / 100.0), s.precision);
}

}  // namespace pcn::conv
