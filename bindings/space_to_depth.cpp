// pyconvnet.ops.space_to_depth below Python: filters for images in the depth layout, and their gradient.
#include "space_to_depth/space_to_depth.h"

#include "array.h"

namespace pcn::bind {
namespace {

std::int64_t plain_count(const DepthShape& s) { return std::int64_t{s.k} * s.r * s.s * s.c; }
std::int64_t depth_count(const DepthShape& s) { return std::int64_t{s.k} * s.to_r * s.to_s * s.to_c; }

}  // namespace

void register_space_to_depth(py::module_& m) {
  py::class_<DepthShape>(m, "DepthShape", py::module_local())
      .def(py::init([](int k, int r, int s, int c, int side, int to_r, int to_s, int to_c) {
             elements("DepthShape", {k, r, s, c});
             elements("DepthShape", {k, to_r, to_s, to_c});
             if (side < 1 || side > 64 || std::int64_t{to_r} * side < r || std::int64_t{to_s} * side < s ||
                 to_c < std::int64_t{side} * side * c)
               throw py::value_error("DepthShape: the rearranged filters do not hold the filters");
             return DepthShape{k, r, s, c, side, to_r, to_s, to_c};
           }),
           py::kw_only(), py::arg("k"), py::arg("r"), py::arg("s"), py::arg("c"), py::arg("side"),
           py::arg("to_r"), py::arg("to_s"), py::arg("to_c"));
  def_table(m, "filters_to_depth", filters_to_depth_kernels<float>);
  m.def("filters_to_depth", [](const std::string& kernel, const DepthShape& shape, py::object to,
                               py::object w, std::uintptr_t stream) {
    with_element(w, [&](auto element) {
      using T = decltype(element);
      Args args("filters_to_depth");
      T* to_ = args.out<T>(to, "out", depth_count(shape));
      const T* w_ = args.in<T>(w, "w", plain_count(shape));
      const auto& row = row_of("filters_to_depth", filters_to_depth_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(to_, w_, shape, stream_of(stream)); });
    });
  });
  def_table(m, "filters_from_depth", filters_from_depth_kernels);
  m.def("filters_from_depth", [](const std::string& kernel, const DepthShape& shape, py::object dw,
                                 py::object from, std::uintptr_t stream) {
    Args args("filters_from_depth");
    float* dw_ = args.out<float>(dw, "out", plain_count(shape));
    const float* from_ = args.in<float>(from, "filters", depth_count(shape));
    const auto& row = row_of("filters_from_depth", filters_from_depth_kernels(), kernel, shape);
    run(row.name, [&] { return row.launch(dw_, from_, shape, stream_of(stream)); });
  });
}

}  // namespace pcn::bind
