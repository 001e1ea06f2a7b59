// primitives_wgmma.h: wgmma, and a pipeline of everything, included by primitives_tensor.h
#pragma once

// ---- wgmma --------------------------------------------------------------------------------------
using pcn::Major;
// What a product is made of: bfloat16 or TF32, columns of D, how the operands lie, bytes of their swizzle,
// whether A is in registers; without swizzle how many rows before its own a plane has.
template <bool BF16_, int N_, Major A_ = Major::kK, Major B_ = Major::kK, int SWIZZLE_ = 128,
          bool REGISTERS_ = false, int START_ = 0>
struct Product {
  static constexpr bool BF16 = BF16_, REGISTERS = REGISTERS_;
  static constexpr int N = N_, SWIZZLE = SWIZZLE_, SIZE = BF16 ? 2 : 4, K = 256 / SIZE, STEPS = 8;
  static constexpr int START = START_;
  static constexpr Major A = A_, B = B_;
};
// An operand of `rows` indices of D in shared memory, K deep.
template <class P, Major MAJOR>
struct Stored {
  static constexpr int PER_ROW = P::SWIZZLE / P::SIZE;
  unsigned char* base;
  int rows;
  static PCN_FN int bytes(int rows) {
    return (MAJOR == Major::kK ? rows : (rows + PER_ROW - 1) / PER_ROW * PER_ROW) * P::K * P::SIZE;
  }
  PCN_FN unsigned char* at(int i, int k) const {
    const int row = MAJOR == Major::kK ? i : k, column = MAJOR == Major::kK ? k : i,
              height = MAJOR == Major::kK ? rows : P::K;
    const int byte = column % PER_ROW * P::SIZE ^ (row / (128 / P::SWIZZLE) % (P::SWIZZLE / 16) * 16);
    return base + (column / PER_ROW * height + row) * P::SWIZZLE + byte;
  }
  PCN_FN uint64_t descriptor(int step) const {
    constexpr int PER_TILE = P::SWIZZLE / 32;
    const unsigned char* p = MAJOR == Major::kK
                                 ? base + step / PER_TILE * rows * P::SWIZZLE + step % PER_TILE * 32
                                 : base + step * 16 * P::SWIZZLE;
    return pcn::wgmma_descriptor(pcn::shared_address(p), 8 * P::SWIZZLE, P::SWIZZLE,
                                 MAJOR == Major::kK ? 16 : P::K * P::SWIZZLE);
  }
};
// And one without swizzle: planes of 16 bytes of K, one behind the other, of which rows begin anywhere.
template <class P>
struct Planes {
  static constexpr int PER_ROW = 16 / P::SIZE;
  unsigned char* base;
  int rows;
  static PCN_FN int plane(int rows) { return (P::START + rows + 1) * 16; }
  static PCN_FN int bytes(int rows) { return P::K / PER_ROW * plane(rows); }
  PCN_FN unsigned char* at(int i, int k) const {
    return base + k / PER_ROW * plane(rows) + (P::START + i) * 16 + k % PER_ROW * P::SIZE;
  }
  PCN_FN uint64_t descriptor(int step) const {
    const int next = plane(rows);
    return pcn::wgmma_descriptor(pcn::shared_address(at(0, 0)), 128, 0, static_cast<uint32_t>(next)) +
           static_cast<uint64_t>(step * (2 * next / 16));
  }
};
template <class P, Major MAJOR>
using Lying = std::conditional_t<P::SWIZZLE == 0, Planes<P>, Stored<P, MAJOR>>;
template <class P>
PCN_FN void put_operand(unsigned char* p, float value) {
  if constexpr (P::BF16) {
    *reinterpret_cast<uint16_t*>(p) = pcn::to_bf16(value);
  } else {
    *reinterpret_cast<float*>(p) = value;
  }
}
// c[64][N] = a[64][K] b[N][K]^T, operands written by ordinary stores. The first product overwrites the
// accumulators' old values.
template <class P>
__global__ void __launch_bounds__(128) wgmma_kernel(const float* a, const float* b, float* c) {
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  const Lying<P, P::A> as{aligned_window(), 64};
  const Lying<P, P::B> bs{as.base + Lying<P, P::A>::bytes(64), P::N};
  for (int i = t; i < 64 * P::K; i += 128) put_operand<P>(as.at(i / P::K, i % P::K), a[i]);
  for (int i = t; i < P::N * P::K; i += 128) put_operand<P>(bs.at(i / P::K, i % P::K), b[i]);
  pcn::fence_proxy_async();
  __syncthreads();
  float d[P::N / 2];
  PCN_UNROLL for (int i = 0; i < P::N / 2; ++i) d[i] = 1e6f;
  uint32_t fragment[P::STEPS][4];
  if constexpr (P::REGISTERS) {
    PCN_UNROLL for (int step = 0; step < P::STEPS; ++step) {
      PCN_UNROLL for (int r = 0; r < 4; ++r) {
        const float* row = a + (16 * warp + lane / 4 + 8 * (r % 2)) * P::K;
        const int word = 8 * step + lane % 4 + 4 * (r / 2);
        if constexpr (P::BF16) {
          fragment[step][r] = two(row, 1, 2 * word, [](float f) { return pcn::to_bf16(f); });
        } else {
          fragment[step][r] = pcn::to_tf32(row[word]);
        }
      }
    }
    pcn::wgmma_fence(d, fragment);
  } else {
    pcn::wgmma_fence(d);
  }
  PCN_UNROLL for (int step = 0; step < P::STEPS; ++step) {
    const uint64_t db = bs.descriptor(step);
    if constexpr (P::REGISTERS && P::BF16) {
      pcn::wgmma_m64k16_bf16<P::N, P::B>(d, fragment[step], db, step > 0);
    } else if constexpr (P::REGISTERS) {
      pcn::wgmma_m64k8_tf32<P::N>(d, fragment[step], db, step > 0);
    } else if constexpr (P::BF16) {
      pcn::wgmma_m64k16_bf16<P::N, P::A, P::B>(d, as.descriptor(step), db, step > 0);
    } else {
      pcn::wgmma_m64k8_tf32<P::N>(d, as.descriptor(step), db, step > 0);
    }
    if (step % 4 == 3) pcn::wgmma_commit();
  }
  if constexpr (P::REGISTERS) {
    pcn::wgmma_wait<0>(d, fragment);
  } else {
    pcn::wgmma_wait<0>(d);
  }
  PCN_UNROLL for (int j = 0; j < P::N / 8; ++j) {
    PCN_UNROLL for (int e = 0; e < 4; ++e) {
      c[(warp * 16 + lane / 4 + e / 2 * 8) * P::N + j * 8 + lane % 4 * 2 + e % 2] = d[4 * j + e];
    }
  }
}
template <class P>
void wgmma_one(Result& r) {
  Array<float> a(64 * P::K, small), b(P::N * P::K, [](int i) { return small(i + 5); }), c(64 * P::N);
  const size_t bytes =
      static_cast<size_t>(64 + (P::N + 63) / 64 * 64 + 2 * P::START + 2) * P::K * P::SIZE + 1024;
  r.run(pcn::launch("wgmma", wgmma_kernel<P>, dim3(1), dim3(128), bytes, nullptr, a.data(), b.data(),
                    c.data()));
  r.expect_each<float>(c.read(), [](int i) {
    float sum = 0;
    for (int k = 0; k < P::K; ++k) sum += small(i / P::N * P::K + k) * small(i % P::N * P::K + k + 5);
    return sum;
  });
}
template <bool BF16>
void wgmma_widths(Result& r) {
  wgmma_one<Product<BF16, 48>>(r);
  wgmma_one<Product<BF16, 64>>(r);
  wgmma_one<Product<BF16, 96>>(r);
  wgmma_one<Product<BF16, 128>>(r);
  wgmma_one<Product<BF16, 192>>(r);
  wgmma_one<Product<BF16, 256>>(r);
}
void wgmma_tf32_case(Result& r) { wgmma_widths<false>(r); }
void wgmma_bf16_case(Result& r) { wgmma_widths<true>(r); }
void wgmma_swizzle_case(Result& r) {
  constexpr Major K = Major::kK;
  wgmma_one<Product<true, 96, K, K, 64>>(r);
  wgmma_one<Product<true, 48, K, K, 32>>(r);
  wgmma_one<Product<false, 96, K, K, 64>>(r);
  wgmma_one<Product<false, 48, K, K, 32>>(r);
}
// Rows from any position on: no multiple of 8, nor is what lies between planes. Of B the planes' begin is none either.
void wgmma_planes_case(Result& r) {
  constexpr Major K = Major::kK;
  wgmma_one<Product<true, 96, K, K, 0, false, 0>>(r);
  wgmma_one<Product<true, 128, K, K, 0, false, 1>>(r);
  wgmma_one<Product<true, 48, K, K, 0, false, 13>>(r);
  wgmma_one<Product<false, 96, K, K, 0, false, 3>>(r);
  wgmma_one<Product<false, 48, K, K, 0, false, 30>>(r);
}
void wgmma_mn_case(Result& r) {
  constexpr Major K = Major::kK, MN = Major::kMN;
  wgmma_one<Product<true, 64, MN, K>>(r);
  wgmma_one<Product<true, 64, K, MN>>(r);
  wgmma_one<Product<true, 128, MN, MN>>(r);
  wgmma_one<Product<true, 256, MN, MN>>(r);
  wgmma_one<Product<true, 96, MN, MN, 64>>(r);
  wgmma_one<Product<true, 48, MN, MN, 32>>(r);
}
// Columns that do not fill their last row: not among what CUTLASS builds.
void wgmma_mn_partial_case(Result& r) {
  wgmma_one<Product<true, 96, Major::kMN, Major::kMN, 128>>(r);
  wgmma_one<Product<true, 48, Major::kMN, Major::kMN, 64>>(r);
}
void wgmma_registers_case(Result& r) {
  wgmma_one<Product<true, 64, Major::kK, Major::kK, 128, true>>(r);
  wgmma_one<Product<true, 128, Major::kK, Major::kMN, 128, true>>(r);
  wgmma_one<Product<false, 96, Major::kK, Major::kK, 128, true>>(r);
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
  pcn::wgmma_wait<0>(d);
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
      pcn::wgmma_fence(d);
      PCN_UNROLL for (int j = 0; j < 4; ++j) pcn::wgmma_m64k8_tf32<TILE_N>(d, da + 2 * j, db + 2 * j, 1);
      pcn::wgmma_commit();
      pcn::wgmma_wait<0>(d);
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
