// planted.cu: small right kernels and, by template parameter, the same with one bug planted
//
// Emulator only. Prints {"case": {"error": "...", "wrong": n}, ...} like primitives.cu. With arguments: only
// the cases named; "all" is every right kernel and every bug that cannot harm the process. test_emulator.py
// says which mode of the emulator must notice which bug.
#include "probe.h"

#include <functional>

using probe::Array;
using probe::small;

namespace {

struct Result {
  std::string error;
  int wrong = 0;
  void run(cudaError_t launched) {
    if (error.empty()) error = probe::error_text(launched);
  }
  template <class T>
  void expect(const Array<T>& got, const std::function<T(int)>& want) {
    for (size_t i = 0; i < got.host.size(); ++i) wrong += !(got.host[i] == want(static_cast<int>(i)));
  }
};

// ---- barriers -----------------------------------------------------------------------------------
struct SumSmem {
  int part[128];
};
// BUG: 1 no barrier after the stores; 2 none between the halvings; 3 off by one; 4 one thread too few; 5
// uninitialised read
template <int BUG>
__global__ void sum_kernel(const int* x, int* out) {
  SumSmem& s = pcn::shared<SumSmem>();
  const int t = static_cast<int>(threadIdx.x);
  if (BUG != 5 || t != 77) s.part[t] = x[blockIdx.x * 128 + threadIdx.x];
  if (BUG != 1) __syncthreads();
  for (int half = 64; half; half /= 2) {
    if (t < half - (BUG == 4)) s.part[t] += s.part[t + half - (BUG == 3 && t == 0)];
    if (BUG != 2) __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = s.part[0];
}
template <int BUG>
void sum(Result& r) {
  Array<int> x(4 * 128, [](int i) { return i % 13 + 1; }), out(4);
  r.run(pcn::launch("sum", sum_kernel<BUG>, dim3(4), dim3(128), 0, nullptr, x.data(), out.data()));
  out.read();
  r.expect<int>(out, [&](int b) {
    int total = 0;
    for (int i = 0; i < 128; ++i) total += (128 * b + i) % 13 + 1;
    return total;
  });
}

struct TileSmem {
  float a[16][17], b[16][17];
};
// c = a b, 48 x 48. BUG: 1 no barrier after the stores; 2 none before the next stores; 3 a row of the output
// not written; 4 shared index one too far
template <int BUG>
__global__ void tile_kernel(const float* a, const float* b, float* c) {
  TileSmem& s = pcn::shared<TileSmem>();
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int row = static_cast<int>(blockIdx.y) * 16 + y, column = static_cast<int>(blockIdx.x) * 16 + x;
  float sum = 0;
  for (int k = 0; k < 48; k += 16) {
    s.a[y][x] = a[row * 48 + k + x];
    s.b[y][x + (BUG == 4 && y == 15 && x == 15 ? 2 : 0)] = b[(k + y) * 48 + column];
    if (BUG != 1) __syncthreads();
    for (int i = 0; i < 16; ++i) sum += s.a[y][i] * s.b[i][x];
    if (BUG != 2) __syncthreads();
  }
  if (BUG != 3 || row != 37) c[row * 48 + column] = sum;
}
template <int BUG>
void tile(Result& r) {
  Array<float> a(48 * 48, small), b(48 * 48, [](int i) { return small(i + 5); }), c(48 * 48);
  r.run(pcn::launch("tile", tile_kernel<BUG>, dim3(3, 3), dim3(16, 16), 0, nullptr, a.data(), b.data(),
                    c.data()));
  c.read();
  r.expect<float>(c, [](int i) {
    float sum = 0;
    for (int k = 0; k < 48; ++k) sum += small(i / 48 * 48 + k) * small(k * 48 + i % 48 + 5);
    return sum;
  });
}

// BUG: 1 an early return; 2 two barriers complete one another; 3 a warp stays away; 4 a shuffle with a lane
// missing; 5 a shuffle meets a ballot; 6 named barriers for different counts; 7 a named barrier nobody
// completes; 8 an endless spin
template <int BUG>
__global__ void meet_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (BUG == 1 && t == 63) return;
  if (BUG == 2 && t < 32) {
    __syncthreads();
  } else if (BUG != 3 || t < 32) {
    __syncthreads();
  }
  int v = t;
  if (BUG != 4 || t != 5) v = __shfl_xor_sync(0xffffffffu, t, 1);
  if (BUG == 5) v += t % 2 ? __shfl_sync(0xffffffffu, t, 0) : static_cast<int>(__ballot_sync(0xffffffffu, 1));
  if (BUG == 6) pcn::named_barrier_sync(1, t < 32 ? 64 : 32);
  if (BUG == 7 && t < 32) pcn::named_barrier_sync(1, 64);
  if (BUG == 8 && t == 0) {
    while (atomicAdd(out + 64, 0) != 1) __nanosleep(20);
  }
  out[t] = v;
}
template <int BUG>
void meet(Result& r) {
  Array<int> out(65, [](int) { return 0; });
  r.run(pcn::launch("meet", meet_kernel<BUG>, dim3(1), dim3(64), 0, nullptr, out.data()));
  out.read();
  r.expect<int>(out, [](int i) { return i < 64 ? i ^ 1 : 0; });
}

struct RotateSmem {
  int s[64];
};
template <int BUG>  // 1: no __syncwarp between the write and the neighbour's read
__global__ void rotate_kernel(const int* x, int* y) {
  RotateSmem& m = pcn::shared<RotateSmem>();
  const int t = static_cast<int>(threadIdx.x);
  m.s[t] = x[t];
  if (BUG != 1) __syncwarp();
  y[t] = m.s[(t & ~31) | ((t + 1) & 31)];
}
template <int BUG>
void rotate(Result& r) {
  Array<int> x(64, [](int i) { return i; }), y(64);
  r.run(pcn::launch("rotate", rotate_kernel<BUG>, dim3(1), dim3(64), 0, nullptr, x.data(), y.data()));
  y.read();
  r.expect<int>(y, [](int i) { return (i & ~31) | ((i + 1) & 31); });
}

// ---- between blocks -----------------------------------------------------------------------------
struct LastSmem {
  int last;
};
// BUG: 1 no fence before the ticket; 2 none after it; 3 two blocks write one word; 4 a histogram without
// atomics
template <int BUG>
__global__ void grid_kernel(int* part, unsigned* ticket, int* out, int* bins) {
  LastSmem& s = pcn::shared<LastSmem>();
  const int b = static_cast<int>(blockIdx.x);
  if (threadIdx.x == 0) {
    part[BUG == 3 ? b / 2 * 2 : b] = 3 * b;
    if (BUG != 1) __threadfence();
    s.last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    if (BUG != 2) __threadfence();
  }
  if (BUG == 4) {
    bins[threadIdx.x % 4] += 1;
  } else {
    atomicAdd(&bins[threadIdx.x % 4], 1);
  }
  __syncthreads();
  if (s.last && threadIdx.x == 0) {
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += part[i];
    *out = sum;
  }
}
template <int BUG>
void grid(Result& r) {
  Array<int> part(8), out(1), bins(4, [](int) { return 0; });
  Array<unsigned> ticket(1, [](int) { return 0u; });
  r.run(pcn::launch("grid", grid_kernel<BUG>, dim3(8), dim3(64), 0, nullptr, part.data(), ticket.data(),
                    out.data(), bins.data()));
  out.read();
  bins.read();
  r.expect<int>(out, [](int) { return 3 * 28; });
  r.expect<int>(bins, [](int) { return 128; });
}

// ---- memory -------------------------------------------------------------------------------------
struct EdgeSmem {
  float s[64];
};
// BUG: 1 dynamic read and 2 write one behind; 3 static write behind; 4 static write before; 5 global read and
// 6 write one behind; 7 cp.async behind the end of global memory; 8 misaligned float4; 9 misaligned __ldg; 10
// write to the input; 11 cp.async to a misaligned and 12 to a local address; 13 a write far outside; 14 a
// shift by 32
template <int BUG>
__global__ void edge_kernel(const float* x, float* y, int n) {
  EdgeSmem& m = pcn::shared<EdgeSmem>();
  float* d = pcn::dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  volatile int one = 1;  // hides the index from the compiler's own array bounds
  d[t] = x[t];
  m.s[t] = 0;
  if (BUG == 2) d[t + one] = x[t];
  if (BUG == 3 && t == 63) m.s[t + one] = 1;
  if (BUG == 4 && t == 0) m.s[t - one] = 1;
  __syncthreads();
  float v = d[t];
  if (BUG == 1) v = d[t + one] * 0 + d[t];
  if (BUG == 5) v += x[t + one] * 0;
  if (BUG == 6) y[t + one] = 0;
  if (BUG == 7 || BUG == 11) {
    __syncthreads();
    if (t == 0) pcn::cp_async_16(d + (BUG == 11), x + n - (BUG == 7 ? 4 - 4 * one : 4));
    pcn::cp_async_commit();
    pcn::cp_async_wait<0>();
    __syncthreads();
  }
  if (BUG == 12) {
    alignas(16) float local[4] = {0, 0, 0, 0};
    pcn::cp_async_16(local, x);
    pcn::cp_async_commit();
    pcn::cp_async_wait<0>();
    v += local[0];
  }
  if (BUG == 8) v += reinterpret_cast<const float4*>(m.s + one)->x;
  if (BUG == 9) v += __ldg(reinterpret_cast<const float4*>(x + one)).x;
  if (BUG == 10) const_cast<float*>(x)[t] = v;
  if (BUG == 13 && t == 9) y[5000 * one] = 0;
  if (BUG == 14) v += static_cast<float>(1 << (31 + one)) * 0;
  if (BUG != 6) y[t] = v;
}
template <int BUG>
void edge(Result& r) {
  Array<float> x(64, small), y(64);
#ifdef PCN_RACECHECK
  if (BUG == 10) {  // as the bindings do: inputs are registered as read-only
    pcn::emulation::unregister_global(x.data());
    pcn::emulation::register_global(x.data(), 256, false);
  }
#endif
  r.run(pcn::launch("edge", edge_kernel<BUG>, dim3(1), dim3(64), 256, nullptr,
                    static_cast<const float*>(x.data()), y.data(), 64));
  y.read();
  r.expect<float>(y, small);
}

// Two static objects, of which each alone would be small enough.
template <int KILOBYTES>
struct Large {
  float s[KILOBYTES * 256];
};
template <int A, int B>
__global__ void two_objects_kernel(const float* x, float* y, int n) {
  float *a = pcn::shared<Large<A>>().s, *b = pcn::shared<Large<B>>().s;
  const int t = static_cast<int>(threadIdx.x);
  a[t] = x[n - 1 - t];
  __syncthreads();
  b[t] = a[n - 1 - t];
  y[t] = b[t];
}

// BUG: 1 too many threads; 2 too much dynamic and 3 too much total shared memory; 4 no blocks; 5 z too long;
// 6 more than 48 KiB of shared memory and 7 of dynamic memory alone that the launch does not ask for, as it
// leaves out the static part, the dynamic one; 8 too much static shared memory
template <int BUG>
void limits(Result& r) {
  Array<float> x(64, small), y(64);
#ifndef __CUDACC__
  if (BUG == 6 || BUG == 7) {
    const auto asks = BUG == 6 ? [](size_t, size_t dynamic) { return dynamic > 48 * 1024; }
                               : [](size_t fixed, size_t) { return fixed > 48 * 1024; };
    r.run(pcn::emulation::launch_asking(asks, "limits", two_objects_kernel<1, 11>, dim3(1), dim3(64),
                                        (BUG == 6 ? 40 : 50) * 1024, nullptr, x.data(), y.data(), 64));
    return;
  }
#endif
  if (BUG == 0 || BUG == 8) {  // 52 KiB in all, which launch() asks for
    Array<float> z(64);
    r.run(pcn::launch("limits", two_objects_kernel < BUG == 8 ? 38 : 1, 11 >, dim3(1), dim3(64), 40 * 1024,
                      nullptr, x.data(), z.data(), 64));
    z.read();
    r.expect<float>(z, small);
  }
  const dim3 grid(1, 1, BUG == 4 ? 0 : BUG == 5 ? 65536 : 1), block(BUG == 1 ? 1025 : 64);
  const size_t bytes = BUG == 2 ? 232449 : BUG == 3 ? 232448 : 256;
  r.run(pcn::launch("limits", edge_kernel<0>, grid, block, bytes, nullptr,
                    static_cast<const float*>(x.data()), y.data(), 64));
  y.read();
  r.expect<float>(y, small);
}

#include "planted_async.h"

struct Case {
  const char* name;
  void (*run)(Result&);
  bool harmful;  // writes where it must not: only where the emulator stops it first
};
#define RIGHT(F) {#F, F<0>, false}
#define BUG(F, N) {#F "/" #N, F<N>, false}
#define HARMFUL(F, N) {#F "/" #N, F<N>, true}
const Case CASES[] = {
    RIGHT(sum),     BUG(sum, 1),    BUG(sum, 2),      BUG(sum, 3),      BUG(sum, 4),       BUG(sum, 5),
    RIGHT(tile),    BUG(tile, 1),   BUG(tile, 2),     BUG(tile, 3),     HARMFUL(tile, 4),  RIGHT(meet),
    BUG(meet, 1),   BUG(meet, 2),   BUG(meet, 3),     BUG(meet, 4),     BUG(meet, 5),      BUG(meet, 6),
    BUG(meet, 7),   BUG(meet, 8),   RIGHT(rotate),    BUG(rotate, 1),   RIGHT(grid),       BUG(grid, 1),
    BUG(grid, 2),   BUG(grid, 3),   BUG(grid, 4),     RIGHT(edge),      BUG(edge, 1),      BUG(edge, 2),
    BUG(edge, 3),   BUG(edge, 4),   HARMFUL(edge, 5), HARMFUL(edge, 6), HARMFUL(edge, 7),  HARMFUL(edge, 8),
    BUG(edge, 9),   BUG(edge, 10),  BUG(edge, 11),    BUG(edge, 12),    HARMFUL(edge, 13), BUG(edge, 14),
    RIGHT(limits),  BUG(limits, 1), BUG(limits, 2),   BUG(limits, 3),   BUG(limits, 4),    BUG(limits, 5),
    BUG(limits, 6), BUG(limits, 7), BUG(limits, 8),   RIGHT(copy),      BUG(copy, 1),      BUG(copy, 2),
    BUG(copy, 3),   BUG(copy, 4),   RIGHT(ring),      BUG(ring, 1),     BUG(ring, 2),      BUG(ring, 3),
    BUG(ring, 4),   BUG(ring, 5),   RIGHT(manual),    BUG(manual, 1),   BUG(manual, 2),    BUG(manual, 3),
    BUG(manual, 4), BUG(manual, 5), RIGHT(gemm),      BUG(gemm, 1),     BUG(gemm, 2),      BUG(gemm, 3),
    BUG(gemm, 4),   BUG(gemm, 5),   BUG(gemm, 6),     RIGHT(store),     BUG(store, 1),     BUG(store, 2),
    BUG(store, 3),  RIGHT(narrow),  BUG(narrow, 1),   BUG(narrow, 2),   BUG(narrow, 3),    BUG(narrow, 4),
    RIGHT(taps),    BUG(taps, 1),   RIGHT(major),     BUG(major, 1),    BUG(major, 2),     BUG(major, 3),
    BUG(major, 4),  BUG(major, 5),  BUG(major, 6),    BUG(major, 7),    RIGHT(vain),       BUG(vain, 1),
    BUG(ring, 6),   BUG(narrow, 5), BUG(narrow, 6),
};

}  // namespace

int main(int argc, char** argv) {
  bool first = true;
  printf("{");
  for (const Case& c : CASES) {
    bool wanted = false;
    for (int i = 1; i < argc; ++i)
      wanted |= !strcmp(argv[i], c.name) || (!strcmp(argv[i], "all") && !c.harmful);
    if (!wanted) continue;
    Result r;
    c.run(r);
    printf("%s\n\"%s\": {\"error\": %s, \"wrong\": %d}", first ? "" : ",", c.name,
           probe::quoted(r.error).c_str(), r.wrong);
    fflush(stdout);
    first = false;
  }
  printf("\n}\n");
  return 0;
}
