// primitives_maps.h: tensor maps that are found again instead of made again; included into primitives.cu
#pragma once

using pcn::TensorMap;
using pcn::TensorMapKey;

// By the functions that launches call.
cudaError_t encode(TensorMap* map, const TensorMapKey& k) {
  if (!k.im2col) return pcn::encode_tiled(map, k.base, k.element, k.rank, k.dim, k.stride, k.box, k.swizzle);
  const uint64_t dim[4] = {k.dim[0], k.dim[1], k.dim[2], k.dim[3]},
                 stride[3] = {k.stride[0], k.stride[1], k.stride[2]};
  const uint32_t* step = k.element_stride;
  return pcn::encode_im2col(map, k.base, k.element, dim, stride, k.lower, k.upper, k.box[0], k.box[1],
                            {step[0], step[1], step[2], step[3]}, k.swizzle);
}
bool known(const TensorMapKey& key) {
  TensorMap map;
  return pcn::detail::kept_maps().find(&map, key);
}
bool same(const TensorMap& a, const TensorMap& b) { return memcmp(&a, &b, sizeof a) == 0; }
// Without the table.
std::vector<TensorMap> made_anew(const std::vector<TensorMapKey>& keys) {
  std::vector<TensorMap> maps(keys.size());
  for (size_t i = 0; i < keys.size(); ++i)
    if (pcn::detail::encode_map(&maps[i], keys[i]) != cudaSuccess) maps[i] = TensorMap{};
  return maps;
}
// A new thread has an empty table.
void in_threads(int threads, const std::function<void()>& work) {
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) running.emplace_back(work);
  for (std::thread& t : running) t.join();
}

TensorMapKey first_key(const void* x, bool im2col) {
  TensorMapKey key = {};
  key.base = x, key.element = pcn::TensorElement::kFloat32, key.swizzle = pcn::TensorSwizzle::k32;
  key.rank = im2col ? 4 : 5, key.im2col = im2col;
  for (int i = 0; i < key.rank; ++i) key.dim[i] = i ? 8 : 64, key.element_stride[i] = 1;
  for (int i = 0; i + 1 < key.rank; ++i) key.stride[i] = uint64_t{512} << 4 * i;
  for (int i = 0; i < (im2col ? 2 : 5); ++i) key.box[i] = i ? 3 : 4;
  for (int i = 0; i < 2; ++i) key.lower[i] = key.upper[i] = -key.im2col;
  return key;
}
// Keys of which each differs in one argument from the first of its kind; rows do not overlap.
std::vector<TensorMapKey> different_keys(const float* x) {
  std::vector<TensorMapKey> keys;
  for (const TensorMapKey& first : {first_key(x, false), first_key(x, true)}) {
    const auto add = [&](const auto& change) {
      keys.push_back(first);
      change(keys.back());
    };
    add([](TensorMapKey&) {});
    add([](TensorMapKey& k) { k.base = static_cast<const float*>(k.base) + 4; });
    add([](TensorMapKey& k) { k.element = pcn::TensorElement::kTf32; });
    add([](TensorMapKey& k) { k.element = pcn::TensorElement::kBf16, k.box[0] *= 2; });
    for (const auto swizzle : {pcn::TensorSwizzle::kNone, pcn::TensorSwizzle::k64, pcn::TensorSwizzle::k128})
      add([=](TensorMapKey& k) { k.swizzle = swizzle; });
    for (int i = 0; i < first.rank; ++i) add([=](TensorMapKey& k) { k.dim[i] += 1; });
    for (int i = 0; i + 1 < first.rank; ++i) add([=](TensorMapKey& k) { k.stride[i] += 16; });
    add([](TensorMapKey& k) { k.box[0] *= 2; });
    for (int i = 1; i < (first.im2col ? 2 : first.rank); ++i) add([=](TensorMapKey& k) { k.box[i] += 1; });
    if (!first.im2col) {
      for (int rank = 4; rank > 0; --rank)
        add([=](TensorMapKey& k) {
          for (int i = k.rank = rank; i < 5; ++i)
            k.dim[i] = k.stride[i - 1] = k.box[i] = k.element_stride[i] = 0;
        });
      continue;
    }
    for (int i = 1; i < 3; ++i)
      add([=](TensorMapKey& k) { k.element_stride[i] = 2; });  // 0: the driver ignores it
    for (int i = 0; i < 2; ++i) {
      add([=](TensorMapKey& k) { k.lower[i] = -2; });
      add([=](TensorMapKey& k) { k.upper[i] = -2; });
    }
    add([](TensorMapKey& k) {
      k.im2col = k.lower[0] = k.lower[1] = k.upper[0] = k.upper[1] = 0;
      k.box[2] = k.box[3] = 1;
    });
  }
  return keys;
}

void found_maps(Result& r) {
  const auto expect = [&](uint32_t got, uint32_t want) { r.expect<uint32_t>({got}, {want}); };
  Array<float> x(64 * 64, small);
  // Every argument counts, and what is found is what would have been made.
  const std::vector<TensorMapKey> keys = different_keys(x);
  const std::vector<TensorMap> maps = made_anew(keys);
  in_threads(1, [&] {
    for (int round = 0; round < 3; ++round) {
      for (size_t i = 0; i < keys.size(); ++i) {
        alignas(64) TensorMap map{};
        expect(known(keys[i]), round > 0);
        expect(encode(&map, keys[i]), cudaSuccess);
        expect(known(keys[i]) && same(map, maps[i]), true);
      }
    }
  });
  // The table is asked first: what lies there under a key is what a launch gets.
  in_threads(1, [&] {
    TensorMap map{};
    pcn::detail::kept_maps().keep(keys[1], maps[0]);
    expect(encode(&map, keys[1]), cudaSuccess);
    expect(same(map, maps[0]), true);
  });
  int alike = 0;
  for (size_t i = 0; i < maps.size(); ++i)
    for (size_t j = 0; j < i; ++j) alike += same(maps[i], maps[j]);
  expect(alike, 0);
  // And every byte of them.
  in_threads(1, [&] {
    for (const TensorMapKey& key : {first_key(x, false), first_key(x, true)}) {
      TensorMap map;
      expect(encode(&map, key), cudaSuccess);
      for (size_t i = 0; i < sizeof key; ++i) {
        TensorMapKey other = key;
        reinterpret_cast<unsigned char*>(&other)[i] ^= 1;
        expect(known(other), false);
      }
      expect(known(key), true);
    }
  });
  // More than there is room for: the first ones have gone, and come again.
  std::vector<TensorMapKey> many;
  for (int i = 0; i < 3 * pcn::detail::kKeptMaps; ++i) many.push_back(first_key(x.data() + 4 * i, false));
  const std::vector<TensorMap> right = made_anew(many);
  in_threads(1, [&] {
    for (int round = 0; round < 2; ++round) {
      int wrong = 0, there = 0;
      for (size_t i = 0; i < many.size(); ++i) {
        TensorMap map;
        wrong += known(many[i]) || encode(&map, many[i]) != cudaSuccess || !same(map, right[i]);
      }
      for (const TensorMapKey& key : many) there += known(key);
      expect(wrong, 0);
      expect(there, pcn::detail::kKeptMaps);
      expect(known(many[many.size() - pcn::detail::kKeptMaps]), true);
    }
  });
  // Threads at once, of maps that fit and maps that do not.
  std::atomic<int> wrong{0};
  in_threads(4, [&] {
    for (size_t i = 0; i < 20000; ++i) {
      const size_t at = i / 1000 % 2 ? i % many.size() : i % 100;
      TensorMap map;
      wrong += encode(&map, many[at]) != cudaSuccess || !same(map, right[at]);
    }
  });
  expect(static_cast<uint32_t>(wrong), 0);
  // What is refused is refused again, in the same words, and neither kept nor remembered by what comes after it.
  in_threads(1, [&] {
    TensorMapKey bad = first_key(x, false), good = bad;
    bad.box[2] = 257;
    TensorMap map{};
    for (int i = 0; i < 3; ++i) {
      expect(encode(&map, bad), cudaErrorInvalidValue);
      expect(pcn::tensor_map_problem() == "tensor map: the box has 257 along dimension 2, must have 1 to 256",
             true);
      expect(known(bad), false);
      expect(encode(&map, good), cudaSuccess);
      expect(pcn::tensor_map_problem().empty(), true);
    }
    alignas(64) char room[sizeof map + 64];
    expect(encode(reinterpret_cast<TensorMap*>(room + 16), good), cudaErrorInvalidValue);
  });
}
