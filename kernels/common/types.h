// Types that cross the seam between kernels, their tables and the bindings. Host code only: no device
// qualifiers, so that FAMILY.h and FAMILY_dispatch.cpp compile without nvcc.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pcn {

// A bfloat16 in memory: float32's upper half. Kernels compute in float32 (common/element.h converts).
struct Bf16 {
  std::uint16_t bits;
};

// What an epilogue applies to the result before it is stored.
enum class Activation : int { kNone = 0, kRelu = 1 };

// One kernel of a family: its stem (file, launcher and benchmark row carry the same name), the shapes it
// accepts, the scratch memory it needs for one, and its launcher.
template <class ShapeT, class LaunchT>
struct KernelRow {
  using Shape = ShapeT;
  using Launch = LaunchT;
  const char* name;
  bool (*supports)(const Shape&);
  std::size_t (*workspace_bytes)(const Shape&);
  Launch* launch;
};

// The kernels of one operation in order of preference; the last one accepts every shape.
template <class RowT>
struct KernelTable {
  using Row = RowT;
  const Row* rows;
  int count;
  const Row* begin() const { return rows; }
  const Row* end() const { return rows + count; }
  const Row* find(const char* name) const {
    for (const Row& row : *this)
      if (std::strcmp(row.name, name) == 0) return &row;
    return nullptr;
  }
};

// For rows whose kernels need no scratch memory.
template <class Shape>
std::size_t no_workspace(const Shape&) {
  return 0;
}

template <class Shape>
bool always(const Shape&) {
  return true;
}

}  // namespace pcn
