// primitives_wgmma.h: wgmma, and a pipeline of everything, included by primitives_tensor.h
#pragma once

// ---- wgmma --------------------------------------------------------------------------------------
// c[64][N] = a[64][2 * ROW] b[N][2 * ROW]^T, operands written by ordinary stores into the 128-byte swizzle;
// ROW elements of 128 bytes. The first product overwrites the accumulators' old values.
template <int N, bool BF16>
__global__ void __launch_bounds__(128) wgmma_kernel(const float* a, const float* b, float* c) {
  constexpr int ROW = BF16 ? 64 : 32;
  unsigned char* as = aligned_window();
  unsigned char* bs = as + 2 * 64 * 128;
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  const auto put = [&](unsigned char* base, const float* from, int rows) {
    for (int i = t; i < rows * 2 * ROW; i += 128) {
      const int row = i / (2 * ROW), k = i % (2 * ROW), byte = k % ROW * (BF16 ? 2 : 4);
      unsigned char* p = base + k / ROW * rows * 128 + row * 128 + (byte ^ (row % 8 * 16));
      if constexpr (BF16) {
        *reinterpret_cast<uint16_t*>(p) = pcn::to_bf16(from[i]);
      } else {
        *reinterpret_cast<float*>(p) = from[i];
      }
    }
  };
  put(as, a, 64);
  put(bs, b, N);
  pcn::fence_proxy_async();
  __syncthreads();
  float d[N / 2];
  PCN_UNROLL for (int i = 0; i < N / 2; ++i) d[i] = 1e6f;
  pcn::wgmma_fence();
  PCN_UNROLL for (int tile = 0; tile < 2; ++tile) {
    const uint64_t da = pcn::wgmma_descriptor(pcn::shared_address(as + tile * 64 * 128));
    const uint64_t db = pcn::wgmma_descriptor(pcn::shared_address(bs + tile * N * 128));
    PCN_UNROLL for (int k = 0; k < 4; ++k) {
      const int accumulate = tile + k > 0;
      if constexpr (BF16) {
        pcn::wgmma_m64k16_bf16<N>(d, da + 2 * k, db + 2 * k, accumulate);
      } else {
        pcn::wgmma_m64k8_tf32<N>(d, da + 2 * k, db + 2 * k, accumulate);
      }
    }
    pcn::wgmma_commit();
  }
  pcn::wgmma_wait<0>();
  PCN_UNROLL for (int j = 0; j < N / 8; ++j) {
    PCN_UNROLL for (int e = 0; e < 4; ++e) {
      c[(warp * 16 + lane / 4 + e / 2 * 8) * N + j * 8 + lane % 4 * 2 + e % 2] = d[4 * j + e];
    }
  }
}
template <int N, bool BF16>
void wgmma_one(Result& r) {
  constexpr int K = BF16 ? 128 : 64;
  Array<float> a(64 * K, small), b(N * K, [](int i) { return small(i + 5); }), c(64 * N);
  r.run(pcn::launch("wgmma", wgmma_kernel<N, BF16>, dim3(1), dim3(128), 2 * (64 + N) * 128 + 1024, nullptr,
                    a.data(), b.data(), c.data()));
  r.expect_each<float>(c.read(), [](int i) {
    float sum = 0;
    for (int k = 0; k < K; ++k) sum += small(i / N * K + k) * small(i % N * K + k + 5);
    return sum;
  });
}
void wgmma_tf32_case(Result& r) {
  wgmma_one<64, false>(r);
  wgmma_one<96, false>(r);
  wgmma_one<128, false>(r);
  wgmma_one<192, false>(r);
  wgmma_one<256, false>(r);
}
void wgmma_bf16_case(Result& r) {
  wgmma_one<64, true>(r);
  wgmma_one<96, true>(r);
  wgmma_one<128, true>(r);
  wgmma_one<192, true>(r);
  wgmma_one<256, true>(r);
}

// c[64][64] = a[64][48] b[64][48]^T of bfloat16: rows of 96 bytes that TMA lays 128 bytes apart, as the
// descriptors want them.
__global__ void __launch_bounds__(128)
    wgmma_96_bytes_kernel(const __grid_constant__ pcn::TensorMap map_a,
                          const __grid_constant__ pcn::TensorMap map_b, float* c) {
  uint64_t* barrier = &pcn::shared<TmaSmem>().barrier;
  unsigned char* as = aligned_window();
  unsigned char* bs = as + 64 * 128;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x == 0) {
    pcn::mbarrier_init(barrier, 1);
    pcn::fence_mbarrier_init();
    pcn::mbarrier_arrive_expect_tx(barrier, 2 * 64 * 96);
    pcn::tma_load_2d(as, &map_a, barrier, 0, 0);
    pcn::tma_load_2d(bs, &map_b, barrier, 0, 0);
  }
  __syncthreads();
  pcn::mbarrier_wait(barrier, 0);
  float d[32];
  const uint64_t da = pcn::wgmma_descriptor(pcn::shared_address(as));
  const uint64_t db = pcn::wgmma_descriptor(pcn::shared_address(bs));
  pcn::wgmma_fence();
  PCN_UNROLL for (int k = 0; k < 3; ++k) pcn::wgmma_m64k16_bf16<64>(d, da + 2 * k, db + 2 * k, k > 0);
  pcn::wgmma_commit();
  pcn::wgmma_wait<0>();
  PCN_UNROLL for (int j = 0; j < 8; ++j) {
    PCN_UNROLL for (int e = 0; e < 4; ++e) {
      c[(warp * 16 + lane / 4 + e / 2 * 8) * 64 + j * 8 + lane % 4 * 2 + e % 2] = d[4 * j + e];
    }
  }
}
void wgmma_96_bytes_case(Result& r) {
  const auto bf16 = [](float f) {  // exact: small integers
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return static_cast<uint16_t>(bits >> 16);
  };
  Array<uint16_t> a(64 * 48, [&](int i) { return bf16(small(i)); });
  Array<uint16_t> b(64 * 48, [&](int i) { return bf16(small(i + 5)); });
  Array<float> c(64 * 64);
  const uint64_t dim[2] = {48, 64}, stride[1] = {96};
  const uint32_t box[2] = {48, 64};
  pcn::TensorMap map_a, map_b;
  r.run(pcn::encode_tiled(&map_a, a.data(), pcn::TensorElement::kBf16, 2, dim, stride, box,
                          pcn::TensorSwizzle::k128));
  r.run(pcn::encode_tiled(&map_b, b.data(), pcn::TensorElement::kBf16, 2, dim, stride, box,
                          pcn::TensorSwizzle::k128));
  r.run(pcn::launch("wgmma_96_bytes", wgmma_96_bytes_kernel, dim3(1), dim3(128), 2 * 64 * 128 + 1024, nullptr,
                    map_a, map_b, c.data()));
  r.expect_each<float>(c.read(), [](int i) {
    float sum = 0;
    for (int k = 0; k < 48; ++k) sum += small(i / 64 * 48 + k) * small(i % 64 * 48 + k + 5);
    return sum;
  });
}

// ---- all together -------------------------------------------------------------------------------
// c[M][N] = a[M][K] b[N][K]^T: a producer warpgroup feeds a ring of stages by TMA, two consumer warpgroups of
// 64 rows each multiply by wgmma.
constexpr int STAGES = 3, TILE_M = 128, TILE_N = 64, TILE_K = 32;
struct PipelineSmem {
  uint64_t full[STAGES], empty[STAGES];
};
__global__ void __launch_bounds__(384, 1)
    pipeline_kernel(const __grid_constant__ pcn::TensorMap map_a,
                    const __grid_constant__ pcn::TensorMap map_b, int m, int n, int k, float* c) {
  PipelineSmem& s = pcn::shared<PipelineSmem>();
  float* as = reinterpret_cast<float*>(aligned_window());
  float* bs = as + STAGES * TILE_M * TILE_K;
  const int group = static_cast<int>(threadIdx.x / 128), tiles = k / TILE_K;
  const int row0 = static_cast<int>(blockIdx.y) * TILE_M, column0 = static_cast<int>(blockIdx.x) * TILE_N;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      pcn::mbarrier_init(&s.full[i], 1);
      pcn::mbarrier_init(&s.empty[i], 256);
    }
    pcn::fence_mbarrier_init();
  }
  __syncthreads();
  if (group == 0) {
    pcn::setmaxnreg_dec<40>();
    if (threadIdx.x == 0) {
      for (int i = 0; i < tiles; ++i) {
        const int stage = i % STAGES;
        pcn::mbarrier_wait(&s.empty[stage], static_cast<uint32_t>(i / STAGES % 2 ^ 1));
        pcn::mbarrier_arrive_expect_tx(&s.full[stage], (TILE_M + TILE_N) * TILE_K * 4);
        pcn::tma_load_2d(as + stage * TILE_M * TILE_K, &map_a, &s.full[stage], i * TILE_K, row0);
        pcn::tma_load_2d(bs + stage * TILE_N * TILE_K, &map_b, &s.full[stage], i * TILE_K, column0);
      }
    }
  } else {
    pcn::setmaxnreg_inc<232>();
    float d[TILE_N / 2];
    PCN_UNROLL for (int i = 0; i < TILE_N / 2; ++i) d[i] = 0.0f;
    for (int i = 0; i < tiles; ++i) {
      const int stage = i % STAGES;
      pcn::mbarrier_wait(&s.full[stage], static_cast<uint32_t>(i / STAGES % 2));
      const float* a = as + (stage * TILE_M + (group - 1) * 64) * TILE_K;
      const uint64_t da = pcn::wgmma_descriptor(pcn::shared_address(a));
      const uint64_t db = pcn::wgmma_descriptor(pcn::shared_address(bs + stage * TILE_N * TILE_K));
      pcn::wgmma_fence();
      PCN_UNROLL for (int j = 0; j < 4; ++j) pcn::wgmma_m64k8_tf32<TILE_N>(d, da + 2 * j, db + 2 * j, 1);
      pcn::wgmma_commit();
      pcn::wgmma_wait<0>();
      pcn::mbarrier_arrive(&s.empty[stage]);
    }
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32 % 4);
    PCN_UNROLL for (int j = 0; j < TILE_N / 8; ++j) {
      PCN_UNROLL for (int e = 0; e < 4; ++e) {
        const int row = row0 + (group - 1) * 64 + warp * 16 + lane / 4 + e / 2 * 8;
        const int column = column0 + j * 8 + lane % 4 * 2 + e % 2;
        if (row < m && column < n) c[row * n + column] = d[4 * j + e];
      }
    }
  }
}
void pipeline_case(Result& r) {
  const int m = 150, n = 100, k = 256;
  Array<float> a(static_cast<size_t>(m * k), small),
      b(static_cast<size_t>(n * k), [](int i) { return small(i + 5); });
  Array<float> c(static_cast<size_t>(m * n));
  const uint64_t dim_a[2] = {256, 150}, dim_b[2] = {256, 100}, stride[1] = {1024};
  const uint32_t box_a[2] = {TILE_K, TILE_M}, box_b[2] = {TILE_K, TILE_N};
  pcn::TensorMap map_a, map_b;
  r.run(pcn::encode_tiled(&map_a, a.data(), pcn::TensorElement::kFloat32, 2, dim_a, stride, box_a,
                          pcn::TensorSwizzle::k128));
  r.run(pcn::encode_tiled(&map_b, b.data(), pcn::TensorElement::kFloat32, 2, dim_b, stride, box_b,
                          pcn::TensorSwizzle::k128));
  r.run(pcn::launch("pipeline", pipeline_kernel, dim3(2, 2), dim3(384),
                    STAGES * (TILE_M + TILE_N) * TILE_K * 4 + 1024, nullptr, map_a, map_b, m, n, k,
                    c.data()));
  r.expect_each<float>(c.read(), [=](int i) {
    float sum = 0;
    for (int j = 0; j < k; ++j) sum += small(i / n * k + j) * small(i % n * k + j + 5);
    return sum;
  });
}
