// primitives_hopper.h: what Hopper's kernels need besides (elect, prefetch, policies of L2, stmatrix, dependent
// launches), and the tensor maps of AlexNet's convolutions; included by primitives_tensor.h
#pragma once

// ---- elect, griddepcontrol ----------------------------------------------------------------------
// How many lanes of each warp were elected, twice, and whether they were the same.
__global__ void elect_kernel(unsigned* out) {
  const unsigned all = 0xffffffffu, warp = threadIdx.x / 32;
  const unsigned first = __ballot_sync(all, pcn::elect_one());
  const unsigned second = __ballot_sync(all, pcn::elect_one());
  if (pcn::elect_one()) {
    out[3 * warp] = static_cast<unsigned>(__popc(first));
    out[3 * warp + 1] = static_cast<unsigned>(__popc(second));
    out[3 * warp + 2] = first == second;
  }
}
void elect_case(Result& r) {
  Array<unsigned> out(9);
  r.run(pcn::launch("elect", elect_kernel, dim3(1), dim3(96), 0, nullptr, out.data()));
  r.expect_each<unsigned>(out.read(), [](int) { return 1u; });
}

__global__ void dependent_kernel(const int* x, int* y) {
  pcn::grid_dependency_trigger();
  pcn::grid_dependency_wait();
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  y[t] = 3 * x[t] + 1;
}
void dependent_case(Result& r) {
  constexpr int N = 1024;
  Array<int> x(N, [](int i) { return i; }), y(N), z(N);
  r.run(pcn::launch("dependent", dependent_kernel, dim3(N / 128), dim3(128), 0, nullptr,
                    static_cast<const int*>(x.data()), y.data()));
  r.run(pcn::launch_dependent("dependent", dependent_kernel, dim3(N / 128), dim3(128), 0, nullptr,
                              static_cast<const int*>(y.data()), z.data()));
  r.expect_each<int>(z.read(), [](int i) { return 9 * i + 4; });
}

// ---- stmatrix -----------------------------------------------------------------------------------
// A register holds its lane and its number. Rows are 16-byte units that are not neighbours.
struct StmatrixSmem {
  uint16_t a[6][32][24];
};
__global__ void stmatrix_kernel(uint32_t* out) {
  StmatrixSmem& s = pcn::shared<StmatrixSmem>();
  const uint32_t lane = threadIdx.x;
  for (uint32_t i = lane; i < 6 * 32 * 12; i += 32) reinterpret_cast<uint32_t*>(s.a)[i] = 0xabcdu;
  __syncwarp();
  uint32_t r[4];
  for (uint32_t m = 0; m < 4; ++m) r[m] = (2 * lane + 100 * m) | (2 * lane + 1 + 100 * m) << 16;
  const uint32_t one[1] = {r[0]}, two[2] = {r[0], r[1]};
  pcn::stmatrix_x1(&s.a[0][lane][8], one);
  pcn::stmatrix_x2(&s.a[1][lane][8], two);
  pcn::stmatrix_x4(&s.a[2][lane][8], r);
  pcn::stmatrix_x1_trans(&s.a[3][lane][8], one);
  pcn::stmatrix_x2_trans(&s.a[4][lane][8], two);
  pcn::stmatrix_x4_trans(&s.a[5][lane][8], r);
  __syncwarp();
  for (uint32_t i = lane; i < 6 * 32 * 12; i += 32) out[i] = reinterpret_cast<uint32_t*>(s.a)[i];
}
void stmatrix_case(Result& r) {
  Array<uint32_t> out(6 * 32 * 12);
  r.run(pcn::launch("stmatrix", stmatrix_kernel, dim3(1), dim3(32), 0, nullptr, out.data()));
  r.expect_each<uint32_t>(out.read(), [](int i) {
    const int which = i / (32 * 12), row = i / 12 % 32, word = i % 12 - 4, matrices = 1 << which % 3;
    if (word < 0 || word >= 4 || row >= 8 * matrices) return 0xabcdu;
    const auto element = [&](int column) {
      const int x = which < 3 ? row % 8 : column, y = which < 3 ? column : row % 8;  // of the fragment
      return static_cast<uint32_t>(2 * (4 * x + y / 2) + y % 2 + 100 * (row / 8));
    };
    return element(2 * word) | element(2 * word + 1) << 16;
  });
}

// ---- prefetch, policies -------------------------------------------------------------------------
// Three boxes of one map, loaded with a policy each, and stored.
__global__ void hinted_kernel(const __grid_constant__ pcn::TensorMap from,
                              const __grid_constant__ pcn::TensorMap im2col,
                              const __grid_constant__ pcn::TensorMap to,
                              const __grid_constant__ pcn::TensorMap flat) {
  uint64_t* barrier = &pcn::shared<TmaSmem>().barrier;
  unsigned char* box = aligned_window();
  if (threadIdx.x < 32 && pcn::elect_one()) {
    pcn::prefetch_tensor_map(&from);
    pcn::prefetch_tensor_map(&to);
    pcn::mbarrier_init(barrier, 1);
    pcn::fence_mbarrier_init();
    pcn::mbarrier_arrive_expect_tx(barrier, 4096);
    pcn::tma_load_4d(box, &from, barrier, 0, 0, 0, 0, pcn::l2_evict_first());
    pcn::tma_load_im2col_4d(box + 1024, &im2col, barrier, 0, 0, 2, 0, 0, 0, pcn::l2_evict_last());
    pcn::tma_load_2d(box + 2048, &flat, barrier, 0, 16, pcn::l2_evict_last());
    pcn::tma_load_2d(box + 3072, &flat, barrier, 0, 24, pcn::l2_evict_first());
  }
  __syncthreads();
  pcn::mbarrier_wait(barrier, 0);
  pcn::fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 3; ++i)
      pcn::tma_store_2d(&flat, box + 1024 * i, 0, 32 + 8 * i, pcn::l2_evict_first());
    pcn::tma_store_4d(&to, box + 3072, 0, 0, 6, 1, pcn::l2_evict_last());
    pcn::tma_store_commit();
    pcn::tma_store_wait<0>();
  }
}
// x[2][8][4][32]: two images of 8 x 4 pixels, or 64 rows of 32 floats. The second becomes the first.
void tma_hints_case(Result& r) {
  Array<float> x(64 * 32, [](int i) { return static_cast<float>(i); });
  const uint64_t dim[4] = {32, 4, 8, 2}, stride[3] = {128, 512, 4096}, rows[2] = {32, 64};
  const uint32_t box[4] = {32, 4, 2, 1}, flat_box[2] = {32, 8}, steps[4] = {1, 1, 1, 1};
  const int corner[2] = {0, 0};
  const auto element = pcn::TensorElement::kFloat32;
  const auto swizzle = pcn::TensorSwizzle::k128;
  pcn::TensorMap tiled, im2col, flat;
  r.run(pcn::encode_tiled(&tiled, x.data(), element, 4, dim, stride, box, swizzle));
  r.run(pcn::encode_im2col(&im2col, x.data(), element, dim, stride, corner, corner, 32, 8, steps, swizzle));
  r.run(pcn::encode_tiled(&flat, x.data(), element, 2, rows, stride, flat_box, swizzle));
  r.run(pcn::launch("hinted", hinted_kernel, dim3(1), dim3(64), 4096 + 1024, nullptr, tiled, im2col, tiled,
                    flat));
  r.expect_each<float>(x.read(), [](int i) { return static_cast<float>(i % 1024); });
}

// Values between two of TF32: to nearest, ties away from zero.
void tma_tf32_case(Result& r) {
  Array<float> x(64 * 32, [](int i) {
    const uint32_t bits = 0x3f800000u + static_cast<uint32_t>(i / 8 % 8 << 13 | i % 2 << 31) +
                          static_cast<uint32_t>(i % 8) * 0x400u + static_cast<uint32_t>(i / 64 % 3) - 1u;
    float f;
    memcpy(&f, &bits, 4);
    return f;
  });
  const std::vector<float> all = x.host;
  const uint64_t dim[2] = {32, 64}, stride[1] = {128};
  const uint32_t box[2] = {32, 64};
  pcn::TensorMap map;
  r.run(pcn::encode_tiled(&map, x.data(), pcn::TensorElement::kTf32, 2, dim, stride, box,
                          pcn::TensorSwizzle::k128));
  load_box(r, map, {2, 64, 32, pcn::TensorSwizzle::k128, {0, 0, 0, 0}, {0, 0}}, [&](int i, int j) {
    uint32_t bits;
    memcpy(&bits, &all[static_cast<size_t>(32 * i + j)], 4);
    bits = (bits + 0x1000u) & ~0x1fffu;
    float f;
    memcpy(&f, &bits, 4);
    return f;
  });
}

// ---- AlexNet's maps -----------------------------------------------------------------------------
// The A operand of its convolutions with filters over 1: 128 pixels from `first` on, one filter position. A group
// is a channel offset.
struct ConvLayer {
  int channels, extent, taps, pad;
};
void conv_box(Result& r, const ConvLayer& l, int columns, pcn::TensorSwizzle swizzle, int first, int c0,
              int tap) {
  constexpr int IMAGES = 2, PIXELS = 128;
  const int e = l.extent, c = l.channels;
  const auto u = [](int i) { return static_cast<uint64_t>(i); };
  Array<float> x(u(IMAGES * e * e * c), [](int i) { return static_cast<float>(i); });
  const uint64_t dim[4] = {u(c), u(e), u(e), IMAGES}, stride[3] = {u(4 * c), u(4 * c * e), u(4 * c * e * e)};
  const int corner[2] = {-l.pad, -l.pad};  // the far one: pad - (taps - 1), the same where the extent stays
  const uint32_t steps[4] = {1, 1, 1, 1};
  pcn::TensorMap map;
  r.run(pcn::encode_im2col(&map, x.data(), pcn::TensorElement::kFloat32, dim, stride, corner, corner,
                           static_cast<uint32_t>(columns), PIXELS, steps, swizzle));
  const int s = tap % l.taps, t = tap / l.taps;
  const TmaArgs args{
      -1, PIXELS, columns, swizzle, {c0, first % e - l.pad, first / e % e - l.pad, first / (e * e)}, {s, t}};
  load_box(r, map, args, [&](int i, int j) {
    const int m = first + i, w = m % e - l.pad + s, h = m / e % e - l.pad + t, n = m / (e * e);
    const bool inside = w >= 0 && w < e && h >= 0 && h < e && n < IMAGES;
    return inside ? static_cast<float>(((n * e + h) * e + w) * c + c0 + j) : 0.0f;
  });
}
void tma_alexnet_case(Result& r) {
  const auto k64 = pcn::TensorSwizzle::k64, k128 = pcn::TensorSwizzle::k128;
  const ConvLayer conv2{96, 27, 5, 2}, conv3{256, 13, 3, 1}, conv4{384, 13, 3, 1};
  conv_box(r, conv2, 16, k64, 640, 48 + 32, 0);     // over the end of an image
  conv_box(r, conv2, 24, k128, 1408, 48 + 24, 24);  // over the end of all
  conv_box(r, conv3, 32, k128, 128, 224, 2);
  conv_box(r, conv4, 32, k128, 0, 192 + 160, 6);
}

// conv1 on depth 4: of 57 x 57 x 48 a filter row of 3 pixels is 144 values in a row, and the next pixel's begins
// 48 further on: rows that overlap.
void tma_overlap_case(Result& r) {
  constexpr int E = 57, OUT = 55, C = 48;
  Array<float> x(2 * E * E * C, [](int i) { return static_cast<float>(i); });
  const uint64_t dim[4] = {3 * C, OUT, E, 2}, stride[3] = {4 * C, 4 * C * E, 4 * C * E * E};
  const uint32_t box[4] = {16, 32, 2, 1};
  pcn::TensorMap map;
  r.run(pcn::encode_tiled(&map, x.data(), pcn::TensorElement::kFloat32, 4, dim, stride, box,
                          pcn::TensorSwizzle::k64));
  const int at[3][4] = {{0, 0, 0, 0}, {128, 32, 55, 1}, {64, 30, 10, 1}};
  for (const auto& c : at) {
    load_box(r, map, {4, 64, 16, pcn::TensorSwizzle::k64, {c[0], c[1], c[2], c[3]}, {0, 0}},
             [&](int i, int j) {
               const int w = c[1] + i % 32, h = c[2] + i / 32;
               return w < OUT && h < E ? static_cast<float>(((c[3] * E + h) * E + w) * C + c[0] + j) : 0.0f;
             });
  }
}
