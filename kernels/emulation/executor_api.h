// executor_api.h: what the emulated device vocabulary (device_side.h, primitives.h) calls in the executor
#pragma once
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include <cuda_runtime_api.h>

#include "common/image.h"

#ifndef PCN_TOOLKIT_STAND_IN
#error "the emulated build needs kernels/emulation/toolkit first in its include path (see flavours.cmake)"
#endif

// Functions that touch other lanes' registers, i.e. their stacks, on behalf of an emulated warp instruction:
// not the racing thread's own accesses.
#ifdef __SANITIZE_THREAD__
#define PCN_NO_RACECHECK __attribute__((no_sanitize_thread))
#else
#define PCN_NO_RACECHECK
#endif

// Arithmetic on the executor's own arrays: nothing to check or count, and in checked builds, at -O1, most of the time.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define PCN_UNCHECKED                                                                                        \
  __attribute__((noinline, optimize("O3", "fp-contract=off"), no_sanitize("address", "thread", "undefined"), \
                 no_sanitize_coverage))
#else
#define PCN_UNCHECKED inline
#endif

#pragma GCC visibility push(hidden)
namespace pcn {
namespace emulation {

// ---- the running CUDA thread --------------------------------------------------------------------
struct Context {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  unsigned index, lane, warp;  // index within the block
};
// Initial-exec: read at every threadIdx, and a module loaded by dlopen would otherwise pay a call each time.
extern __thread Context* context __attribute__((tls_model("initial-exec")));

// Abandons the block; the launch returns cudaErrorLaunchFailure and take_error() the text.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- launch: the caller names the kernel when it reports ----------------------------------------
typedef void (*KernelThunk)(void* closure);
// Whether the launch asks for more shared memory than every kernel may have.
typedef bool SharedRule(size_t static_bytes, size_t dynamic_bytes);
cudaError_t run_grid(dim3 grid, dim3 block, size_t dynamic_bytes, SharedRule* asks, KernelThunk thunk,
                     void* closure, size_t closure_bytes, const void* kernel, const char* stem);

template <class... P, class... A>
cudaError_t launch_asking(SharedRule* asks, const char* stem, void (*kernel)(P...), dim3 grid, dim3 block,
                          size_t dynamic_bytes, cudaStream_t, A&&... args) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> args;
  } call{kernel, std::tuple<std::decay_t<P>...>(static_cast<P>(args)...)};
  return run_grid(
      grid, block, dynamic_bytes, asks,
      [](void* c) {
        auto* it = static_cast<Call*>(c);
        std::apply(it->kernel, it->args);
      },
      &call, sizeof call, reinterpret_cast<const void*>(kernel), stem);
}
template <class... P, class... A>
cudaError_t launch(const char* stem, void (*kernel)(P...), dim3 grid, dim3 block, size_t dynamic_bytes,
                   cudaStream_t stream, A&&... args) {
  return launch_asking(asks_for_shared, stem, kernel, grid, block, dynamic_bytes, stream,
                       std::forward<A>(args)...);
}

// ---- shared memory ------------------------------------------------------------------------------
void* dynamic_shared_window();
void* static_shared(const void* tag, size_t bytes, size_t align);
uint32_t shared_address(const void* p);                // offset in the shared window; fails if p is not in it
void* shared_pointer(uint32_t address, size_t bytes);  // the reverse; fails if out of bounds

// ---- barriers and warp collectives --------------------------------------------------------------
// Barrier `id` for `threads` threads (0: all live ones). Returns how many arrivals had `predicate` set.
int barrier_sync(int id, int threads, bool predicate, const char* file, int line);
void barrier_arrive(int id, int threads, const char* file, int line);
// All lanes of `mask` meet; the last to arrive runs `function` once for all, with each lane's argument.
// `operation` identifies the instruction: lanes that meet in different ones are an error.
typedef void (*WarpFunction)(void* const* args, unsigned mask);
void warp_collective(unsigned mask, void* arg, WarpFunction function, const void* operation,
                     const char* name);
void syncwarp(unsigned mask, const char* file, int line);
void thread_fence();
void yield();  // a scheduling point for __nanosleep in spin loops

// Accesses an emulated instruction makes for the running thread; the async variant is by the async proxy.
void note_read(const void* p, size_t bytes);
void note_write(void* p, size_t bytes);
void note_read_async(const void* p, size_t bytes);
void read_in_vain(const void* p, size_t bytes);

// ---- asynchronous copies ------------------------------------------------------------------------
void cp_async(void* shared, const void* global, int bytes, int source_bytes);  // the rest is zero-filled
void cp_async_commit();
void cp_async_wait(int newest);  // all but the `newest` latest groups are complete

// ---- mbarrier, TMA ------------------------------------------------------------------------------
void mbarrier_init(uint64_t* barrier, unsigned count);
void mbarrier_invalidate(uint64_t* barrier);
void mbarrier_arrive(uint64_t* barrier, int expected_bytes);
void mbarrier_wait(uint64_t* barrier, unsigned parity, const char* file, int line);

// Stands in for CUtensorMap. All strides in bytes; swizzle 0, 1, 2, 3 = none, 32, 64, 128 bytes.
struct alignas(64) TensorMap {
  static constexpr uint32_t MAGIC = 0x7E4509u;
  const char* base;
  uint64_t dim[5], stride[5];
  uint32_t magic;
  uint16_t box[5];
  uint8_t element_stride[5], rank, swizzle, element_bytes;
  uint8_t im2col;  // rank 4 (C, W, H, N): box = {channels, pixels}; corners are {w, h}
  int8_t lower[2], upper[2];
  uint8_t to_tf32;  // loads round to nearest, ties away from zero
};
static_assert(sizeof(TensorMap) == 128, "as large as a CUtensorMap");
void tma_load(void* shared, const TensorMap* map, uint64_t* barrier, const int* coordinate, int rank);
void tma_load_im2col(void* shared, const TensorMap* map, uint64_t* barrier, const int* coordinate,
                     const int* offset);
void tma_store(const TensorMap* map, const void* shared, const int* coordinate, int rank);
void prefetch_tensor_map(const TensorMap* map);
bool elect_one();
// Policies of L2 are opaque on the device; here they are checked to be one.
constexpr uint64_t L2_EVICT_FIRST = 0xE7B1C7F1u, L2_EVICT_LAST = 0xE7B1C71Au;
void check_l2_policy(uint64_t policy);
void tma_store_commit();
void tma_store_wait(int newest);
void fence_proxy_async();

// ---- wgmma --------------------------------------------------------------------------------------
typedef void (*WgmmaFunction)(void* const* args);  // one warp's 16 rows; 32 arguments
// `arg` starts with a float* to the lane's `registers` accumulators.
void wgmma_issue(void* arg, size_t bytes, int registers, WgmmaFunction function, const char* name);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int newest);

// The XOR of the shared-memory swizzles on absolute shared addresses, by wgmma descriptor code: 1 = 128, 2 =
// 64, 3 = 32 bytes, 0 = none.
inline uint32_t swizzle(uint32_t address, int mode) {
  const uint32_t rows = mode == 1 ? 7 : mode == 2 ? 3 : mode == 3 ? 1 : 0;
  return address ^ (((address >> 7) & rows) << 4);
}

}  // namespace emulation
}  // namespace pcn
#pragma GCC visibility pop
