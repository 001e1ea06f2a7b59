// tensor_map_problem.h: why a tensor map could not be made, from encode_tiled and encode_im2col (tensor_map.h) to
// the message of the exception (bindings/array.cpp)
#pragma once
#include <string>
#include <utility>

namespace pcn {

// Of this thread's last encode_*; empty: none was refused.
inline std::string& tensor_map_problem() {
  static thread_local std::string text;
  return text;
}
inline std::string take_tensor_map_problem() { return std::exchange(tensor_map_problem(), {}); }

}  // namespace pcn
