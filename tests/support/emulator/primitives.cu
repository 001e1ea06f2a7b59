// primitives.cu: every primitive of kernels/common once, on small integers, against an expectation computed
// on the host
//
// Builds with g++ (the emulator) and with nvcc (the device); both print one JSON object,
//   {"case": {"error": "", "wrong": 0, "bits": [...]}, ...}
// so that the two can be compared bit by bit (compare_primitives.py). With arguments: only the cases named.
// -DPRIMITIVES_WITHOUT_WGMMA leaves out what takes nine tenths of the compiler's time.
#include "probe.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <thread>

using probe::Array;
using probe::small;

namespace {

struct Result {
  std::string error;
  std::vector<uint32_t> got, want;

  template <class T>
  void expect(const std::vector<T>& g, const std::vector<T>& w) {
    static_assert(sizeof(T) == 4, "four-byte results");
    for (const T& x : g) got.push_back(bits(x));
    for (const T& x : w) want.push_back(bits(x));
  }
  template <class T>
  void expect_each(const std::vector<T>& g, const std::function<T(int)>& value) {
    std::vector<T> w(g.size());
    for (size_t i = 0; i < w.size(); ++i) w[i] = value(static_cast<int>(i));
    expect(g, w);
  }
  void run(cudaError_t launched) {
    if (error.empty()) error = probe::error_text(launched);
  }
  template <class T>
  static uint32_t bits(T x) {
    if constexpr (std::is_floating_point<T>::value) {
      if (x == 0) x = 0;  // no difference between the zeros
    }
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
  }
};

// ---- indices, shared memory ---------------------------------------------------------------------
struct IndexSmem {
  int sum[12];
};
__global__ void index_kernel(int* out) {
  IndexSmem& s = pcn::shared<IndexSmem>();
  int* d = pcn::dynamic_shared<int>();
  const int t = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  const int b = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  if (threadIdx.x == 0)
    s.sum[threadIdx.y + blockDim.y * threadIdx.z] = static_cast<int>(threadIdx.y * 10 + threadIdx.z);
  d[t] = t * t;
  __syncthreads();
  out[b * 60 + t] = 1000 * b + s.sum[t / 5] + d[59 - t];
}
void indices(Result& r) {
  Array<int> out(60 * 24);
  r.run(pcn::launch("index", index_kernel, dim3(2, 3, 4), dim3(5, 4, 3), 60 * sizeof(int), nullptr,
                    out.data()));
  r.expect_each<int>(out.read(), [](int i) {
    const int b = i / 60, t = i % 60;
    return 1000 * b + (t / 5 % 4 * 10 + t / 20) + (59 - t) * (59 - t);
  });
}

// ---- warp collectives ---------------------------------------------------------------------------
__global__ void shuffle_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x), v = t * 3 + 1;
  const unsigned all = 0xffffffffu;
  int* o = out + t * 8;
  o[0] = __shfl_sync(all, v, 5);
  o[1] = __shfl_sync(all, v, t + 3, 8);
  o[2] = __shfl_up_sync(all, v, 3u);
  o[3] = __shfl_up_sync(all, v, 2u, 16);
  o[4] = __shfl_down_sync(all, v, 4u);
  o[5] = __shfl_down_sync(all, v, 1u, 8);
  o[6] = __shfl_xor_sync(all, v, 9);
  o[7] = static_cast<int>(__shfl_xor_sync(all, static_cast<float>(v), 3, 4));
}
void shuffles(Result& r) {
  Array<int> out(64 * 8);
  r.run(pcn::launch("shuffle", shuffle_kernel, dim3(1), dim3(64), 0, nullptr, out.data()));
  r.expect_each<int>(out.read(), [](int i) {
    const int t = i / 8, lane = t % 32, base = t - lane;
    const int source[8] = {5,
                           (lane & ~7) + (t + 3) % 8,
                           lane < 3 ? lane : lane - 3,
                           lane % 16 < 2 ? lane : lane - 2,
                           lane > 27 ? lane : lane + 4,
                           lane % 8 == 7 ? lane : lane + 1,
                           lane ^ 9,
                           lane ^ 3};
    return (base + source[i % 8]) * 3 + 1;
  });
}

__global__ void vote_kernel(unsigned* out) {
  const unsigned t = threadIdx.x, half = t % 32 < 16 ? 0xffffu : 0xffff0000u;
  unsigned* o = out + t * 12;
  o[0] = __ballot_sync(0xffffffffu, t % 3 == 0);
  o[1] = static_cast<unsigned>(__any_sync(0xffffffffu, t == 40) != 0);
  o[2] = static_cast<unsigned>(__all_sync(0xffffffffu, t < 32) != 0);
  o[3] = __ballot_sync(half, t % 2 == 0);
  o[4] = __reduce_add_sync(0xffffffffu, t);
  o[5] = __reduce_max_sync(half, t);
  o[6] = __reduce_min_sync(half, t);
  o[7] = __reduce_or_sync(0xffffffffu, 1u << (t % 7));
  o[8] = __reduce_and_sync(0xffffffffu, t | 0xf0u);
  o[9] = __reduce_xor_sync(0xffffffffu, t * t);
  o[10] = static_cast<unsigned>(__reduce_min_sync(0xffffffffu, static_cast<int>(t) - 40));
  o[11] = static_cast<unsigned>(__reduce_add_sync(half, -static_cast<int>(t)));
}
void votes(Result& r) {
  Array<unsigned> out(64 * 12);
  r.run(pcn::launch("vote", vote_kernel, dim3(1), dim3(64), 0, nullptr, out.data()));
  r.expect_each<unsigned>(out.read(), [](int i) {
    const int t = i / 12, warp = t / 32, half = t / 16;
    unsigned ballot = 0, even = 0, sum = 0, ors = 0, ands = ~0u, xors = 0;
    int half_sum = 0;
    for (int l = 0; l < 32; ++l) {
      const unsigned u = static_cast<unsigned>(warp * 32 + l);
      if (u % 3 == 0) ballot |= 1u << l;
      if (u % 2 == 0 && u / 16 == static_cast<unsigned>(half)) even |= 1u << l;
      sum += u, ors |= 1u << (u % 7), ands &= u | 0xf0u, xors ^= u * u;
      if (u / 16 == static_cast<unsigned>(half)) half_sum -= static_cast<int>(u);
    }
    const unsigned want[12] = {ballot,
                               warp == 1 ? 1u : 0u,
                               warp == 0 ? 1u : 0u,
                               even,
                               sum,
                               static_cast<unsigned>(half * 16 + 15),
                               static_cast<unsigned>(half * 16),
                               ors,
                               ands,
                               xors,
                               static_cast<unsigned>(warp * 32 - 40),
                               static_cast<unsigned>(half_sum)};
    return want[i % 12];
  });
}

__global__ void block_vote_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  out[t * 4] = __syncthreads_count(t % 3 == 0);
  out[t * 4 + 1] = __syncthreads_or(t == 99) != 0;
  out[t * 4 + 2] = __syncthreads_and(t >= 0) != 0;
  out[t * 4 + 3] = __syncthreads_and(t != 5) != 0;
}
void block_votes(Result& r) {
  Array<int> out(100 * 4);
  r.run(pcn::launch("block_vote", block_vote_kernel, dim3(1), dim3(100), 0, nullptr, out.data()));
  r.expect_each<int>(out.read(), [](int i) {
    const int want[4] = {34, 1, 1, 0};
    return want[i % 4];
  });
}

// ---- atomics, fences ----------------------------------------------------------------------------
__global__ void atomic_kernel(int* o, unsigned* u) {
  const int t = static_cast<int>(threadIdx.x + blockIdx.x * blockDim.x);
  atomicAdd(o, t);
  atomicSub(o + 1, 2);
  atomicMax(o + 2, t);
  atomicMin(o + 3, -t);
  atomicOr(o + 4, 1 << (t % 20));
  atomicAnd(o + 5, ~(1 << (t % 10)));
  atomicXor(o + 6, t);
  atomicExch(o + 7, 7);
  atomicCAS(o + 8, 0, 5);
  atomicInc(u, 9u);
  atomicAdd(u + 1, 3u);
}
void atomics(Result& r) {
  Array<int> o(9, [](int i) { return i == 5 ? -1 : 0; });
  Array<unsigned> u(2, [](int) { return 0u; });
  r.run(pcn::launch("atomic", atomic_kernel, dim3(4), dim3(64), 0, nullptr, o.data(), u.data()));
  int x = 0;
  for (int t = 0; t < 256; ++t) x ^= t;
  r.expect(o.read(), std::vector<int>{255 * 128, -512, 255, -255, (1 << 20) - 1, ~1023, x, 7, 5});
  r.expect(u.read(), std::vector<unsigned>{256 % 10, 768});
}

struct LastBlockSmem {
  int part[256];
  int last;
};
__global__ void last_block_kernel(const int* x, int* part, unsigned* ticket, int* out) {
  LastBlockSmem& s = pcn::shared<LastBlockSmem>();
  const int t = static_cast<int>(threadIdx.x);
  s.part[t] = x[blockIdx.x * 256 + threadIdx.x];
  __syncthreads();
  for (int half = 128; half; half /= 2) {
    if (t < half) s.part[t] += s.part[t + half];
    __syncthreads();
  }
  if (t == 0) {
    part[blockIdx.x] = s.part[0];
    __threadfence();
    s.last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (s.last && t == 0) {
    int sum = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += part[b];
    *out = sum;
  }
}
void last_block(Result& r) {
  Array<int> x(16 * 256, [](int i) { return i % 101; }), part(16), out(1);
  Array<unsigned> ticket(1, [](int) { return 0u; });
  r.run(pcn::launch("last_block", last_block_kernel, dim3(16), dim3(256), 0, nullptr, x.data(), part.data(),
                    ticket.data(), out.data()));
  int sum = 0;
  for (int i = 0; i < 16 * 256; ++i) sum += i % 101;
  r.expect(out.read(), std::vector<int>{sum});
}

// ---- scalar functions ---------------------------------------------------------------------------
__global__ void scalar_kernel(const unsigned* a, const float* f, unsigned* out, int n) {
  const int t = static_cast<int>(threadIdx.x);
  if (t >= n) return;
  const unsigned x = a[t], y = a[(t + 1) % n];
  const float g = f[t];
  unsigned* o = out + t * 24;
  o[0] = static_cast<unsigned>(__popc(x));
  o[1] = static_cast<unsigned>(__clz(static_cast<int>(x)));
  o[2] = static_cast<unsigned>(__ffs(static_cast<int>(x)));
  o[3] = __brev(x);
  o[4] = __umulhi(x, y);
  o[5] = static_cast<unsigned>(__mulhi(static_cast<int>(x), static_cast<int>(y)));
  o[6] = __funnelshift_l(x, y, static_cast<unsigned>(t));
  o[7] = __funnelshift_r(x, y, static_cast<unsigned>(t));
  o[8] = __byte_perm(x, y, 0x7204u);
  o[9] = static_cast<unsigned>(__float2int_rn(g));
  o[10] = static_cast<unsigned>(__float2int_rz(g));
  o[11] = static_cast<unsigned>(__float2int_rd(g));
  o[12] = static_cast<unsigned>(__float2int_ru(g));
  o[13] = __float_as_uint(__saturatef(g));
  o[14] = __float_as_uint(fminf(g, 1.5f));
  o[15] = __float_as_uint(fmaxf(g, 1.5f));
  o[16] = min(x, y);
  o[17] = static_cast<unsigned>(max(static_cast<int>(x), static_cast<int>(y)));
  o[18] = __float_as_uint(__fmul_rn(g, 3.0f));
  o[19] = __float_as_uint(__fadd_rn(g, 1.25f));
  o[20] = __float_as_uint(__fmaf_rn(g, 3.0f, 1.0f));
  o[21] = pcn::to_tf32(g);
  o[22] = pcn::to_bf16(g);
  o[23] = __float_as_uint(pcn::from_bf16(static_cast<uint16_t>(x)));
}
void scalars(Result& r) {
  const float values[] = {0.0f,    1.0f,   -1.0f,   2.5f,           -2.5f,     3.5f,
                          1e10f,   -1e10f, 0.4999f, 1.00048828125f, -7.5f,     1e-3f,
                          65504.f, 0.5f,   1.5f,    1.0009765f,     1.001953f, 3.1415926f};
  const int n = static_cast<int>(sizeof values / sizeof *values);
  Array<unsigned> a(static_cast<size_t>(n),
                    [](int i) { return static_cast<unsigned>(i) * 2654435761u + (i == 3 ? 0u : 1u); });
  Array<float> f(static_cast<size_t>(n), [&](int i) { return values[i]; });
  Array<unsigned> out(static_cast<size_t>(n) * 24);
  r.run(
      pcn::launch("scalar", scalar_kernel, dim3(1), dim3(32), 0, nullptr, a.data(), f.data(), out.data(), n));
  const auto clamp = [](double x) {
    return static_cast<unsigned>(static_cast<int>(std::max(-2147483648.0, std::min(2147483647.0, x))));
  };
  const auto reverse = [](unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; ++i) y = y << 1 | (x >> i & 1);
    return y;
  };
  r.expect_each<unsigned>(out.read(), [&](int i) {
    const int t = i / 24;
    const unsigned x = a[static_cast<size_t>(t)], y = a[static_cast<size_t>((t + 1) % n)];
    const float g = values[t];
    const uint64_t pair = static_cast<uint64_t>(y) << 32 | x;
    unsigned gb = Result::bits(g == 0 ? 0.0f : g), ones = 0, leading = 0, first = 0;
    for (int b = 0; b < 32; ++b) ones += x >> b & 1;
    while (leading < 32 && !(x >> (31 - leading) & 1)) ++leading;
    while (first < 32 && !(x >> first & 1)) ++first;
    const unsigned want[24] = {
        ones,
        leading,
        x ? first + 1 : 0,
        reverse(x),
        static_cast<unsigned>(static_cast<uint64_t>(x) * y >> 32),
        static_cast<unsigned>(static_cast<int64_t>(static_cast<int>(x)) * static_cast<int>(y) >> 32),
        static_cast<unsigned>(pair << t >> 32),
        static_cast<unsigned>(pair >> t),
        (y >> 24 & 255) << 24 | (x >> 16 & 255) << 16 | (x & 255) << 8 | (y & 255),
        clamp(std::nearbyint(g)),
        clamp(std::trunc(g)),
        clamp(std::floor(g)),
        clamp(std::ceil(g)),
        Result::bits(g > 0 ? (g < 1 ? g : 1.0f) : 0.0f),
        Result::bits(g < 1.5f ? g : 1.5f),
        Result::bits(g > 1.5f ? g : 1.5f),
        std::min(x, y),
        static_cast<unsigned>(std::max(static_cast<int>(x), static_cast<int>(y))),
        Result::bits(static_cast<float>(static_cast<double>(g) * 3.0)),
        Result::bits(static_cast<float>(static_cast<double>(g) + 1.25)),
        Result::bits(std::fma(g, 3.0f, 1.0f)),
        (gb + 0x1000u) & ~0x1fffu,
        (gb + 0x7fffu + (gb >> 16 & 1)) >> 16,
        x << 16};
    return want[i % 24];
  });
}

__global__ void philox_kernel(uint4* out) {
  const uint4 ones = make_uint4(~0u, ~0u, ~0u, ~0u);
  out[0] = pcn::philox4x32_10(make_uint4(0, 0, 0, 0), make_uint2(0, 0));
  out[1] = pcn::philox4x32_10(ones, make_uint2(~0u, ~0u));
  out[2] = pcn::philox4x32_10(make_uint4(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u),
                              make_uint2(0xa4093822u, 0x299f31d0u));
}
void philox(Result& r) {
  Array<uint4> out(3);
  r.run(pcn::launch("philox", philox_kernel, dim3(1), dim3(1), 0, nullptr, out.data()));
  std::vector<unsigned> got;
  for (const uint4& v : out.read()) got.insert(got.end(), {v.x, v.y, v.z, v.w});
  // The known answers of the authors' Random123 package.
  r.expect(got, std::vector<unsigned>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u, 0x408f276du,
                                      0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu, 0xd16cfe09u, 0x94fdccebu,
                                      0x5001e420u, 0x24126ea1u});
}

__global__ void vector_kernel(const float4* x, float4* y, const uchar4* b, int* sum) {
  const int t = static_cast<int>(threadIdx.x);
  float4 v = __ldg(x + t);
  v.x += 1;
  v.w = v.y * v.z;
  __stcs(y + t, v);
  const uchar4 c = __ldcs(b + t);
  sum[t] = c.x + 2 * c.y + 3 * c.z + 4 * c.w;
}
void vectors(Result& r) {
  Array<float> x(128, small), y(128);
  Array<uint8_t> b(128, [](int i) { return static_cast<uint8_t>(i * 5); });
  Array<int> sum(32);
  r.run(pcn::launch("vector", vector_kernel, dim3(1), dim3(32), 0, nullptr,
                    reinterpret_cast<const float4*>(x.data()), reinterpret_cast<float4*>(y.data()),
                    reinterpret_cast<const uchar4*>(b.data()), sum.data()));
  r.expect_each<float>(y.read(), [&](int i) {
    const int base = i / 4 * 4;
    return i % 4 == 0 ? small(i) + 1 : i % 4 == 3 ? small(base + 1) * small(base + 2) : small(i);
  });
  r.expect_each<int>(sum.read(), [](int t) {
    int s = 0;
    for (int e = 0; e < 4; ++e) s += (e + 1) * ((4 * t + e) * 5 & 255);
    return s;
  });
}

#include "primitives_launch.h"
#include "primitives_maps.h"
#include "primitives_tensor.h"

struct Case {
  const char* name;
  void (*run)(Result&);
};
const Case CASES[] = {
    {"indices", indices},
    {"shuffles", shuffles},
    {"votes", votes},
    {"block_votes", block_votes},
    {"atomics", atomics},
    {"last_block", last_block},
    {"scalars", scalars},
    {"philox", philox},
    {"vectors", vectors},
    {"parameters", parameters_case},
    {"window", window_case},
    {"slot", slot_case},
    {"cp_async", cp_async_case},
    {"ldmatrix", ldmatrix_case},
    {"mma", mma_case},
    {"named_barrier", named_barrier_case},
    {"mbarrier", mbarrier_case},
    {"tma_load_2d", tma_load_2d_case},
    {"tma_load_4d", tma_load_4d_case},
    {"tma_im2col", tma_im2col_case},
    {"tma_store", tma_store_case},
    {"tma_96_bytes", tma_96_bytes_case},
    {"tensor_maps", tensor_maps_case},
    {"found_maps", found_maps},
    {"elect", elect_case},
    {"dependent", dependent_case},
    {"stmatrix", stmatrix_case},
    {"tma_hints", tma_hints_case},
    {"tma_tf32", tma_tf32_case},
    {"tma_alexnet", tma_alexnet_case},
    {"tma_overlap", tma_overlap_case},
#ifndef PRIMITIVES_WITHOUT_WGMMA
    {"wgmma_tf32", wgmma_tf32_case},
    {"wgmma_bf16", wgmma_bf16_case},
    {"wgmma_swizzle", wgmma_swizzle_case},
    {"wgmma_planes", wgmma_planes_case},
    {"wgmma_mn", wgmma_mn_case},
    {"wgmma_mn_partial", wgmma_mn_partial_case},
    {"wgmma_registers", wgmma_registers_case},
    {"wgmma_96_bytes", wgmma_96_bytes_case},
    {"pipeline", pipeline_case},
#endif
};

}  // namespace

int main(int argc, char** argv) {
  bool good = true, first = true;
  printf("{");
  for (const Case& c : CASES) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted |= !strcmp(argv[i], c.name);
    if (!wanted) continue;
    Result r;
    c.run(r);
    size_t wrong = r.got.size() == r.want.size() ? 0 : 1;
    for (size_t i = 0; i < std::min(r.got.size(), r.want.size()); ++i) wrong += r.got[i] != r.want[i];
    if (r.got.empty()) wrong = 1;
    good &= wrong == 0 && r.error.empty();
    printf("%s\n\"%s\": {\"error\": %s, \"wrong\": %zu, \"bits\": [", first ? "" : ",", c.name,
           probe::quoted(r.error).c_str(), wrong);
    for (size_t i = 0; i < r.got.size(); ++i) printf("%s%u", i ? "," : "", r.got[i]);
    printf("]}");
    first = false;
  }
  printf("\n}\n");
  return good ? 0 : 1;
}
