// tensor_map_cache.h: the tensor maps that were made lately, each under all that it was made from (tensor_map.h)
#pragma once
#include <cstring>
#include <type_traits>

namespace pcn {

// KEPT maps in fixed memory, none at the start; for one more, the one kept longest makes room. A key is compared whole,
// as bytes, and is never all zeros: those are places without a map.
template <class Key, class Map, int KEPT>
class TensorMapCache {
  static_assert(std::has_unique_object_representations<Key>::value, "keys have no padding");
  static_assert(std::is_trivially_copyable<Map>::value, "maps are bytes");

 public:
  // *map: what was kept under the key; false, and untouched, where there is none. The search begins behind the last
  // answer, since a step asks in the order of the step before.
  bool find(Map* map, const Key& key) {
    for (int i = 1; i <= KEPT; ++i) {
      const int at = (last_ + i) % KEPT;
      if (keys_[at].base != key.base || std::memcmp(&keys_[at], &key, sizeof key) != 0) continue;
      *map = maps_[last_ = at];
      return true;
    }
    return false;
  }
  // Of a key that find() does not know.
  void keep(const Key& key, const Map& map) {
    keys_[next_] = key;
    maps_[last_ = next_] = map;
    next_ = (next_ + 1) % KEPT;
  }

 private:
  Key keys_[KEPT] = {};
  Map maps_[KEPT] = {};
  int last_ = 0, next_ = 0;
};

}  // namespace pcn
