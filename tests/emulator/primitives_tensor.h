// primitives_tensor.h: the tensor-core and asynchronous half of primitives.cu, included into it
#pragma once

// ---- cp.async -----------------------------------------------------------------------------------
struct CpAsyncSmem {
  float4 sixteen[2][32];
  float2 eight[32];
  float four[32];
};
__global__ void cp_async_kernel(const float4* x, float* out) {
  CpAsyncSmem& s = pcn::shared<CpAsyncSmem>();
  const int t = static_cast<int>(threadIdx.x);
  const float* f = reinterpret_cast<const float*>(x);
  pcn::cp_async_16(&s.sixteen[0][t], x + t);
  pcn::cp_async_8(&s.eight[t], f + 2 * t, t % 2 == 0);
  pcn::cp_async_commit();
  pcn::cp_async_16(&s.sixteen[1][t], x + 32 + t, t % 3 != 0);
  pcn::cp_async_4(&s.four[t], f + 5 * (t % 20), t % 5 != 1);
  pcn::cp_async_commit();
  pcn::cp_async_wait<1>();
  __syncthreads();
  float* o = out + t * 11;
  const float4 a = s.sixteen[0][31 - t];
  o[0] = a.x, o[1] = a.y, o[2] = a.z, o[3] = a.w;
  o[4] = s.eight[31 - t].x, o[5] = s.eight[31 - t].y;
  pcn::cp_async_wait<0>();
  __syncthreads();
  const float4 b = s.sixteen[1][31 - t];
  o[6] = b.x, o[7] = b.y, o[8] = b.z, o[9] = b.w;
  o[10] = s.four[31 - t];
}
void cp_async_case(Result& r) {
  Array<float> x(256, small), out(32 * 11);
  r.run(pcn::launch("cp_async", cp_async_kernel, dim3(1), dim3(32), 0, nullptr,
                    reinterpret_cast<const float4*>(x.data()), out.data()));
  r.expect_each<float>(out.read(), [](int i) {
    const int t = 31 - i / 11, e = i % 11;
    if (e < 4) return small(4 * t + e);
    if (e < 6) return t % 2 == 0 ? small(2 * t + e - 4) : 0.0f;
    if (e < 10) return t % 3 != 0 ? small(128 + 4 * t + e - 6) : 0.0f;
    return t % 5 != 1 ? small(5 * (t % 20)) : 0.0f;
  });
}

// ---- ldmatrix, mma ------------------------------------------------------------------------------
struct LdmatrixSmem {
  uint16_t a[32][24];  // rows of 16-byte units that are not neighbours
};
__global__ void ldmatrix_kernel(uint32_t* out) {
  LdmatrixSmem& s = pcn::shared<LdmatrixSmem>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 32 * 24; i += 32) s.a[i / 24][i % 24] = static_cast<uint16_t>(i);
  __syncthreads();
  uint32_t r1[1], r2[2], r4[4], t1[1], t2[2], t4[4];
  const void* row = &s.a[lane][8];
  pcn::ldmatrix_x1(r1, row);
  pcn::ldmatrix_x2(r2, row);
  pcn::ldmatrix_x4(r4, row);
  pcn::ldmatrix_x1_trans(t1, row);
  pcn::ldmatrix_x2_trans(t2, row);
  pcn::ldmatrix_x4_trans(t4, row);
  uint32_t* o = out + lane * 14;
  o[0] = r1[0], o[1] = t1[0];
  for (int m = 0; m < 2; ++m) o[2 + m] = r2[m], o[4 + m] = t2[m];
  for (int m = 0; m < 4; ++m) o[6 + m] = r4[m], o[10 + m] = t4[m];
}
void ldmatrix_case(Result& r) {
  Array<uint32_t> out(32 * 14);
  r.run(pcn::launch("ldmatrix", ldmatrix_kernel, dim3(1), dim3(32), 0, nullptr, out.data()));
  r.expect_each<uint32_t>(out.read(), [](int i) {
    static const int matrix[14] = {0, 0, 0, 1, 0, 1, 0, 1, 2, 3, 0, 1, 2, 3};
    static const bool trans[14] = {0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1};
    const int lane = i / 14, m = matrix[i % 14], a = lane / 4, b = 2 * (lane % 4);
    const auto at = [&](int row, int column) {
      return static_cast<uint32_t>((8 * m + row) * 24 + 8 + column);
    };
    return trans[i % 14] ? at(b, a) | at(b + 1, a) << 16 : at(a, b) | at(a, b + 1) << 16;
  });
}

PCN_HOST_FN uint16_t half_bits(int v) {  // of -4 ... 4
  const int m = v < 0 ? -v : v;
  const uint16_t bits = m == 0 ? 0 : m == 1 ? 0x3c00 : m == 2 ? 0x4000 : m == 3 ? 0x4200 : 0x4400;
  return static_cast<uint16_t>(bits | (v < 0 ? 0x8000 : 0));
}
template <class F>
PCN_FN uint32_t two(const float* row, int stride, int k, F convert) {
  return convert(row[k * stride]) | static_cast<uint32_t>(convert(row[(k + 1) * stride])) << 16;
}
// a[16][16], b[16][8], c[16][8] row-major; d of the three types. tf32 takes two products of depth 8.
__global__ void mma_kernel(const float* a, const float* b, const float* c, float* out) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  for (int type = 0; type < 3; ++type) {
    float d[4];
    for (int e = 0; e < 4; ++e) d[e] = c[(g + 8 * (e / 2)) * 8 + 2 * t + e % 2];
    if (type == 0) {
      for (int k = 0; k < 16; k += 8) {
        const uint32_t fa[4] = {pcn::to_tf32(a[g * 16 + k + t]), pcn::to_tf32(a[(g + 8) * 16 + k + t]),
                                pcn::to_tf32(a[g * 16 + k + t + 4]),
                                pcn::to_tf32(a[(g + 8) * 16 + k + t + 4])};
        const uint32_t fb[2] = {pcn::to_tf32(b[(k + t) * 8 + g]), pcn::to_tf32(b[(k + t + 4) * 8 + g])};
        pcn::mma_m16n8k8_tf32(d, fa, fb);
      }
    } else {
      const auto fill = [&](auto convert, uint32_t (&fa)[4], uint32_t (&fb)[2]) {
        for (int r = 0; r < 4; ++r) fa[r] = two(a + (g + 8 * (r % 2)) * 16, 1, 2 * t + 8 * (r / 2), convert);
        for (int r = 0; r < 2; ++r) fb[r] = two(b + g, 8, 2 * t + 8 * r, convert);
      };
      uint32_t fa[4], fb[2];
      if (type == 1) {
        fill([](float f) { return pcn::to_bf16(f); }, fa, fb);
        pcn::mma_m16n8k16_bf16(d, fa, fb);
      } else {
        fill([](float f) { return half_bits(static_cast<int>(f)); }, fa, fb);
        pcn::mma_m16n8k16_f16(d, fa, fb);
      }
    }
    for (int e = 0; e < 4; ++e) out[type * 128 + (g + 8 * (e / 2)) * 8 + 2 * t + e % 2] = d[e];
  }
}
void mma_case(Result& r) {
  Array<float> a(256, small), b(128, [](int i) { return small(i + 11); }),
      c(128, [](int i) { return small(i + 3); });
  Array<float> out(3 * 128);
  r.run(pcn::launch("mma", mma_kernel, dim3(1), dim3(32), 0, nullptr, a.data(), b.data(), c.data(),
                    out.data()));
  r.expect_each<float>(out.read(), [](int i) {
    const int row = i % 128 / 8, column = i % 8;
    float sum = small(i % 128 + 3);
    for (int k = 0; k < 16; ++k) sum += small(row * 16 + k) * small(k * 8 + column + 11);
    return sum;
  });
}

// ---- producer and consumer ----------------------------------------------------------------------
struct RingSmem {
  int slot[2][32];
  uint64_t full[2], empty[2];
};
constexpr int ROUNDS = 7;
// Warp 0 fills a ring of two slots, warp 1 empties it. Named barriers 1, 2 say full, 3, 4 empty.
__global__ void named_barrier_kernel(int* out) {
  RingSmem& s = pcn::shared<RingSmem>();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x < 32) {
    for (int i = 0; i < ROUNDS; ++i) {
      if (i >= 2) pcn::named_barrier_sync(3 + i % 2, 64);
      s.slot[i % 2][lane] = 100 * i + lane;
      pcn::named_barrier_arrive(1 + i % 2, 64);
    }
  } else {
    for (int i = 0; i < ROUNDS; ++i) {
      pcn::named_barrier_sync(1 + i % 2, 64);
      out[i * 32 + lane] = s.slot[i % 2][31 - lane];
      if (i + 2 < ROUNDS) pcn::named_barrier_arrive(3 + i % 2, 64);
    }
  }
}
__global__ void mbarrier_kernel(int* out) {
  RingSmem& s = pcn::shared<RingSmem>();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      pcn::mbarrier_init(&s.full[i], 32);
      pcn::mbarrier_init(&s.empty[i], 32);
    }
    pcn::fence_mbarrier_init();
  }
  __syncthreads();
  for (int i = 0; i < ROUNDS; ++i) {
    const uint32_t phase = static_cast<uint32_t>(i / 2 % 2);
    if (threadIdx.x < 32) {
      pcn::mbarrier_wait(&s.empty[i % 2], phase ^ 1);
      s.slot[i % 2][lane] = 100 * i + lane;
      pcn::mbarrier_arrive(&s.full[i % 2]);
    } else {
      pcn::mbarrier_wait(&s.full[i % 2], phase);
      out[i * 32 + lane] = s.slot[i % 2][31 - lane];
      pcn::mbarrier_arrive(&s.empty[i % 2]);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) pcn::mbarrier_invalidate(&s.full[0]);
}
template <class Kernel>
void ring(Result& r, const char* name, Kernel kernel) {
  Array<int> out(ROUNDS * 32);
  r.run(pcn::launch(name, kernel, dim3(1), dim3(64), 0, nullptr, out.data()));
  r.expect_each<int>(out.read(), [](int i) { return i / 32 * 100 + 31 - i % 32; });
}
void named_barrier_case(Result& r) { ring(r, "named_barrier", named_barrier_kernel); }
void mbarrier_case(Result& r) { ring(r, "mbarrier", mbarrier_kernel); }

// ---- TMA ----------------------------------------------------------------------------------------
PCN_FN unsigned char* aligned_window() {  // to 1024 bytes, what the 128-byte swizzle wants
  unsigned char* p = pcn::dynamic_shared<unsigned char>();
  return p + ((1024 - (pcn::shared_address(p) & 1023)) & 1023);
}
struct TmaSmem {
  uint64_t barrier;
};
// The floats of a box as they lie in shared memory. `mode`: rank, or -1 for im2col.
struct TmaArgs {
  int mode, floats, c[4], offset[2];
};
__global__ void tma_load_kernel(const __grid_constant__ pcn::TensorMap map, TmaArgs args, float* out) {
  uint64_t* barrier = &pcn::shared<TmaSmem>().barrier;
  float* box = reinterpret_cast<float*>(aligned_window());
  if (threadIdx.x == 0) {
    pcn::mbarrier_init(barrier, 1);
    pcn::fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    pcn::mbarrier_arrive_expect_tx(barrier, static_cast<uint32_t>(args.floats * 4));
    const int* c = args.c;
    if (args.mode == 2) {
      pcn::tma_load_2d(box, &map, barrier, c[0], c[1]);
    } else if (args.mode == 4) {
      pcn::tma_load_4d(box, &map, barrier, c[0], c[1], c[2], c[3]);
    } else {
      pcn::tma_load_im2col_4d(box, &map, barrier, c[0], c[1], c[2], c[3],
                              static_cast<uint16_t>(args.offset[0]), static_cast<uint16_t>(args.offset[1]));
    }
  }
  pcn::mbarrier_wait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < args.floats; i += 32) out[i] = box[i];
}
// Where float `column` of row `row` lies in a box with rows of `floats` floats: 16-byte chunks are permuted
// by the row.
int swizzled(int row, int column, int floats, pcn::TensorSwizzle swizzle) {
  int chunk = column / 4;
  if (swizzle == pcn::TensorSwizzle::k128) chunk ^= row % 8;
  if (swizzle == pcn::TensorSwizzle::k64) chunk ^= row / 2 % 4;
  if (swizzle == pcn::TensorSwizzle::k32) chunk ^= row / 4 % 2;
  return row * floats + chunk * 4 + column % 4;
}
void load_box(Result& r, const pcn::TensorMap& map, const TmaArgs& args, const std::vector<float>& want) {
  Array<float> out(static_cast<size_t>(args.floats));
  r.run(pcn::launch("tma_load", tma_load_kernel, dim3(1), dim3(32),
                    static_cast<size_t>(args.floats) * 4 + 1024, nullptr, map, args, out.data()));
  r.expect(out.read(), want);
}
void tma_load_2d_case(Result& r) {
  const int inner = 36, outer = 13;
  Array<float> x(static_cast<size_t>(inner * outer), [](int i) { return static_cast<float>(i); });
  const uint64_t dim[2] = {inner, outer}, stride[1] = {inner * 4};
  for (int mode = 0; mode < 4; ++mode) {
    const auto swizzle = static_cast<pcn::TensorSwizzle>(mode);
    const int columns = mode == 0 ? 12 : 4 << mode, rows = 16;
    const uint32_t box[2] = {static_cast<uint32_t>(columns), static_cast<uint32_t>(rows)};
    pcn::TensorMap map;
    r.run(pcn::encode_tiled(&map, x.data(), pcn::TensorElement::kFloat32, 2, dim, stride, box, swizzle));
    const int at[3][2] = {{0, 0}, {8, -2}, {inner - 5, 3}};
    for (const auto& c : at) {
      std::vector<float> want(static_cast<size_t>(columns * rows));
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < columns; ++j) {
          const int u = c[0] + j, v = c[1] + i;
          const bool inside = u >= 0 && u < inner && v >= 0 && v < outer;
          want[static_cast<size_t>(swizzled(i, j, columns, swizzle))] =
              inside ? static_cast<float>(v * inner + u) : 0.0f;
        }
      }
      load_box(r, map, {2, columns * rows, {c[0], c[1], 0, 0}, {0, 0}}, want);
    }
  }
}

constexpr int TC = 40, TW = 6, TH = 5, TN = 2;  // an NHWC tensor; its elements are their own index
float element(int c, int w, int h, int n) {
  const bool inside = c >= 0 && c < TC && w >= 0 && w < TW && h >= 0 && h < TH && n >= 0 && n < TN;
  return inside ? static_cast<float>(((n * TH + h) * TW + w) * TC + c) : 0.0f;
}
const uint64_t TENSOR_DIM[4] = {TC, TW, TH, TN}, TENSOR_STRIDE[3] = {TC * 4, TW * TC * 4, TH * TW * TC * 4};
void tma_load_4d_case(Result& r) {
  Array<float> x(TC * TW * TH * TN, [](int i) { return static_cast<float>(i); });
  const uint32_t box[4] = {32, 4, 3, 2};
  pcn::TensorMap map;
  r.run(pcn::encode_tiled(&map, x.data(), pcn::TensorElement::kFloat32, 4, TENSOR_DIM, TENSOR_STRIDE, box,
                          pcn::TensorSwizzle::k128));
  const int at[3][4] = {{0, 0, 0, 0}, {8, -1, 3, 1}, {24, 4, -2, 0}};
  for (const auto& c : at) {
    std::vector<float> want(32 * 24);
    for (int row = 0; row < 24; ++row) {
      for (int j = 0; j < 32; ++j) {
        want[static_cast<size_t>(swizzled(row, j, 32, pcn::TensorSwizzle::k128))] =
            element(c[0] + j, c[1] + row % 4, c[2] + row / 4 % 3, c[3] + row / 12);
      }
    }
    load_box(r, map, {4, 32 * 24, {c[0], c[1], c[2], c[3]}, {0, 0}}, want);
  }
}
// The A operand of a 3x3 convolution with padding 1: one load per filter position.
void tma_im2col_case(Result& r) {
  Array<float> x(TC * TW * TH * TN, [](int i) { return static_cast<float>(i); });
  for (int stride = 1; stride <= 2; ++stride) {
    const int p_extent = (TH - 1) / stride + 1, q_extent = (TW - 1) / stride + 1,
              pixels = stride == 1 ? 64 : 16;
    const int lower[2] = {-1, -1}, upper[2] = {-1, -1};
    const uint32_t steps[4] = {1, static_cast<uint32_t>(stride), static_cast<uint32_t>(stride), 1};
    pcn::TensorMap map;
    r.run(pcn::encode_im2col(&map, x.data(), pcn::TensorElement::kFloat32, TENSOR_DIM, TENSOR_STRIDE, lower,
                             upper, 32, static_cast<uint32_t>(pixels), steps, pcn::TensorSwizzle::k128));
    for (int filter = 0; filter < 9; filter += 2) {
      const int first = stride == 1 ? 0 : 4, c0 = filter % 4 ? 8 : 0;
      std::vector<float> want(static_cast<size_t>(32 * pixels));
      const auto place = [&](int m, int* w, int* h) {
        *w = m % q_extent * stride - 1;
        *h = m / q_extent % p_extent * stride - 1;
        return m / (p_extent * q_extent);
      };
      for (int i = 0; i < pixels; ++i) {
        int w, h;
        const int n = place(first + i, &w, &h);
        for (int j = 0; j < 32; ++j) {
          want[static_cast<size_t>(swizzled(i, j, 32, pcn::TensorSwizzle::k128))] =
              element(c0 + j, w + filter % 3, h + filter / 3, n);
        }
      }
      int w, h;
      const int n = place(first, &w, &h);
      load_box(r, map, {-1, 32 * pixels, {c0, w, h, n}, {filter % 3, filter / 3}}, want);
    }
  }
}

__global__ void tma_store_kernel(const __grid_constant__ pcn::TensorMap map, TmaArgs args) {
  float* box = reinterpret_cast<float*>(aligned_window());
  for (int i = static_cast<int>(threadIdx.x); i < args.floats; i += 32) box[i] = static_cast<float>(i + 1);
  pcn::fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    const int* c = args.c;
    if (args.mode == 2) {
      pcn::tma_store_2d(&map, box, c[0], c[1]);
    } else {
      pcn::tma_store_4d(&map, box, c[0], c[1], c[2], c[3]);
    }
    pcn::tma_store_commit();
    pcn::tma_store_wait_read<0>();
    for (int i = 0; i < args.floats; ++i) box[i] = -1.0f;  // the source may be overwritten now
    pcn::tma_store_wait<0>();
  }
}
void tma_store_case(Result& r) {
  const auto store = [&](int rank, const uint64_t* dim, const uint64_t* stride, const uint32_t* box,
                         TmaArgs args, size_t elements, pcn::TensorSwizzle swizzle,
                         const std::function<float(int)>& want) {
    Array<float> y(elements, [](int) { return -7.0f; });
    pcn::TensorMap map;
    r.run(pcn::encode_tiled(&map, y.data(), pcn::TensorElement::kFloat32, rank, dim, stride, box, swizzle));
    r.run(pcn::launch("tma_store", tma_store_kernel, dim3(1), dim3(32),
                      static_cast<size_t>(args.floats) * 4 + 1024, nullptr, map, args));
    r.expect_each<float>(y.read(), want);
  };
  const uint64_t dim2[2] = {20, 7}, stride2[1] = {80};
  const uint32_t box2[2] = {16, 8};
  for (const bool swizzle : {false, true}) {
    store(2, dim2, stride2, box2, {2, 128, {8, -3, 0, 0}, {0, 0}}, 140,
          swizzle ? pcn::TensorSwizzle::k64 : pcn::TensorSwizzle::kNone, [=](int i) {
            const int column = i % 20 - 8, row = i / 20 + 3;
            if (column < 0 || row >= 8) return -7.0f;
            return static_cast<float>(
                1 + swizzled(row, column, 16, swizzle ? pcn::TensorSwizzle::k64 : pcn::TensorSwizzle::kNone));
          });
  }
  const uint32_t box4[4] = {32, 4, 3, 1};
  store(4, TENSOR_DIM, TENSOR_STRIDE, box4, {4, 384, {16, 4, -1, 1}, {0, 0}}, TC * TW * TH * TN,
        pcn::TensorSwizzle::k128, [](int i) {
          const int c = i % TC - 16, w = i / TC % TW - 4, h = i / (TC * TW) % TH + 1,
                    n = i / (TC * TW * TH) - 1;
          if (c < 0 || w < 0 || w >= 4 || h >= 3 || n != 0) return -7.0f;
          return static_cast<float>(1 + swizzled(h * 4 + w, c, 32, pcn::TensorSwizzle::k128));
        });
}

#include "primitives_wgmma.h"
