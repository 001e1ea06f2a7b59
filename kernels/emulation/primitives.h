// primitives.h (emulation): the instructions of common/primitives.h on top of the executor
//
// Matrix instructions are done by the warp's last lane for all 32, in the PTX fragment layouts (PTX ISA,
// "Warp Level Matrix Multiply-Accumulate" and "Asynchronous Warpgroup Level Matrix"). Sums are plain float32
// in order of k: equal to the device for exact inputs (small integers), else up to rounding.
#pragma once
#include "emulation/device_side.h"

namespace pcn {

inline uint32_t shared_address(const void* p) { return emulation::shared_address(p); }
template <class T>
T* kept_shared(T* p) {
  return __shfl_sync(0xffffffffu, p, 0);
}

constexpr bool kTensorCores = true;

// ---- cp.async -----------------------------------------------------------------------------------
inline void cp_async_4(void* shared, const void* global, bool predicate = true) {
  emulation::cp_async(shared, global, 4, predicate ? 4 : 0);
}
inline void cp_async_8(void* shared, const void* global, bool predicate = true) {
  emulation::cp_async(shared, global, 8, predicate ? 8 : 0);
}
inline void cp_async_16(void* shared, const void* global, bool predicate = true) {
  emulation::cp_async(shared, global, 16, predicate ? 16 : 0);
}
inline void cp_async_commit() { emulation::cp_async_commit(); }
template <int N>
inline void cp_async_wait() {
  emulation::cp_async_wait(N);
}

// ---- conversions --------------------------------------------------------------------------------
inline uint32_t to_tf32(float f) {  // ties away from zero, as cvt.rna
  uint32_t u = __float_as_uint(f);
  if ((u & 0x7f800000u) != 0x7f800000u) u += 0x1000u;
  return u & ~0x1fffu;
}
inline uint16_t to_bf16(float f) {  // ties to even
  const uint32_t u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
inline float from_bf16(uint16_t h) { return __uint_as_float(static_cast<uint32_t>(h) << 16); }

namespace detail {
inline float from_tf32(uint32_t u) { return __uint_as_float(u & ~0x1fffu); }  // the low 13 bits are ignored
inline float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = h >> 10 & 31u,
                 mantissa = h & 0x3ffu;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
  if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
  return sign ? -subnormal : subnormal;
}

// ---- ldmatrix -----------------------------------------------------------------------------------
// Each lane reads its own row, so that the sanitizers blame the right thread; then the warp exchanges
// registers.
struct LdmatrixArg {
  uint32_t row[4];
  uint32_t* registers;
};
PCN_NO_RACECHECK inline const uint32_t* ldmatrix_row(void* const* args, int lane) {
  return static_cast<const LdmatrixArg*>(args[lane])->row;
}
template <int COUNT, bool TRANS>
PCN_NO_RACECHECK inline void ldmatrix_exchange(void* const* args, unsigned) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < COUNT; ++m) {
      uint32_t value;
      if (!TRANS) {
        value = ldmatrix_row(args, m * 8 + lane / 4)[lane % 4];
      } else {
        uint16_t half[2];
        for (int e = 0; e < 2; ++e) {
          const uint32_t* source = ldmatrix_row(args, m * 8 + 2 * (lane % 4) + e);
          std::memcpy(&half[e], reinterpret_cast<const char*>(source) + 2 * (lane / 4), 2);
        }
        value = half[0] | static_cast<uint32_t>(half[1]) << 16;
      }
      static_cast<LdmatrixArg*>(args[lane])->registers[m] = value;
    }
  }
}
template <int COUNT, bool TRANS>
inline void ldmatrix(uint32_t* registers, const void* row, const char* name) {
  LdmatrixArg arg{{0, 0, 0, 0}, registers};
  if (emulation::own_lane() < COUNT * 8) {  // the other lanes' addresses are ignored
    if (reinterpret_cast<uintptr_t>(row) % 16) emulation::fail("%s: misaligned row %p", name, row);
    emulation::shared_pointer(emulation::shared_address(row), 16);
    emulation::note_read(row, 16);
    std::memcpy(arg.row, row, 16);
  }
  emulation::warp_collective(0xffffffffu, &arg, ldmatrix_exchange<COUNT, TRANS>,
                             reinterpret_cast<const void*>(&ldmatrix_exchange<COUNT, TRANS>), name);
}

// ---- stmatrix -----------------------------------------------------------------------------------
// The warp exchanges registers; then each lane writes its own row.
struct StmatrixArg {
  const uint32_t* registers;
  uint16_t row[8];
};
template <int COUNT, bool TRANS>
PCN_NO_RACECHECK inline void stmatrix_exchange(void* const* args, unsigned) {
  for (int place = 0; place < 8 * COUNT; ++place) {
    for (int column = 0; column < 8; ++column) {
      const int row = place % 8, outer = TRANS ? column : row, inner = TRANS ? row : column;
      const uint32_t word =
          static_cast<const StmatrixArg*>(args[4 * outer + inner / 2])->registers[place / 8];
      static_cast<StmatrixArg*>(args[place])->row[column] =
          static_cast<uint16_t>(inner % 2 ? word >> 16 : word & 0xffffu);
    }
  }
}
template <int COUNT, bool TRANS>
inline void stmatrix(void* row, const uint32_t* registers, const char* name) {
  const bool writes = emulation::own_lane() < COUNT * 8;  // the other lanes' addresses are ignored
  if (writes && reinterpret_cast<uintptr_t>(row) % 16) emulation::fail("%s: misaligned row %p", name, row);
  StmatrixArg arg{registers, {}};
  emulation::warp_collective(0xffffffffu, &arg, stmatrix_exchange<COUNT, TRANS>,
                             reinterpret_cast<const void*>(&stmatrix_exchange<COUNT, TRANS>), name);
  if (!writes) return;
  emulation::shared_pointer(emulation::shared_address(row), 16);
  emulation::note_write(row, 16);
  std::memcpy(row, arg.row, 16);
}

// c += a b, 16 rows of them. Sums grow in the order of k.
template <int K, int N>
PCN_UNCHECKED void multiply(float (&c)[16][N], const float (&a)[16][K], const float (&b)[K][N]) {
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < K; ++k) {
      for (int j = 0; j < N; ++j) c[i][j] += a[i][k] * b[k][j];
    }
  }
}

// ---- mma.sync -----------------------------------------------------------------------------------
struct MmaArg {
  float* d;
  const uint32_t *a, *b;
};
template <int K>
PCN_NO_RACECHECK inline void mma_core(void* const* args, const float (&a)[16][K], const float (&b)[K][8]) {
  alignas(64) float c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const float* d = static_cast<MmaArg*>(args[lane])->d;
    const int g = lane / 4, t = lane % 4;
    c[g][2 * t] = d[0];
    c[g][2 * t + 1] = d[1];
    c[g + 8][2 * t] = d[2];
    c[g + 8][2 * t + 1] = d[3];
  }
  multiply(c, a, b);
  for (int lane = 0; lane < 32; ++lane) {
    float* d = static_cast<MmaArg*>(args[lane])->d;
    const int g = lane / 4, t = lane % 4;
    d[0] = c[g][2 * t];
    d[1] = c[g][2 * t + 1];
    d[2] = c[g + 8][2 * t];
    d[3] = c[g + 8][2 * t + 1];
  }
}
PCN_NO_RACECHECK inline void mma_tf32(void* const* args, unsigned) {
  alignas(64) float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* x = static_cast<const MmaArg*>(args[lane]);
    const int g = lane / 4, t = lane % 4;
    a[g][t] = from_tf32(x->a[0]);
    a[g + 8][t] = from_tf32(x->a[1]);
    a[g][t + 4] = from_tf32(x->a[2]);
    a[g + 8][t + 4] = from_tf32(x->a[3]);
    b[t][g] = from_tf32(x->b[0]);
    b[t + 4][g] = from_tf32(x->b[1]);
  }
  mma_core<8>(args, a, b);
}
template <float (*CONVERT)(uint16_t)>
PCN_NO_RACECHECK inline void mma_16bit(void* const* args, unsigned) {
  alignas(64) float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* x = static_cast<const MmaArg*>(args[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int e = 0; e < 2; ++e) {
      for (int r = 0; r < 4; ++r) {
        a[g + 8 * (r & 1)][2 * t + e + 8 * (r >> 1)] = CONVERT(static_cast<uint16_t>(x->a[r] >> (16 * e)));
      }
      for (int r = 0; r < 2; ++r)
        b[2 * t + e + 8 * r][g] = CONVERT(static_cast<uint16_t>(x->b[r] >> (16 * e)));
    }
  }
  mma_core<16>(args, a, b);
}
template <emulation::WarpFunction FUNCTION>
inline void mma(float* d, const uint32_t* a, const uint32_t* b, const char* name) {
  MmaArg arg{d, a, b};
  emulation::warp_collective(0xffffffffu, &arg, FUNCTION, reinterpret_cast<const void*>(FUNCTION), name);
}
}  // namespace detail

inline void stmatrix_x1(void* row, const uint32_t (&r)[1]) { detail::stmatrix<1, false>(row, r, "stmatrix"); }
inline void stmatrix_x2(void* row, const uint32_t (&r)[2]) { detail::stmatrix<2, false>(row, r, "stmatrix"); }
inline void stmatrix_x4(void* row, const uint32_t (&r)[4]) { detail::stmatrix<4, false>(row, r, "stmatrix"); }
inline void stmatrix_x1_trans(void* row, const uint32_t (&r)[1]) {
  detail::stmatrix<1, true>(row, r, "stmatrix");
}
inline void stmatrix_x2_trans(void* row, const uint32_t (&r)[2]) {
  detail::stmatrix<2, true>(row, r, "stmatrix");
}
inline void stmatrix_x4_trans(void* row, const uint32_t (&r)[4]) {
  detail::stmatrix<4, true>(row, r, "stmatrix");
}
inline void ldmatrix_x1(uint32_t (&r)[1], const void* row) {
  detail::ldmatrix<1, false>(r, row, "ldmatrix.x1");
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  detail::ldmatrix<2, false>(r, row, "ldmatrix.x2");
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  detail::ldmatrix<4, false>(r, row, "ldmatrix.x4");
}
inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row) {
  detail::ldmatrix<1, true>(r, row, "ldmatrix.x1.trans");
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  detail::ldmatrix<2, true>(r, row, "ldmatrix.x2.trans");
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  detail::ldmatrix<4, true>(r, row, "ldmatrix.x4.trans");
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::mma<detail::mma_tf32>(d, a, b, "mma.m16n8k8.tf32");
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::mma<detail::mma_16bit<from_bf16>>(d, a, b, "mma.m16n8k16.bf16");
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::mma<detail::mma_16bit<detail::from_f16>>(d, a, b, "mma.m16n8k16.f16");
}

// ---- barriers -----------------------------------------------------------------------------------
inline void named_barrier_sync(int id, int threads, const char* file = __builtin_FILE(),
                               int line = __builtin_LINE()) {
  emulation::barrier_sync(id, threads, false, file, line);
}
inline void named_barrier_arrive(int id, int threads, const char* file = __builtin_FILE(),
                                 int line = __builtin_LINE()) {
  emulation::barrier_arrive(id, threads, file, line);
}
inline void mbarrier_init(uint64_t* b, uint32_t count) { emulation::mbarrier_init(b, count); }
inline void mbarrier_invalidate(uint64_t* b) { emulation::mbarrier_invalidate(b); }
inline void fence_mbarrier_init() {}
inline void fence_proxy_async() { emulation::fence_proxy_async(); }
inline void read_in_vain(const void* shared, std::size_t bytes) { emulation::read_in_vain(shared, bytes); }
inline void mbarrier_arrive(uint64_t* b) { emulation::mbarrier_arrive(b, 0); }
inline void mbarrier_arrive_expect_tx(uint64_t* b, uint32_t bytes) {
  emulation::mbarrier_arrive(b, static_cast<int>(bytes));
}
inline void mbarrier_wait(uint64_t* b, uint32_t parity, const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
  emulation::mbarrier_wait(b, parity, file, line);
}

inline bool elect_one() { return emulation::elect_one(); }
// Grids run one after the other.
inline void grid_dependency_wait() {}
inline void grid_dependency_trigger() {}

// ---- TMA ----------------------------------------------------------------------------------------
inline void prefetch_tensor_map(const void* map) {
  emulation::prefetch_tensor_map(static_cast<const emulation::TensorMap*>(map));
}
inline uint64_t l2_evict_first() { return emulation::L2_EVICT_FIRST; }
inline uint64_t l2_evict_last() { return emulation::L2_EVICT_LAST; }
inline void tma_load_2d(void* shared, const void* map, uint64_t* barrier, int x, int y,
                        uint64_t policy = emulation::L2_EVICT_FIRST) {
  const int c[] = {x, y};
  emulation::check_l2_policy(policy);
  emulation::tma_load(shared, static_cast<const emulation::TensorMap*>(map), barrier, c, 2);
}
inline void tma_load_4d(void* shared, const void* map, uint64_t* barrier, int c, int w, int h, int n,
                        uint64_t policy = emulation::L2_EVICT_FIRST) {
  const int x[] = {c, w, h, n};
  emulation::check_l2_policy(policy);
  emulation::tma_load(shared, static_cast<const emulation::TensorMap*>(map), barrier, x, 4);
}
inline void tma_load_im2col_4d(void* shared, const void* map, uint64_t* barrier, int c, int w, int h, int n,
                               uint16_t offset_w, uint16_t offset_h,
                               uint64_t policy = emulation::L2_EVICT_FIRST) {
  const int x[] = {c, w, h, n}, offset[] = {offset_w, offset_h};
  emulation::check_l2_policy(policy);
  emulation::tma_load_im2col(shared, static_cast<const emulation::TensorMap*>(map), barrier, x, offset);
}
inline void tma_store_2d(const void* map, const void* shared, int x, int y,
                         uint64_t policy = emulation::L2_EVICT_FIRST) {
  const int c[] = {x, y};
  emulation::check_l2_policy(policy);
  emulation::tma_store(static_cast<const emulation::TensorMap*>(map), shared, c, 2);
}
inline void tma_store_4d(const void* map, const void* shared, int c, int w, int h, int n,
                         uint64_t policy = emulation::L2_EVICT_FIRST) {
  const int x[] = {c, w, h, n};
  emulation::check_l2_policy(policy);
  emulation::tma_store(static_cast<const emulation::TensorMap*>(map), shared, x, 4);
}
inline void tma_store_commit() { emulation::tma_store_commit(); }
template <int N>
inline void tma_store_wait_read() {
  emulation::tma_store_wait(N);
}
template <int N>
inline void tma_store_wait() {
  emulation::tma_store_wait(N);
}

// ---- wgmma --------------------------------------------------------------------------------------
namespace detail {

struct WgmmaArg {
  float* d;
  uint64_t a, b;
  const uint32_t* fragment;  // of A where it is in registers
  int a_mn, b_mn, accumulate, warp;
};

// An operand in shared memory, decoded from its descriptor: rows of `span` bytes in groups of 8. Without swizzle a row
// is 16 bytes, may begin anywhere, and what K-major lies further along K is `next_bytes` away.
struct WgmmaOperand {
  uint32_t start, group_bytes, next_bytes, span;
  int mode;
  WgmmaOperand(uint64_t d, bool mn_major)
      : start(static_cast<uint32_t>(d & 0x3fff) << 4),
        group_bytes(static_cast<uint32_t>(d >> 32 & 0x3fff) << 4),
        next_bytes(static_cast<uint32_t>(d >> 16 & 0x3fff) << 4),
        mode(static_cast<int>(d >> 62)) {
    if (d >> 49 & 7) emulation::fail("wgmma descriptor: base offset is not emulated");
    if (mode == 0 && mn_major)
      emulation::fail("wgmma descriptor: MN-major operands without swizzle are not emulated");
    span = mode == 0 ? 16 : 256u >> mode;
    if (mode != 0 && start % (8 * span) >= span) {  // beyond what the steps along K add
      emulation::fail(
          "wgmma descriptor: shared address %u must be in the first of 8 rows, where the swizzle of %u "
          "bytes begins",
          start, span);
    }
  }
  // Shared address of a row's byte column, which may lie beyond the span. The XOR acts on the absolute address.
  uint32_t at(int row, int byte) const {
    const uint32_t group = static_cast<uint32_t>(row / 8), in_group = static_cast<uint32_t>(row % 8),
                   column = static_cast<uint32_t>(byte);
    return emulation::swizzle(
        start + group * group_bytes + in_group * span + column / span * next_bytes + column % span, mode);
  }
};

struct Tf32Element {
  static constexpr int BYTES = 4;
  PCN_NO_RACECHECK static float load(const char* p) {
    uint32_t u;
    std::memcpy(&u, p, 4);
    return from_tf32(u);
  }
};
struct Bf16Element {
  static constexpr int BYTES = 2;
  PCN_NO_RACECHECK static float load(const char* p) {
    uint16_t u;
    std::memcpy(&u, p, 2);
    return from_bf16(u);
  }
};

// `count` indices of D from `first` on, all of K, to out[i * along_i + k * along_k], in chunks of 16 bytes.
template <class Element>
PCN_NO_RACECHECK inline void wgmma_read(uint64_t descriptor, bool mn_major, int first, int count, float* out,
                                        int along_i, int along_k) {
  constexpr int CHUNK = 16 / Element::BYTES, K = 2 * CHUNK;
  const WgmmaOperand operand(descriptor, mn_major);
  const int rows = mn_major ? K : count, columns = mn_major ? count : K;
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; column += CHUNK) {
      const int line = mn_major ? row : first + row,
                byte = (mn_major ? first + column : column) * Element::BYTES;
      const char* p = static_cast<const char*>(emulation::shared_pointer(operand.at(line, byte), 16));
      emulation::note_read_async(p, 16);
      for (int e = 0; e < CHUNK; ++e) {
        const int i = mn_major ? column + e : row, k = mn_major ? row : column + e;
        out[i * along_i + k * along_k] = Element::load(p + e * Element::BYTES);
      }
    }
  }
}

// One warp's 16 rows of m64nNkK.
template <int N, class Element>
PCN_NO_RACECHECK inline void wgmma_warp(void* const* args) {
  constexpr int K = 32 / Element::BYTES, PER_WORD = 4 / Element::BYTES;
  const auto* first = static_cast<const WgmmaArg*>(args[0]);
  alignas(64) float a[16][K], b[K][N], c[16][N];
  if (!first->fragment) wgmma_read<Element>(first->a, first->a_mn, 16 * first->warp, 16, a[0], K, 1);
  wgmma_read<Element>(first->b, first->b_mn, 0, N, b[0], 1, N);
  for (int lane = 0; lane < 32; ++lane) {
    const auto* x = static_cast<const WgmmaArg*>(args[lane]);
    if (x->a != first->a || x->b != first->b) emulation::fail("wgmma: descriptors differ within a warp");
    for (int r = 0; x->fragment && r < 4; ++r) {  // rows in pairs, then 4 words along K
      for (int e = 0; e < PER_WORD; ++e) {
        a[lane / 4 + 8 * (r % 2)][PER_WORD * (lane % 4 + 4 * (r / 2)) + e] =
            Element::load(reinterpret_cast<const char*>(x->fragment + r) + e * Element::BYTES);
      }
    }
    for (int j = 0; j < N / 8; ++j) {
      for (int e = 0; e < 4; ++e) {
        c[lane / 4 + 8 * (e / 2)][8 * j + 2 * (lane % 4) + e % 2] = x->accumulate ? x->d[4 * j + e] : 0.0f;
      }
    }
  }
  multiply(c, a, b);
  for (int lane = 0; lane < 32; ++lane) {
    const auto* x = static_cast<const WgmmaArg*>(args[lane]);
    for (int j = 0; j < N / 8; ++j) {
      for (int e = 0; e < 4; ++e) x->d[4 * j + e] = c[lane / 4 + 8 * (e / 2)][8 * j + 2 * (lane % 4) + e % 2];
    }
  }
}

template <int N, class Element>
inline void wgmma(float* d, uint64_t a, const uint32_t* fragment, uint64_t b, Major a_major, Major b_major,
                  int accumulate, const char* name) {
  static_assert(N == 48 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256, "as generate_wgmma.py");
  WgmmaArg arg{d,
               a,
               b,
               fragment,
               a_major == Major::kMN,
               b_major == Major::kMN,
               accumulate,
               static_cast<int>(emulation::context->warp % 4)};
  emulation::wgmma_issue(&arg, sizeof arg, N / 2, wgmma_warp<N, Element>, name);
}
}  // namespace detail

// What they are told of registers is for nvcc.
template <class... Registers>
inline void wgmma_fence(Registers&...) {
  emulation::wgmma_fence();
}
inline void wgmma_commit() { emulation::wgmma_commit(); }
template <int N, class... Registers>
inline void wgmma_wait(Registers&...) {
  emulation::wgmma_wait(N);
}
template <int N>
inline void wgmma_m64k8_tf32(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  detail::wgmma<N, detail::Tf32Element>(d, a, nullptr, b, Major::kK, Major::kK, accumulate,
                                        "wgmma.m64k8.tf32");
}
template <int N>
inline void wgmma_m64k8_tf32(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  detail::wgmma<N, detail::Tf32Element>(d, 0, a, b, Major::kK, Major::kK, accumulate, "wgmma.m64k8.tf32");
}
template <int N, Major A = Major::kK, Major B = Major::kK>
inline void wgmma_m64k16_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  detail::wgmma<N, detail::Bf16Element>(d, a, nullptr, b, A, B, accumulate, "wgmma.m64k16.bf16");
}
template <int N, Major B = Major::kK>
inline void wgmma_m64k16_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  detail::wgmma<N, detail::Bf16Element>(d, 0, a, b, Major::kK, B, accumulate, "wgmma.m64k16.bf16");
}
template <int R>
inline void setmaxnreg_inc() {}
template <int R>
inline void setmaxnreg_dec() {}

}  // namespace pcn
