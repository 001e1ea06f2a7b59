// primitives_launch.h: what launch() hands to a kernel, and loops that read one place of shared memory over
// and over; included into primitives.cu
#pragma once

// ---- parameters ---------------------------------------------------------------------------------
struct Mixed {
  int8_t first;
  float two[2];
  int16_t three[3];
  int64_t wide;
  uint8_t last;
};
__global__ void parameters_kernel(int* out, Mixed a, uint16_t b, Mixed c, unsigned d) {
  const Mixed* both[2] = {&a, &c};
  for (int i = 0; i < 2; ++i) {
    const Mixed& m = *both[i];
    int* o = out + 8 * i;
    o[0] = m.first, o[1] = static_cast<int>(m.two[0]), o[2] = static_cast<int>(m.two[1]);
    for (int j = 0; j < 3; ++j) o[3 + j] = m.three[j];
    o[6] = static_cast<int>(m.wide >> 32), o[7] = m.last;
  }
  out[16] = b;
  out[17] = static_cast<int>(pcn::mul_hi(d, 3u));
  out[18] = static_cast<int>(pcn::rsqrt_normal(static_cast<float>(b)) * 1000.0f + 0.5f);
  if constexpr (pcn::kTensorCores) {
    out[19] = 80;
  } else {
    pcn::trap();
  }
}
void parameters_case(Result& r) {
  Array<int> out(20);
  const Mixed a{-5, {2.0f, 3.0f}, {-1, 700, -900}, int64_t{77} << 32, 255}, c{6, {9, 8}, {7, 6, 5}, -1, 1};
  r.run(pcn::launch("parameters", parameters_kernel, dim3(1), dim3(1), 0, nullptr, out.data(), a,
                    static_cast<uint16_t>(64), c, 0xc0000000u));
  r.expect(out.read(),
           std::vector<int>{-5, 2, 3, -1, 700, -900, 77, 255, 6, 9, 8, 7, 6, 5, -1, 1, 64, 2, 125, 80});
}

// ---- shared memory: a little that is static, more than 48 KiB that is not -----------------------
struct OddSmem {
  int count[3];
};
__global__ void window_kernel(int* out, int n) {
  OddSmem& s = pcn::shared<OddSmem>();
  float4* window = pcn::dynamic_shared<float4>();
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  if (t < 3) s.count[t] = t + 1;
  for (int i = t; i < n; i += threads) {
    const float f = static_cast<float>(i);
    // By way of a variable: g++ does not tell the race checker of what a call returns straight into memory.
    const float4 four = make_float4(f, f + 1, f + 2, f + 3);
    window[i] = four;
  }
  __syncthreads();
  float sum = 0;
  for (int i = t; i < n; i += threads) sum += window[n - 1 - i].x + window[n - 1 - i].w;
  out[static_cast<int>(blockIdx.x) * threads + t] = static_cast<int>(sum) + s.count[t % 3];
}
void window_case(Result& r) {
  constexpr int N = 96 * 1024 / 16, THREADS = 96;
  Array<int> out(2 * THREADS);
  r.run(pcn::launch("window", window_kernel, dim3(2), dim3(THREADS), N * sizeof(float4), nullptr, out.data(),
                    N));
  r.expect_each<int>(out.read(), [](int i) {
    int sum = 0;
    for (int j = i % THREADS; j < N; j += THREADS) sum += 2 * (N - 1 - j) + 3;
    return sum + i % THREADS % 3 + 1;
  });
}

// ---- one slot that is filled, read as a matrix, and filled again --------------------------------
struct SlotSmem {
  uint4 rows[32];
};
__global__ void slot_kernel(const uint4* x, uint32_t* out, int rounds) {
  SlotSmem& s = pcn::shared<SlotSmem>();
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t sum[4] = {0, 0, 0, 0};
  for (int i = 0; i < rounds; ++i) {
    pcn::cp_async_16(&s.rows[lane], x + 32 * i + lane);
    pcn::cp_async_commit();
    pcn::cp_async_wait<0>();
    __syncthreads();
    uint32_t r[4];
    pcn::ldmatrix_x4(r, &s.rows[lane]);
    for (int m = 0; m < 4; ++m) sum[m] += r[m];
    __syncthreads();
  }
  for (int m = 0; m < 4; ++m) out[4 * lane + m] = sum[m];
}
void slot_case(Result& r) {
  constexpr int SLOTS = 5;
  Array<uint32_t> x(SLOTS * 128, [](int i) { return static_cast<uint32_t>(i * i + 1); }), out(128);
  r.run(pcn::launch("slot", slot_kernel, dim3(1), dim3(32), 0, nullptr,
                    reinterpret_cast<const uint4*>(x.data()), out.data(), SLOTS));
  r.expect_each<uint32_t>(out.read(), [](int i) {
    const int lane = i / 4, word = (8 * (i % 4) + lane / 4) * 4 + lane % 4;
    uint32_t sum = 0;
    for (int s = 0; s < SLOTS; ++s) sum += static_cast<uint32_t>((128 * s + word) * (128 * s + word) + 1);
    return sum;
  });
}
