// counts.cu: kernels whose memory accesses cost what one can count by hand, for the emulator's flavour
// `count`
//
// Prints {"case": [{"shared": 0, "kind": 0, "bytes": 4, "requests": 1, "lanes": 32, "cost": 4, ...}, ...]}, a
// row per access in the order of the program.
#include "probe.h"

#include <algorithm>

using probe::Array;

namespace {

struct Rows {
  alignas(16) float narrow[32][32];
  alignas(16) float padded[32][33];
};

// One access of each kind a kernel, so that the rows can be told apart.
__global__ void load_kernel(float* out, const float* in, int stride, int offset) {
  const float v = in[threadIdx.x * stride + offset];
  out[threadIdx.x] = v;
}
__global__ void store_kernel(float* out, int stride, int offset) { out[threadIdx.x * stride + offset] = 1.f; }
__global__ void load4_kernel(float4* out, const float4* in, int stride) {
  out[threadIdx.x] = in[threadIdx.x * stride];
}
__global__ void ldg_kernel(float4* out, const float4* in) { out[threadIdx.x] = __ldg(in + threadIdx.x); }
__global__ void broadcast_kernel(float* out, const float* in) { out[threadIdx.x] = in[7]; }

// Columns of a tile: read as rows, written as columns, padded or not.
template <bool PADDED>
__global__ void transpose_kernel(float* out, const float* in) {
  Rows& tile = pcn::shared<Rows>();
  const int x = threadIdx.x % 32;
  for (int y = 0; y < 32; ++y) {
    if (PADDED)
      tile.padded[y][x] = in[32 * y + x];
    else
      tile.narrow[y][x] = in[32 * y + x];
  }
  __syncthreads();
  for (int y = 0; y < 32; ++y) out[32 * y + x] = PADDED ? tile.padded[x][y] : tile.narrow[x][y];
}

struct Floats {
  alignas(16) float v[4096];
};
__global__ void shared_load_kernel(float* out, int stride) {
  Floats& s = pcn::shared<Floats>();
  for (int i = threadIdx.x; i < 4096; i += blockDim.x) s.v[i] = 1.f;
  __syncthreads();
  out[threadIdx.x] = s.v[threadIdx.x * stride];
}
template <class V>
__global__ void shared_vector_kernel(V* out, int stride) {
  V* s = reinterpret_cast<V*>(pcn::shared<Floats>().v);
  s[threadIdx.x * stride] = out[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = s[threadIdx.x * stride];
}
__global__ void shared_atomic_kernel(int* out, int stride) {
  int* s = pcn::dynamic_shared<int>();
  for (int i = threadIdx.x; i < 1024; i += 32) s[i] = 0;
  __syncwarp();
  atomicAdd(s + threadIdx.x * stride, 1);
  __syncwarp();
  out[threadIdx.x] = s[threadIdx.x];
}

// 16 rows of 64 16-bit elements; ldmatrix.x4 takes 16 rows of two chunks. Swizzled: chunk c of row r lies at
// c ^ (r % 8).
template <bool SWIZZLED, int COUNT>
__global__ void ldmatrix_kernel(uint32_t* out) {
  Floats& s = pcn::shared<Floats>();
  for (int i = threadIdx.x; i < 4096; i += 32) s.v[i] = 0.f;
  __syncwarp();
  const int lane = threadIdx.x, row = lane % 16, chunk = lane / 16 % 2;
  const float* p = s.v + row * 32 + 4 * (SWIZZLED ? chunk ^ (row % 8) : chunk);
  if constexpr (COUNT == 4) {
    uint32_t r[4];
    pcn::ldmatrix_x4(r, p);
    out[lane] = r[0] + r[3];
  } else {
    uint32_t r[2];
    pcn::ldmatrix_x2_trans(r, p);
    out[lane] = r[0] + r[1];
  }
}

// cp.async by 16 bytes; the last `missing` lanes fill with zeros.
__global__ void cp_async_kernel(float4* out, const float4* in, int stride, int missing) {
  float4* s = pcn::dynamic_shared<float4>();
  pcn::cp_async_16(s + threadIdx.x, in + threadIdx.x * stride, static_cast<int>(threadIdx.x) < 32 - missing);
  pcn::cp_async_commit();
  pcn::cp_async_wait<0>();
  out[threadIdx.x] = s[threadIdx.x];
}

// Lanes take different ways and meet again: each way's access is one request, and so is the one after.
__global__ void diverge_kernel(float* out, const float* in) {
  float v;
  if (threadIdx.x % 2)
    v = in[threadIdx.x];
  else
    v = in[threadIdx.x + 64] + 1.f;
  out[threadIdx.x] = v;
}
// Lane l goes round l + 1 times: 32 requests with 32, 31, ... lanes, then one with all.
__global__ void ragged_loop_kernel(float* out, const float* in) {
  float v = 0.f;
  PCN_NO_UNROLL
  for (unsigned i = 0; i <= threadIdx.x; ++i) v += in[32 * i + threadIdx.x];
  out[threadIdx.x] = v;
}
// Lane l leaves out round l: 32 requests of 31 lanes. Matching the accesses of the lanes by their number
// would put different rounds together.
__global__ void skip_kernel(float* out, const float* in) {
  float v = 0.f;
  PCN_NO_UNROLL
  for (unsigned i = 0; i < 32; ++i) {
    if (i != threadIdx.x) v += in[1024 * i + threadIdx.x];
  }
  out[threadIdx.x] = v;
}
// The same with a way back to the loop's head from its middle.
__global__ void skip_back_kernel(float* out, const float* in) {
  float v = 0.f;
  unsigned i = 0;
  PCN_NO_UNROLL
  while (i < 32) {
    const unsigned at = i++;
    if (at == threadIdx.x) continue;
    v += in[1024 * at + threadIdx.x];
  }
  out[threadIdx.x] = v;
}
// The same load behind a function that the compiler may not expand, called from two places.
__attribute__((noinline)) __device__ float behind(const float* p) { return *p; }
__global__ void call_kernel(float* out, const float* in) {
  float v = 0.f;
  if (threadIdx.x < 8) v = behind(in + threadIdx.x);
  v += behind(in + 64 + threadIdx.x);
  out[threadIdx.x] = v;
}

struct Case {
  const char* name;
  cudaError_t (*run)();
};
Array<float>& in() {
  static auto& array = *new Array<float>(1 << 16, [](int i) { return static_cast<float>(i % 7); });
  return array;
}
Array<float>& out() {
  static auto& array = *new Array<float>(1 << 12, [](int) { return 0.f; });
  return array;
}
float4* in4() { return reinterpret_cast<float4*>(in().data()); }
float4* out4() { return reinterpret_cast<float4*>(out().data()); }
template <class... P, class... A>
cudaError_t one_warp(void (*kernel)(P...), A... args) {
  return pcn::launch("probe", kernel, dim3(1), dim3(32), 4096, nullptr, args...);
}

const Case CASES[] = {
    {"load_stride1", [] { return one_warp(load_kernel, out().data(), in().data(), 1, 0); }},
    {"load_stride2", [] { return one_warp(load_kernel, out().data(), in().data(), 2, 0); }},
    {"load_stride8", [] { return one_warp(load_kernel, out().data(), in().data(), 8, 0); }},
    {"load_stride32", [] { return one_warp(load_kernel, out().data(), in().data(), 32, 0); }},
    {"load_misaligned", [] { return one_warp(load_kernel, out().data(), in().data(), 1, 1); }},
    {"store_stride1", [] { return one_warp(store_kernel, out().data(), 1, 0); }},
    {"store_stride2", [] { return one_warp(store_kernel, out().data(), 2, 0); }},
    {"store_misaligned", [] { return one_warp(store_kernel, out().data(), 1, 3); }},
    {"load4_stride1", [] { return one_warp(load4_kernel, out4(), in4(), 1); }},
    {"load4_stride2", [] { return one_warp(load4_kernel, out4(), in4(), 2); }},
    {"ldg4", [] { return one_warp(ldg_kernel, out4(), in4()); }},
    {"broadcast", [] { return one_warp(broadcast_kernel, out().data(), in().data()); }},
    {"transpose_narrow", [] { return one_warp(transpose_kernel<false>, out().data(), in().data()); }},
    {"transpose_padded", [] { return one_warp(transpose_kernel<true>, out().data(), in().data()); }},
    {"shared_stride1", [] { return one_warp(shared_load_kernel, out().data(), 1); }},
    {"shared_stride2", [] { return one_warp(shared_load_kernel, out().data(), 2); }},
    {"shared_stride3", [] { return one_warp(shared_load_kernel, out().data(), 3); }},
    {"shared_stride32", [] { return one_warp(shared_load_kernel, out().data(), 32); }},
    {"shared_broadcast", [] { return one_warp(shared_load_kernel, out().data(), 0); }},
    {"shared4_stride1", [] { return one_warp(shared_vector_kernel<float4>, out4(), 1); }},
    {"shared4_stride2", [] { return one_warp(shared_vector_kernel<float4>, out4(), 2); }},
    {"shared4_padded", [] { return one_warp(shared_vector_kernel<float4>, out4(), 9); }},
    {"shared4_stride8", [] { return one_warp(shared_vector_kernel<float4>, out4(), 8); }},
    {"shared2_stride1",
     [] { return one_warp(shared_vector_kernel<float2>, reinterpret_cast<float2*>(out4()), 1); }},
    {"shared2_stride2",
     [] { return one_warp(shared_vector_kernel<float2>, reinterpret_cast<float2*>(out4()), 2); }},
    {"atomic_stride1",
     [] { return one_warp(shared_atomic_kernel, reinterpret_cast<int*>(out().data()), 1); }},
    {"atomic_stride4",
     [] { return one_warp(shared_atomic_kernel, reinterpret_cast<int*>(out().data()), 4); }},
    {"ldmatrix_plain",
     [] { return one_warp(ldmatrix_kernel<false, 4>, reinterpret_cast<uint32_t*>(out().data())); }},
    {"ldmatrix_swizzled",
     [] { return one_warp(ldmatrix_kernel<true, 4>, reinterpret_cast<uint32_t*>(out().data())); }},
    {"ldmatrix_x2",
     [] { return one_warp(ldmatrix_kernel<true, 2>, reinterpret_cast<uint32_t*>(out().data())); }},
    {"cp_async", [] { return one_warp(cp_async_kernel, out4(), in4(), 1, 0); }},
    {"cp_async_stride2", [] { return one_warp(cp_async_kernel, out4(), in4(), 2, 0); }},
    {"cp_async_partial", [] { return one_warp(cp_async_kernel, out4(), in4(), 1, 16); }},
    {"diverge", [] { return one_warp(diverge_kernel, out().data(), in().data()); }},
    {"ragged_loop", [] { return one_warp(ragged_loop_kernel, out().data(), in().data()); }},
    {"skip", [] { return one_warp(skip_kernel, out().data(), in().data()); }},
    {"skip_back", [] { return one_warp(skip_back_kernel, out().data(), in().data()); }},
    {"call", [] { return one_warp(call_kernel, out().data(), in().data()); }},
};

}  // namespace

int main() {
  printf("{");
  const char* separator = "";
  for (const Case& c : CASES) {
    in(), out();
    pcn::emulation::count_accesses(true);
    const std::string error = probe::error_text(c.run());
    printf("%s\n%s: ", separator, probe::quoted(c.name).c_str());
    separator = ",";
    const auto launches = pcn::emulation::take_access_counts();
    if (!error.empty() || launches.size() != 1) {
      printf("%s", probe::quoted(error).c_str());
      continue;
    }
    printf("[");
    const char* comma = "";
    for (const auto& s : launches[0].sites) {
      printf(
          "%s{\"shared\": %d, \"kind\": %d, \"bytes\": %d, \"requests\": %llu, \"lanes\": %llu, \"cost\": "
          "%llu, "
          "\"ideal\": %llu, \"lines\": %llu, \"worst\": %llu}",
          comma, s.shared, s.kind, s.bytes, static_cast<unsigned long long>(s.requests),
          static_cast<unsigned long long>(s.lanes), static_cast<unsigned long long>(s.cost),
          static_cast<unsigned long long>(s.ideal), static_cast<unsigned long long>(s.lines),
          static_cast<unsigned long long>(s.worst));
      comma = ", ";
    }
    printf("]");
  }
  printf("\n}\n");
  pcn::emulation::count_accesses(false);
  return 0;
}
