// products.h: wgmma's products that have been issued and not waited for
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "machine.h"

namespace ptx {

struct Products {
  bool fenced = false;  // since the sums may last have been touched
  std::vector<std::function<void(Warp&)>> open;
  std::deque<std::vector<std::function<void(Warp&)>>> closed;
  struct Hidden {  // of a row of sums: how many products will still change it, which lanes are defined so far
    int pending = 0;
    Mask defined = 0;
  };
  std::map<uint32_t, Hidden> hidden;
};

}  // namespace ptx
