// products.h: wgmma's products that have been issued and not waited for
#pragma once
#include <deque>
#include <functional>
#include <vector>

#include "machine.h"

namespace ptx {

struct Products {
  bool fenced = false;  // a wgmma.fence since the registers may last have been touched
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> closed;
};

}  // namespace ptx
