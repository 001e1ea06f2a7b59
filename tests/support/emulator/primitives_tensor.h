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
// A box of `rows` x `columns` floats. `mode`: rank, or -1 for im2col.
struct TmaArgs {
  int mode, rows, columns;
  pcn::TensorSwizzle swizzle;
  int c[4], offset[2];
  PCN_HOST_FN int elements() const { return rows * columns; }
  // From row to row in shared memory: a swizzled row takes its 32, 64 or 128 bytes, however little it holds.
  PCN_HOST_FN int pitch() const {
    return swizzle == pcn::TensorSwizzle::kNone ? columns : 4 << static_cast<int>(swizzle);
  }
  // Where the box's element i lies: 16-byte chunks are permuted by the row.
  PCN_HOST_FN int place(int i) const {
    const int row = i / columns, column = i % columns;
    int chunk = column / 4;
    if (swizzle == pcn::TensorSwizzle::k128) chunk ^= row % 8;
    if (swizzle == pcn::TensorSwizzle::k64) chunk ^= row / 2 % 4;
    if (swizzle == pcn::TensorSwizzle::k32) chunk ^= row / 4 % 2;
    return row * pitch() + chunk * 4 + column % 4;
  }
  size_t window() const {
    return static_cast<size_t>(rows * pitch()) * 4 + 1024;
  }  // bytes, alignment included
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
    pcn::mbarrier_arrive_expect_tx(barrier, static_cast<uint32_t>(args.elements() * 4));
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
  for (int i = static_cast<int>(threadIdx.x); i < args.elements(); i += 32) out[i] = box[args.place(i)];
}
// want(row, column) of the box.
void load_box(Result& r, const pcn::TensorMap& map, const TmaArgs& args,
              const std::function<float(int, int)>& want) {
  Array<float> out(static_cast<size_t>(args.elements()));
  r.run(pcn::launch("tma_load", tma_load_kernel, dim3(1), dim3(32), args.window(), nullptr, map, args,
                    out.data()));
  r.expect_each<float>(out.read(), [&](int i) { return want(i / args.columns, i % args.columns); });
}
// `narrow`: rows that do not fill the swizzle's span.
void load_2d(Result& r, bool narrow) {
  const int inner = 36, outer = 13;
  Array<float> x(static_cast<size_t>(inner * outer), [](int i) { return static_cast<float>(i); });
  const uint64_t dim[2] = {inner, outer}, stride[1] = {inner * 4};
  for (int mode = narrow ? 1 : 0; mode < 4; ++mode) {
    const auto swizzle = static_cast<pcn::TensorSwizzle>(mode);
    const int columns = mode == 0 ? 12 : (narrow ? mode == 1 ? 2 : 3 : 4) << mode, rows = 16;
    const uint32_t box[2] = {static_cast<uint32_t>(columns), static_cast<uint32_t>(rows)};
    pcn::TensorMap map;
    r.run(pcn::encode_tiled(&map, x.data(), pcn::TensorElement::kFloat32, 2, dim, stride, box, swizzle));
    const int at[3][2] = {{0, 0}, {8, -2}, {inner - 5, 3}};
    for (const auto& c : at) {
      load_box(r, map, {2, rows, columns, swizzle, {c[0], c[1], 0, 0}, {0, 0}}, [&](int i, int j) {
        const int u = c[0] + j, v = c[1] + i;
        const bool inside = u >= 0 && u < inner && v >= 0 && v < outer;
        return inside ? static_cast<float>(v * inner + u) : 0.0f;
      });
    }
  }
}
void tma_load_2d_case(Result& r) { load_2d(r, false); }

constexpr int TC = 40, TW = 6, TH = 5, TN = 2;  // an NHWC tensor; its elements are their own index
float element(int c, int w, int h, int n) {
  const bool inside = c >= 0 && c < TC && w >= 0 && w < TW && h >= 0 && h < TH && n >= 0 && n < TN;
  return inside ? static_cast<float>(((n * TH + h) * TW + w) * TC + c) : 0.0f;
}
const uint64_t TENSOR_DIM[4] = {TC, TW, TH, TN}, TENSOR_STRIDE[3] = {TC * 4, TW * TC * 4, TH * TW * TC * 4};
void load_4d(Result& r, int channels) {
  Array<float> x(TC * TW * TH * TN, [](int i) { return static_cast<float>(i); });
  const uint32_t box[4] = {static_cast<uint32_t>(channels), 4, 3, 2};
  pcn::TensorMap map;
  r.run(pcn::encode_tiled(&map, x.data(), pcn::TensorElement::kFloat32, 4, TENSOR_DIM, TENSOR_STRIDE, box,
                          pcn::TensorSwizzle::k128));
  const int at[3][4] = {{0, 0, 0, 0}, {8, -1, 3, 1}, {24, 4, -2, 0}};
  for (const auto& c : at) {
    load_box(r, map, {4, 24, channels, pcn::TensorSwizzle::k128, {c[0], c[1], c[2], c[3]}, {0, 0}},
             [&](int row, int j) {
               return element(c[0] + j, c[1] + row % 4, c[2] + row / 4 % 3, c[3] + row / 12);
             });
  }
}
void tma_load_4d_case(Result& r) { load_4d(r, 32); }
// The A operand of a 3x3 convolution with padding 1: one load per filter position.
void load_im2col(Result& r, int channels) {
  Array<float> x(TC * TW * TH * TN, [](int i) { return static_cast<float>(i); });
  for (int stride = 1; stride <= 2; ++stride) {
    const int p_extent = (TH - 1) / stride + 1, q_extent = (TW - 1) / stride + 1,
              pixels = stride == 1 ? 64 : 16;
    const int lower[2] = {-1, -1}, upper[2] = {-1, -1};
    const uint32_t steps[4] = {1, static_cast<uint32_t>(stride), static_cast<uint32_t>(stride), 1};
    pcn::TensorMap map;
    r.run(pcn::encode_im2col(&map, x.data(), pcn::TensorElement::kFloat32, TENSOR_DIM, TENSOR_STRIDE, lower,
                             upper, static_cast<uint32_t>(channels), static_cast<uint32_t>(pixels), steps,
                             pcn::TensorSwizzle::k128));
    for (int filter = 0; filter < 9; filter += 2) {
      const int first = stride == 1 ? 0 : 4, c0 = filter % 4 ? 8 : 0;
      const auto place = [&](int m, int* w, int* h) {
        *w = m % q_extent * stride - 1;
        *h = m / q_extent % p_extent * stride - 1;
        return m / (p_extent * q_extent);
      };
      int w, h;
      const int n = place(first, &w, &h);
      const TmaArgs args{
          -1, pixels, channels, pcn::TensorSwizzle::k128, {c0, w, h, n}, {filter % 3, filter / 3}};
      load_box(r, map, args, [&](int i, int j) {
        int x0, y0;
        const int image = place(first + i, &x0, &y0);
        return element(c0 + j, x0 + filter % 3, y0 + filter / 3, image);
      });
    }
  }
}
void tma_im2col_case(Result& r) { load_im2col(r, 32); }

__global__ void tma_store_kernel(const __grid_constant__ pcn::TensorMap map, TmaArgs args) {
  float* box = reinterpret_cast<float*>(aligned_window());
  for (int i = static_cast<int>(threadIdx.x); i < args.elements(); i += 32)
    box[args.place(i)] = static_cast<float>(i + 1);
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
    for (int i = 0; i < args.elements(); ++i)
      box[args.place(i)] = -1.0f;  // the source may be overwritten now
    pcn::tma_store_wait<0>();
  }
}
void store_box(Result& r, const uint64_t* dim, const uint64_t* stride, const uint32_t* box,
               const TmaArgs& args, size_t elements, const std::function<float(int)>& want) {
  Array<float> y(elements, [](int) { return -7.0f; });
  pcn::TensorMap map;
  r.run(pcn::encode_tiled(&map, y.data(), pcn::TensorElement::kFloat32, args.mode, dim, stride, box,
                          args.swizzle));
  r.run(pcn::launch("tma_store", tma_store_kernel, dim3(1), dim3(32), args.window(), nullptr, map, args));
  r.expect_each<float>(y.read(), want);
}
void store_2d(Result& r, int columns, pcn::TensorSwizzle swizzle) {
  const uint64_t dim[2] = {20, 7}, stride[1] = {80};
  const uint32_t box[2] = {static_cast<uint32_t>(columns), 8};
  store_box(r, dim, stride, box, {2, 8, columns, swizzle, {8, -3, 0, 0}, {0, 0}}, 140, [=](int i) {
    const int column = i % 20 - 8, row = i / 20 + 3;
    return column < 0 || column >= columns || row >= 8 ? -7.0f
                                                       : static_cast<float>(1 + row * columns + column);
  });
}
void store_4d(Result& r, int channels) {
  const uint32_t box[4] = {static_cast<uint32_t>(channels), 4, 3, 1};
  const TmaArgs args{4, 12, channels, pcn::TensorSwizzle::k128, {16, 4, -1, 1}, {0, 0}};
  store_box(r, TENSOR_DIM, TENSOR_STRIDE, box, args, TC * TW * TH * TN, [=](int i) {
    const int c = i % TC - 16, w = i / TC % TW - 4, h = i / (TC * TW) % TH + 1, n = i / (TC * TW * TH) - 1;
    const bool inside = c >= 0 && c < channels && w >= 0 && w < 4 && h < 3 && n == 0;
    return inside ? static_cast<float>(1 + (h * 4 + w) * channels + c) : -7.0f;
  });
}
void tma_store_case(Result& r) {
  store_2d(r, 16, pcn::TensorSwizzle::kNone);
  store_2d(r, 16, pcn::TensorSwizzle::k64);
  store_4d(r, 32);
}
// Rows of 96 bytes in spans of 128 (and of 48 in 64, 16 in 32): a row's place is the span's, not the box's.
void tma_96_bytes_case(Result& r) {
  load_2d(r, true);
  load_4d(r, 24);
  load_im2col(r, 24);
  store_2d(r, 12, pcn::TensorSwizzle::k64);
  store_4d(r, 24);
}

// What the driver refuses of a tensor map, by its documents.
void tensor_maps_case(Result& r) {
  struct Tiled {
    int rank, misplaced_map, misplaced_base;
    uint64_t dim[2], stride;
    uint32_t box[2];
    pcn::TensorSwizzle swizzle;
    bool good;
  };
  const uint64_t large = uint64_t{1} << 32;
  const auto none = pcn::TensorSwizzle::kNone, k32 = pcn::TensorSwizzle::k32, k128 = pcn::TensorSwizzle::k128;
  const Tiled tiled[] = {
      {2, 0, 0, {64, 64}, 256, {32, 8}, k128, true},   {2, 0, 0, {64, 64}, 256, {24, 8}, k128, true},
      {2, 0, 0, {64, 64}, 256, {36, 8}, k128, false},  {2, 0, 0, {64, 64}, 256, {12, 8}, k32, false},
      {2, 0, 0, {64, 64}, 256, {4, 256}, k32, true},   {2, 0, 0, {64, 64}, 256, {4, 257}, k32, false},
      {2, 0, 0, {64, 64}, 256, {4, 0}, k32, false},    {2, 0, 0, {64, 64}, 256, {256, 1}, none, true},
      {2, 0, 0, {64, 64}, 256, {260, 1}, none, false}, {2, 0, 0, {64, 64}, 256, {6, 8}, none, false},
      {2, 0, 0, {64, 64}, 264, {4, 8}, none, false},   {2, 0, 0, {64, 64}, 1ull << 40, {4, 8}, none, false},
      {2, 0, 0, {64, 0}, 256, {4, 8}, none, false},    {2, 0, 0, {64, large + 1}, 256, {4, 8}, none, false},
      {2, 0, 0, {64, large}, 256, {4, 8}, none, true}, {0, 0, 0, {64, 64}, 256, {4, 8}, none, false},
      {6, 0, 0, {64, 64}, 256, {4, 8}, none, false},   {2, 16, 0, {64, 64}, 256, {4, 8}, none, false},
      {2, 0, 4, {64, 64}, 256, {4, 8}, none, false},   {2, 0, 16, {64, 64}, 256, {4, 8}, none, true},
  };
  Array<float> x(64 * 64 + 16, small);
  alignas(64) char room[sizeof(pcn::TensorMap) + 64];
  for (const Tiled& t : tiled) {
    auto* map = reinterpret_cast<pcn::TensorMap*>(room + t.misplaced_map);
    r.got.push_back(pcn::encode_tiled(map, reinterpret_cast<const char*>(x.data()) + t.misplaced_base,
                                      pcn::TensorElement::kFloat32, t.rank, t.dim, &t.stride, t.box,
                                      t.swizzle) == cudaSuccess);
    r.want.push_back(t.good);
    r.got.push_back(pcn::take_tensor_map_problem().empty());
    r.want.push_back(t.good);
  }
  struct Im2col {
    int lower, upper;
    uint32_t channels, pixels, step;
    bool good;
  };
  const Im2col im2col[] = {
      {-1, -1, 24, 64, 1, true},      {-1, -1, 36, 64, 1, false},   {-1, -1, 24, 1024, 8, true},
      {-1, -1, 24, 1025, 1, false},   {-1, -1, 24, 64, 0, false},   {-1, -1, 24, 64, 9, false},
      {-128, 127, 24, 64, 1, true},   {-129, -1, 24, 64, 1, false}, {-1, 128, 24, 64, 1, false},
      {0, -TW - 1, 24, 64, 1, false},
  };
  for (const Im2col& t : im2col) {
    const int lower[2] = {t.lower, -1}, upper[2] = {t.upper, -1};
    const uint32_t steps[4] = {1, t.step, 1, 1};
    r.got.push_back(pcn::encode_im2col(reinterpret_cast<pcn::TensorMap*>(room), x.data(),
                                       pcn::TensorElement::kFloat32, TENSOR_DIM, TENSOR_STRIDE, lower, upper,
                                       t.channels, t.pixels, steps, k128) == cudaSuccess);
    r.want.push_back(t.good);
    r.got.push_back(pcn::take_tensor_map_problem().empty());
    r.want.push_back(t.good);
  }
}

#include "primitives_hopper.h"
#ifndef PRIMITIVES_WITHOUT_WGMMA
#include "primitives_wgmma.h"
#endif
