// planted_async.h: the asynchronous half of planted.cu, included into it
#pragma once

// ---- cp.async -----------------------------------------------------------------------------------
struct CopySmem {
  float4 stage[2][64];
};
// Two stages of tiles of 64 float4; each thread reads what another copied. BUG: 1 waits for one group too
// few; 2 no barrier after the wait; 3 none before the refill; 4 exits without waiting
template <int BUG>
__global__ void copy_kernel(const float4* x, float4* y, int tiles) {
  CopySmem& s = pcn::shared<CopySmem>();
  const int t = static_cast<int>(threadIdx.x);
  pcn::cp_async_16(&s.stage[0][t], x + t);
  pcn::cp_async_commit();
  for (int i = 0; i < tiles; ++i) {
    if (i + 1 < tiles) pcn::cp_async_16(&s.stage[(i + 1) % 2][t], x + (i + 1) * 64 + t);
    pcn::cp_async_commit();
    pcn::cp_async_wait<BUG == 1 ? 2 : 1>();
    if (BUG != 2) __syncthreads();
    y[i * 64 + t] = s.stage[i % 2][63 - t];
    if (BUG != 3) __syncthreads();
  }
  if (BUG == 4) {
    pcn::cp_async_16(&s.stage[0][t], x);
    pcn::cp_async_commit();
  }
}
template <int BUG>
void copy(Result& r) {
  const int tiles = 5;
  Array<float> x(tiles * 256, small), y(tiles * 256);
  r.run(pcn::launch("copy", copy_kernel<BUG>, dim3(1), dim3(64), 0, nullptr,
                    reinterpret_cast<const float4*>(x.data()), reinterpret_cast<float4*>(y.data()), tiles));
  y.read();
  r.expect<float>(y, [](int i) { return small(i / 256 * 256 + (63 - i % 256 / 4) * 4 + i % 4); });
}

// ---- mbarrier -----------------------------------------------------------------------------------
struct RingSmem {
  int slot[2][32];
  uint64_t full[2], empty[2];
};
// BUG: 1 the consumer does not wait; 2 the producer does not wait; 3 one arrival too few; 4 one too many; 5
// not initialised; 6 the producer waits for the other parity
template <int BUG>
__global__ void ring_kernel(int* out) {
  RingSmem& s = pcn::shared<RingSmem>();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x == 0 && BUG != 5) {
    for (int i = 0; i < 2; ++i) {
      pcn::mbarrier_init(&s.full[i], BUG == 3 ? 33 : BUG == 4 ? 31 : 32);
      pcn::mbarrier_init(&s.empty[i], 32);
    }
    pcn::fence_mbarrier_init();
  }
  __syncthreads();
  for (int i = 0; i < 7; ++i) {
    const uint32_t phase = static_cast<uint32_t>(i / 2 % 2);
    if (threadIdx.x < 32) {
      if (BUG != 2) pcn::mbarrier_wait(&s.empty[i % 2], BUG == 6 ? phase : phase ^ 1);
      s.slot[i % 2][lane] = 100 * i + lane;
      pcn::mbarrier_arrive(&s.full[i % 2]);
    } else {
      if (BUG != 1) pcn::mbarrier_wait(&s.full[i % 2], phase);
      out[i * 32 + lane] = s.slot[i % 2][31 - lane];
      pcn::mbarrier_arrive(&s.empty[i % 2]);
    }
  }
}
template <int BUG>
void ring(Result& r) {
  Array<int> out(7 * 32);
  r.run(pcn::launch("ring", ring_kernel<BUG>, dim3(1), dim3(64), 0, nullptr, out.data()));
  out.read();
  r.expect<int>(out, [](int i) { return i / 32 * 100 + 31 - i % 32; });
}

PCN_FN unsigned char* aligned_window(bool align) {
  unsigned char* p = pcn::dynamic_shared<unsigned char>();
  return p + (align ? (1024 - (pcn::shared_address(p) & 1023)) & 1023 : 0);
}

// ---- wgmma --------------------------------------------------------------------------------------
// c[64][64] = a[64][32] b[64][32]^T from ordinary stores. BUG: 1 no fence.proxy.async; 2 no barrier; 3 no
// wgmma.fence; 4 the accumulators read before the wait; 5 the operands start in the middle of their swizzle
template <int BUG>
__global__ void __launch_bounds__(128) manual_kernel(const float* a, const float* b, float* c) {
  unsigned char* as = aligned_window(true) + (BUG == 5 ? 128 : 0);
  unsigned char* bs = as + 8192;
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  for (int i = t; i < 64 * 32; i += 128) {
    const int row = i / 32, offset = row * 128 + ((i % 32 * 4) ^ ((row + (BUG == 5)) % 8 * 16));
    *reinterpret_cast<float*>(as + offset) = a[i];
    *reinterpret_cast<float*>(bs + offset) = b[i];
  }
  if (BUG != 1) pcn::fence_proxy_async();
  if (BUG != 2) __syncthreads();
  float d[32];
  PCN_UNROLL for (int i = 0; i < 32; ++i) d[i] = 0.0f;
  if (BUG != 3) pcn::wgmma_fence();
  const uint64_t da = pcn::wgmma_descriptor(pcn::shared_address(as));
  const uint64_t db = pcn::wgmma_descriptor(pcn::shared_address(bs));
  PCN_UNROLL for (int k = 0; k < 4; ++k) pcn::wgmma_m64k8_tf32<64>(d, da + 2 * k, db + 2 * k, 1);
  pcn::wgmma_commit();
  if (BUG != 4) pcn::wgmma_wait<0>();
  PCN_UNROLL for (int j = 0; j < 8; ++j) {
    PCN_UNROLL for (int e = 0; e < 4; ++e) {
      c[(warp * 16 + lane / 4 + e / 2 * 8) * 64 + j * 8 + lane % 4 * 2 + e % 2] = d[4 * j + e];
    }
  }
  if (BUG == 4) pcn::wgmma_wait<0>();
}
template <int BUG>
void manual(Result& r) {
  Array<float> a(2048, small), b(2048, [](int i) { return small(i + 5); }), c(4096);
  r.run(pcn::launch("manual", manual_kernel<BUG>, dim3(1), dim3(128), 16384 + 1152, nullptr, a.data(),
                    b.data(), c.data()));
  c.read();
  r.expect<float>(c, [](int i) {
    float sum = 0;
    for (int k = 0; k < 32; ++k) sum += small(i / 64 * 32 + k) * small(i % 64 * 32 + k + 5);
    return sum;
  });
}

// c[64][128] = a[64][32] b[128][32]^T of bfloat16, K outermost in both. BUG: 1 B taken for K-major; 2 the second
// 64 columns of B looked for right behind the first; 3 a swizzle of 64 bytes for 128; 4 groups of 8 rows for those
// of 64 bytes; 5 the same K twice; 6 A's registers filled anew before the wait; 7 no swizzle
template <int BUG>
__global__ void __launch_bounds__(128) major_kernel(const float* a, const float* b, float* c) {
  using pcn::Major;
  unsigned char* as = aligned_window(true);
  unsigned char* bs = as + 4096;
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  const auto put = [](unsigned char* base, int i, int k, float value) {
    unsigned char* row = base + i / 64 * 4096 + k * 128;
    *reinterpret_cast<uint16_t*>(row + (i % 64 * 2 ^ k % 8 * 16)) = pcn::to_bf16(value);
  };
  for (int i = t; i < 64 * 32; i += 128) put(as, i / 32, i % 32, a[i]);
  for (int i = t; i < 128 * 32; i += 128) put(bs, i / 32, i % 32, b[i]);
  pcn::fence_proxy_async();
  __syncthreads();
  float d[64];
  uint32_t fragment[2][4];
  for (int i = 0; i < 8; ++i) {
    const float* p =
        a + (16 * warp + lane / 4 + 8 * (i % 2)) * 32 + 16 * (i / 4) + 2 * (lane % 4) + 8 * (i / 2 % 2);
    fragment[i / 4][i % 4] = pcn::to_bf16(p[0]) | static_cast<uint32_t>(pcn::to_bf16(p[1])) << 16;
  }
  constexpr uint32_t SWIZZLE = BUG == 3 ? 64 : BUG == 7 ? 0 : 128;
  const uint64_t da = pcn::wgmma_descriptor(pcn::shared_address(as));
  const uint64_t db =
      pcn::wgmma_descriptor(pcn::shared_address(bs), BUG == 4 ? 512 : 1024, SWIZZLE, BUG == 2 ? 128 : 4096);
  pcn::wgmma_fence(d, fragment);
  PCN_UNROLL for (int k = 0; k < 2; ++k) {
    const uint64_t next = static_cast<uint64_t>(k) * (BUG == 5 ? 0 : 2048 / 16);
    if (BUG == 6) {
      pcn::wgmma_m64k16_bf16<128, Major::kMN>(d, fragment[k], db + next, k > 0);
    } else {
      pcn::wgmma_m64k16_bf16<128, Major::kMN, BUG == 1 ? Major::kK : Major::kMN>(d, da + next, db + next,
                                                                                 k > 0);
    }
  }
  pcn::wgmma_commit();
  if (BUG == 6) fragment[1][2] = 0;
  pcn::wgmma_wait<0>(d, fragment);
  PCN_UNROLL for (int j = 0; j < 16; ++j) {
    PCN_UNROLL for (int e = 0; e < 4; ++e) {
      c[(warp * 16 + lane / 4 + e / 2 * 8) * 128 + j * 8 + lane % 4 * 2 + e % 2] = d[4 * j + e];
    }
  }
}
template <int BUG>
void major(Result& r) {
  Array<float> a(2048, small), b(4096, [](int i) { return small(i + 5); }), c(8192);
  r.run(pcn::launch("major", major_kernel<BUG>, dim3(1), dim3(128), 24 * 1024, nullptr, a.data(), b.data(),
                    c.data()));
  c.read();
  r.expect<float>(c, [](int i) {
    float sum = 0;
    for (int k = 0; k < 32; ++k) sum += small(i / 128 * 32 + k) * small(i % 128 * 32 + k + 5);
    return sum;
  });
}

// c[56][48] = a[56][16] b[48][16]^T of bfloat16 in planes of 16 bytes: 8 rows more are multiplied in vain. BUG: 1 that is
// not said
template <int BUG>
__global__ void __launch_bounds__(128) vain_kernel(const float* a, const float* b, float* c) {
  unsigned char* as = aligned_window(true);
  unsigned char* bs = as + 2 * 64 * 16;
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  const auto put = [](unsigned char* base, int rows, int i, int k, float value) {
    *reinterpret_cast<uint16_t*>(base + (k / 8 * rows + i) * 16 + k % 8 * 2) = pcn::to_bf16(value);
  };
  for (int i = t; i < 56 * 16; i += 128) put(as, 64, i / 16, i % 16, a[i]);
  for (int i = t; i < 48 * 16; i += 128) put(bs, 48, i / 16, i % 16, b[i]);
  if (BUG != 1 && t == 0) {
    for (int plane = 0; plane < 2; ++plane) pcn::read_in_vain(as + (64 * plane + 56) * 16, 8 * 16);
  }
  pcn::fence_proxy_async();
  __syncthreads();
  float d[24];
  pcn::wgmma_fence(d);
  pcn::wgmma_m64k16_bf16<48>(d, pcn::wgmma_descriptor(pcn::shared_address(as), 128, 0, 64 * 16),
                             pcn::wgmma_descriptor(pcn::shared_address(bs), 128, 0, 48 * 16), 0);
  pcn::wgmma_commit();
  pcn::wgmma_wait<0>(d);
  PCN_UNROLL for (int j = 0; j < 6; ++j) {
    PCN_UNROLL for (int e = 0; e < 4; ++e) {
      const int row = warp * 16 + lane / 4 + e / 2 * 8;
      if (row < 56) c[row * 48 + j * 8 + lane % 4 * 2 + e % 2] = d[4 * j + e];
    }
  }
}
template <int BUG>
void vain(Result& r) {
  Array<float> a(56 * 16, small), b(48 * 16, [](int i) { return small(i + 5); }), c(56 * 48);
  r.run(pcn::launch("vain", vain_kernel<BUG>, dim3(1), dim3(128), 8 * 1024, nullptr, a.data(), b.data(),
                    c.data()));
  c.read();
  r.expect<float>(c, [](int i) {
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += small(i / 48 * 16 + k) * small(i % 48 * 16 + k + 5);
    return sum;
  });
}

// ---- TMA + wgmma --------------------------------------------------------------------------------
constexpr int STAGES = 2;
struct GemmSmem {
  uint64_t full[STAGES], empty[STAGES];
};
// c[m][n] = a[m][k] b[n][k]^T, a producer warp and a consumer warpgroup. BUG: 1 the consumer does not wait
// for a full stage; 2 the producer not for an empty one; 3 a stage is released before the products are done;
// 4 the accumulators are read early; 5 too few bytes expected; 6 the window is not aligned
template <int BUG>
__global__ void __launch_bounds__(160)
    gemm_kernel(const __grid_constant__ pcn::TensorMap map_a, const __grid_constant__ pcn::TensorMap map_b,
                int m, int n, int k, float* c) {
  GemmSmem& s = pcn::shared<GemmSmem>();
  float* as = reinterpret_cast<float*>(aligned_window(BUG != 6));
  float* bs = as + STAGES * 64 * 32;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32),
            tiles = k / 32;
  const int row0 = static_cast<int>(blockIdx.y) * 64, column0 = static_cast<int>(blockIdx.x) * 64;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      pcn::mbarrier_init(&s.full[i], 1);
      pcn::mbarrier_init(&s.empty[i], 128);
    }
    pcn::fence_mbarrier_init();
  }
  __syncthreads();
  if (warp == 4) {
    for (int i = 0; lane == 0 && i < tiles; ++i) {
      const int stage = i % STAGES;
      if (BUG != 2) pcn::mbarrier_wait(&s.empty[stage], static_cast<uint32_t>(i / STAGES % 2 ^ 1));
      pcn::mbarrier_arrive_expect_tx(&s.full[stage], 128 * 32 * 4 - (BUG == 5 ? 16 : 0));
      pcn::tma_load_2d(as + stage * 2048, &map_a, &s.full[stage], i * 32, row0);
      pcn::tma_load_2d(bs + stage * 2048, &map_b, &s.full[stage], i * 32, column0);
    }
    return;
  }
  float d[32];
  PCN_UNROLL for (int i = 0; i < 32; ++i) d[i] = 0.0f;
  float early = 0;
  for (int i = 0; i < tiles; ++i) {
    const int stage = i % STAGES;
    if (BUG != 1) pcn::mbarrier_wait(&s.full[stage], static_cast<uint32_t>(i / STAGES % 2));
    const uint64_t da = pcn::wgmma_descriptor(pcn::shared_address(as + stage * 2048));
    const uint64_t db = pcn::wgmma_descriptor(pcn::shared_address(bs + stage * 2048));
    pcn::wgmma_fence();
    PCN_UNROLL for (int j = 0; j < 4; ++j) pcn::wgmma_m64k8_tf32<64>(d, da + 2 * j, db + 2 * j, 1);
    pcn::wgmma_commit();
    if (BUG == 3) pcn::mbarrier_arrive(&s.empty[stage]);
    if (BUG == 4) early = d[0];
    pcn::wgmma_wait<0>();
    if (BUG != 3) pcn::mbarrier_arrive(&s.empty[stage]);
  }
  if (BUG == 4) d[0] = early;
  PCN_UNROLL for (int j = 0; j < 8; ++j) {
    PCN_UNROLL for (int e = 0; e < 4; ++e) {
      const int row = row0 + warp * 16 + lane / 4 + e / 2 * 8,
                column = column0 + j * 8 + lane % 4 * 2 + e % 2;
      if (row < m && column < n) c[row * n + column] = d[4 * j + e];
    }
  }
}
template <int BUG>
void gemm(Result& r) {
  const int m = 60, n = 100, k = 224;
  Array<float> a(m * k, small), b(n * k, [](int i) { return small(i + 5); }), c(m * n);
  const uint64_t dim_a[2] = {224, 60}, dim_b[2] = {224, 100}, stride[1] = {224 * 4};
  const uint32_t box[2] = {32, 64};
  pcn::TensorMap map_a, map_b;
  r.run(pcn::encode_tiled(&map_a, a.data(), pcn::TensorElement::kFloat32, 2, dim_a, stride, box,
                          pcn::TensorSwizzle::k128));
  r.run(pcn::encode_tiled(&map_b, b.data(), pcn::TensorElement::kFloat32, 2, dim_b, stride, box,
                          pcn::TensorSwizzle::k128));
  r.run(pcn::launch("gemm", gemm_kernel<BUG>, dim3(2, 1), dim3(160), STAGES * 2 * 8192 + 1024, nullptr, map_a,
                    map_b, m, n, k, c.data()));
  c.read();
  r.expect<float>(c, [=](int i) {
    float sum = 0;
    for (int j = 0; j < k; ++j) sum += small(i / n * k + j) * small(i % n * k + j + 5);
    return sum;
  });
}

// BUG: 1 no fence.proxy.async before the store; 2 the source overwritten before the wait; 3 never waited for
template <int BUG>
__global__ void store_kernel(const __grid_constant__ pcn::TensorMap map) {
  float* box = reinterpret_cast<float*>(aligned_window(true));
  for (int i = static_cast<int>(threadIdx.x); i < 128; i += 32) box[i] = static_cast<float>(i);
  if (BUG != 1) pcn::fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    pcn::tma_store_2d(&map, box, 0, 0);
    pcn::tma_store_commit();
    if (BUG == 2) box[3] = -1.0f;
    if (BUG != 3) pcn::tma_store_wait<0>();
  }
}
template <int BUG>
void store(Result& r) {
  Array<float> y(128);
  const uint64_t dim[2] = {16, 8}, stride[1] = {64};
  const uint32_t box[2] = {16, 8};
  pcn::TensorMap map;
  r.run(pcn::encode_tiled(&map, y.data(), pcn::TensorElement::kFloat32, 2, dim, stride, box,
                          pcn::TensorSwizzle::kNone));
  r.run(pcn::launch("store", store_kernel<BUG>, dim3(1), dim3(32), 512 + 1024, nullptr, map));
  y.read();
  r.expect<float>(y, [](int i) { return static_cast<float>(i); });
}

// A box of 64 rows of 96 bytes, which lie 128 bytes apart. BUG: 1 read as if they lay 96 apart; 2 the bytes
// between them expected, too; 3 no room for these; 4 more bytes expected than a barrier can count; 5 no policy of
// L2; 6 something else prefetched
template <int BUG>
__global__ void narrow_kernel(const __grid_constant__ pcn::TensorMap map, float* y) {
  uint64_t* barrier = &pcn::shared<RingSmem>().full[0];
  const float* box = reinterpret_cast<const float*>(aligned_window(true));
  if (threadIdx.x == 0) {
    pcn::mbarrier_init(barrier, 1);
    pcn::fence_mbarrier_init();
    pcn::mbarrier_arrive_expect_tx(barrier, BUG == 2 ? 64 * 128 : BUG == 4 ? 1 << 20 : 64 * 96);
    pcn::prefetch_tensor_map(BUG == 6 ? static_cast<const void*>(y) : &map);
    pcn::tma_load_2d(const_cast<float*>(box), &map, barrier, 0, 0, BUG == 5 ? 1 : pcn::l2_evict_first());
  }
  __syncthreads();
  pcn::mbarrier_wait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < 64 * 24; i += 32) {
    const int row = i / 24, chunk = i % 24 / 4 ^ row % 8;
    y[i] = BUG == 1 ? box[row * 24 + chunk % 6 * 4 + i % 4] : box[row * 32 + chunk * 4 + i % 4];
  }
}
template <int BUG>
void narrow(Result& r) {
  Array<float> x(64 * 24, small), y(64 * 24);
  const uint64_t dim[2] = {24, 64}, stride[1] = {96};
  const uint32_t box[2] = {24, 64};
  pcn::TensorMap map;
  r.run(pcn::encode_tiled(&map, x.data(), pcn::TensorElement::kFloat32, 2, dim, stride, box,
                          pcn::TensorSwizzle::k128));
  r.run(pcn::launch("narrow", narrow_kernel<BUG>, dim3(1), dim3(32), 64 * (BUG == 3 ? 96 : 128) + 1024,
                    nullptr, map, y.data()));
  y.read();
  r.expect<float>(y, small);
}

// A filter row of 300 taps over one row of pixels, of which only the last is inside. BUG: 1 in one go, which
// its offset is too large for
template <int BUG>
__global__ void taps_kernel(const __grid_constant__ pcn::TensorMap map, float* y) {
  uint64_t* barrier = &pcn::shared<RingSmem>().full[0];
  const float* box = reinterpret_cast<const float*>(aligned_window(true));
  if (threadIdx.x == 0) {
    pcn::mbarrier_init(barrier, 1);
    pcn::fence_mbarrier_init();
    pcn::mbarrier_arrive_expect_tx(barrier, 128);
    pcn::tma_load_im2col_4d(const_cast<float*>(box), &map, barrier, 0, BUG ? -1 : 44, 0, 0, BUG ? 299 : 254,
                            0);
  }
  __syncthreads();
  pcn::mbarrier_wait(barrier, 0);
  y[threadIdx.x] = box[threadIdx.x];
}
template <int BUG>
void taps(Result& r) {
  Array<float> x(32 * 299, small), y(32);
  const uint64_t dim[4] = {32, 299, 1, 1}, stride[3] = {128, 299 * 128, 299 * 128};
  const int lower[2] = {-1, 0}, upper[2] = {0, 0};
  const uint32_t steps[4] = {1, 1, 1, 1};
  pcn::TensorMap map;
  r.run(pcn::encode_im2col(&map, x.data(), pcn::TensorElement::kFloat32, dim, stride, lower, upper, 32, 1,
                           steps, pcn::TensorSwizzle::k128));
  r.run(pcn::launch("taps", taps_kernel<BUG>, dim3(1), dim3(32), 128 + 1024, nullptr, map, y.data()));
  y.read();
  r.expect<float>(y, [](int i) { return small(298 * 32 + i); });
}
