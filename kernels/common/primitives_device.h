// primitives_device.h: primitives.h under nvcc, as inline PTX
#pragma once
#include <cuda_bf16.h>

#include "common/device.h"

namespace pcn {

PCN_FN uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
template <class T>
PCN_FN T* kept_shared(T* p) {
  return static_cast<T*>(__cvta_shared_to_generic(__shfl_sync(0xffffffffu, shared_address(p), 0)));
}

// Whether the device this is compiled for multiplies TF32 and bfloat16 matrices and copies asynchronously.
#ifdef __CUDA_ARCH__
constexpr bool kTensorCores = __CUDA_ARCH__ >= 10 * kTensorCoresSince;
#else
constexpr bool kTensorCores = true;
#endif

// ---- cp.async -----------------------------------------------------------------------------------
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define PCN_CP_ASYNC(NAME, BYTES, CACHE, TYPE)                                \
  PCN_FN void NAME(void* shared, const void* global, bool predicate = true) { \
    const int source_bytes = predicate ? BYTES : 0;                           \
    asm volatile("cp.async." CACHE ".shared.global [%0], [%1], " #BYTES       \
                 ", %2;" ::"r"(shared_address(shared)),                       \
                 "l"(global), "r"(source_bytes)                               \
                 : "memory");                                                 \
  }
#else
#define PCN_CP_ASYNC(NAME, BYTES, CACHE, TYPE)                                            \
  PCN_FN void NAME(void* shared, const void* global, bool predicate = true) {             \
    *static_cast<TYPE*>(shared) = predicate ? *static_cast<const TYPE*>(global) : TYPE(); \
  }
#endif
PCN_CP_ASYNC(cp_async_4, 4, "ca", uint32_t)
PCN_CP_ASYNC(cp_async_8, 8, "ca", uint2)
PCN_CP_ASYNC(cp_async_16, 16, "cg", uint4)
#undef PCN_CP_ASYNC

PCN_FN void cp_async_commit() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N>
PCN_FN void cp_async_wait() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ---- ldmatrix -----------------------------------------------------------------------------------
#define PCN_LDMATRIX(SUFFIX, TRANS)                                                       \
  PCN_FN void ldmatrix_x1##SUFFIX(uint32_t (&r)[1], const void* row) {                    \
    asm volatile("ldmatrix.sync.aligned.m8n8.x1" TRANS ".shared.b16 {%0}, [%1];"          \
                 : "=r"(r[0])                                                             \
                 : "r"(shared_address(row))                                               \
                 : "memory");                                                             \
  }                                                                                       \
  PCN_FN void ldmatrix_x2##SUFFIX(uint32_t (&r)[2], const void* row) {                    \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2" TRANS ".shared.b16 {%0,%1}, [%2];"       \
                 : "=r"(r[0]), "=r"(r[1])                                                 \
                 : "r"(shared_address(row))                                               \
                 : "memory");                                                             \
  }                                                                                       \
  PCN_FN void ldmatrix_x4##SUFFIX(uint32_t (&r)[4], const void* row) {                    \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" TRANS ".shared.b16 {%0,%1,%2,%3}, [%4];" \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                         \
                 : "r"(shared_address(row))                                               \
                 : "memory");                                                             \
  }
PCN_LDMATRIX(, "")
PCN_LDMATRIX(_trans, ".trans")
#undef PCN_LDMATRIX

// ---- conversions --------------------------------------------------------------------------------
PCN_FN uint32_t to_tf32(float f) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(f));
  return r;
#else
  return __float_as_uint(f);
#endif
}
PCN_FN uint16_t to_bf16(float f) { return __bfloat16_as_ushort(__float2bfloat16_rn(f)); }
PCN_FN float from_bf16(uint16_t h) { return __uint_as_float(static_cast<uint32_t>(h) << 16); }

// ---- mma.sync -----------------------------------------------------------------------------------
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define PCN_MMA(NAME, SHAPE, TYPES)                                                   \
  PCN_FN void NAME(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {   \
    asm volatile("mma.sync.aligned." SHAPE ".row.col." TYPES                          \
                 " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"             \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
  }
#else
#define PCN_MMA(NAME, SHAPE, TYPES) \
  PCN_FN void NAME(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]) { __trap(); }
#endif
PCN_MMA(mma_m16n8k8_tf32, "m16n8k8", "f32.tf32.tf32.f32")
PCN_MMA(mma_m16n8k16_bf16, "m16n8k16", "f32.bf16.bf16.f32")
PCN_MMA(mma_m16n8k16_f16, "m16n8k16", "f32.f16.f16.f32")
#undef PCN_MMA

// ---- named barriers -----------------------------------------------------------------------------
PCN_FN void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
PCN_FN void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// ---- mbarrier -----------------------------------------------------------------------------------
PCN_FN void mbarrier_init(uint64_t* b, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
PCN_FN void mbarrier_invalidate(uint64_t* b) {
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}
PCN_FN void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
PCN_FN void read_in_vain(const void*, std::size_t) {}
PCN_FN void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
PCN_FN void mbarrier_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
PCN_FN void mbarrier_arrive_expect_tx(uint64_t* b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
PCN_FN void mbarrier_wait(uint64_t* b, uint32_t parity) {
  uint32_t done = 0;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(shared_address(b)), "r"(parity)
        : "memory");
  } while (!done);
}

// ---- a warp, and what is prefetched --------------------------------------------------------------
PCN_FN bool elect_one() {
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(elected));
  return elected;
}
PCN_FN void prefetch_tensor_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
PCN_FN void grid_dependency_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
PCN_FN void grid_dependency_trigger() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

#define PCN_STMATRIX(SUFFIX, TRANS)                                                                          \
  PCN_FN void stmatrix_x1##SUFFIX(void* row, const uint32_t (&r)[1]) {                                       \
    asm volatile("stmatrix.sync.aligned.m8n8.x1" TRANS ".shared.b16 [%0], {%1};" ::"r"(shared_address(row)), \
                 "r"(r[0])                                                                                   \
                 : "memory");                                                                                \
  }                                                                                                          \
  PCN_FN void stmatrix_x2##SUFFIX(void* row, const uint32_t (&r)[2]) {                                       \
    asm volatile("stmatrix.sync.aligned.m8n8.x2" TRANS                                                       \
                 ".shared.b16 [%0], {%1,%2};" ::"r"(shared_address(row)),                                    \
                 "r"(r[0]), "r"(r[1])                                                                        \
                 : "memory");                                                                                \
  }                                                                                                          \
  PCN_FN void stmatrix_x4##SUFFIX(void* row, const uint32_t (&r)[4]) {                                       \
    asm volatile("stmatrix.sync.aligned.m8n8.x4" TRANS                                                       \
                 ".shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(row)),                              \
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])                                                  \
                 : "memory");                                                                                \
  }
PCN_STMATRIX(, "")
PCN_STMATRIX(_trans, ".trans")
#undef PCN_STMATRIX

// ---- TMA: `map` is a CUtensorMap passed as a __grid_constant__ argument -------------------------
#define PCN_L2_POLICY(NAME, PRIORITY)                                            \
  PCN_FN uint64_t NAME() {                                                       \
    uint64_t policy;                                                             \
    asm("createpolicy.fractional.L2::" PRIORITY ".b64 %0, 1.0;" : "=l"(policy)); \
    return policy;                                                               \
  }
PCN_L2_POLICY(l2_evict_first, "evict_first")
PCN_L2_POLICY(l2_evict_last, "evict_last")
#undef PCN_L2_POLICY

// Every copy twice: as it is, and with a policy. HINT: the modifier; LAST(n): operand n, the policy.
#define PCN_TMA(PARAMETER, HINT, LAST, POLICY)                                                              \
  PCN_FN void tma_load_2d(void* shared, const void* map, uint64_t* barrier, int x, int y PARAMETER) {       \
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" HINT    \
                 " [%0], [%1, {%3, %4}], [%2]" LAST(5) ";" ::"r"(shared_address(shared)),                   \
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)POLICY                               \
                 : "memory");                                                                               \
  }                                                                                                         \
  PCN_FN void tma_load_4d(void* shared, const void* map, uint64_t* barrier, int c, int w, int h,            \
                          int n PARAMETER) {                                                                \
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" HINT    \
                 " [%0], [%1, {%3, %4, %5, %6}], [%2]" LAST(7) ";" ::"r"(shared_address(shared)),           \
                 "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n)POLICY               \
                 : "memory");                                                                               \
  }                                                                                                         \
  PCN_FN void tma_load_im2col_4d(void* shared, const void* map, uint64_t* barrier, int c, int w, int h,     \
                                 int n, uint16_t offset_w, uint16_t offset_h PARAMETER) {                   \
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes" HINT  \
                 " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8}" LAST(9) ";" ::"r"(shared_address(shared)), \
                 "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"(offset_w),     \
                 "h"(offset_h)POLICY                                                                        \
                 : "memory");                                                                               \
  }                                                                                                         \
  PCN_FN void tma_store_2d(const void* map, const void* shared, int x, int y PARAMETER) {                   \
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group" HINT                          \
                 " [%0, {%2, %3}], [%1]" LAST(4) ";" ::"l"(map),                                            \
                 "r"(shared_address(shared)), "r"(x), "r"(y)POLICY                                          \
                 : "memory");                                                                               \
  }                                                                                                         \
  PCN_FN void tma_store_4d(const void* map, const void* shared, int c, int w, int h, int n PARAMETER) {     \
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group" HINT                          \
                 " [%0, {%2, %3, %4, %5}], [%1]" LAST(6) ";" ::"l"(map),                                    \
                 "r"(shared_address(shared)), "r"(c), "r"(w), "r"(h), "r"(n)POLICY                          \
                 : "memory");                                                                               \
  }
#define PCN_NOTHING(N) ""
#define PCN_LAST(N) ", %" #N
#define PCN_COMMA ,
PCN_TMA(, "", PCN_NOTHING, )
PCN_TMA(PCN_COMMA uint64_t policy, ".L2::cache_hint", PCN_LAST, PCN_COMMA "l"(policy))
#undef PCN_TMA
#undef PCN_NOTHING
#undef PCN_LAST
#undef PCN_COMMA
PCN_FN void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// The N newest groups aside, shared memory has been read (and may be overwritten).
template <int N>
PCN_FN void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
template <int N>
PCN_FN void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}
#endif

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
// ---- wgmma --------------------------------------------------------------------------------------
namespace detail {
// What the compiler takes for a use and a change of each register: what comes before stays before, what comes
// after stays after.
template <int R>
PCN_FN void pin(float (&registers)[R]) {
  PCN_UNROLL for (int i = 0; i < R; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int R>
PCN_FN void pin(uint32_t (&registers)[R]) {
  PCN_UNROLL for (int i = 0; i < R; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}
template <class T, int S, int R>
PCN_FN void pin(T (&registers)[S][R]) {
  PCN_UNROLL for (int i = 0; i < S; ++i) pin(registers[i]);
}
}  // namespace detail

template <class... Registers>
PCN_FN void wgmma_fence(Registers&... registers) {
  (detail::pin(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
PCN_FN void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N, class... Registers>
PCN_FN void wgmma_wait(Registers&... registers) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
  (detail::pin(registers), ...);
}
template <int R>
PCN_FN void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(R));
}
template <int R>
PCN_FN void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(R));
}
}  // namespace pcn

#include "common/wgmma_device.h"

namespace pcn {
template <int N>
PCN_FN void wgmma_m64k8_tf32(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  detail::Wgmma<N>::tf32(d, a, b, accumulate);
}
template <int N>
PCN_FN void wgmma_m64k8_tf32(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  detail::Wgmma<N>::tf32(d, a, b, accumulate);
}
template <int N, Major A = Major::kK, Major B = Major::kK>
PCN_FN void wgmma_m64k16_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  detail::Wgmma<N>::template bf16<A == Major::kMN, B == Major::kMN>(d, a, b, accumulate);
}
template <int N, Major B = Major::kK>
PCN_FN void wgmma_m64k16_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  detail::Wgmma<N>::template bf16<B == Major::kMN>(d, a, b, accumulate);
}
#endif

}  // namespace pcn
