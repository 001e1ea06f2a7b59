// pyconvnet.ops.norm below Python: local response normalisation across channels and across pixels.
#include "norm/norm.h"

#include "array.h"

namespace pcn::bind {
namespace {

void check_size(const char* shape, int size) {
  if (size < 1) throw py::value_error(std::string(shape) + ": size must be positive");
}

std::int64_t count_of(const LrnShape& shape) { return elements("lrn", {shape.n, shape.c}); }
std::int64_t count_of(const LrnSpatialShape& shape) {
  return elements("lrn_spatial", {shape.n, shape.h, shape.w, shape.c});
}

template <class Row>
void def_forward(py::module_& m, const char* op, KernelTable<Row> (*table)()) {
  def_table(m, op, table);
  m.def(op,
        [op, table](const std::string& kernel, const typename Row::Shape& shape, py::object y,
                    py::object scale, py::object x, float alpha, float beta, float k, std::uintptr_t stream) {
          Args args(op);
          const std::int64_t count = count_of(shape);
          float* y_ = args.out<float>(y, "y", count);
          float* scale_ = args.out<float>(scale, "scale", count);
          const float* x_ = args.in<float>(x, "x", count);
          const Row& row = row_of(op, table(), kernel, shape);
          run(row.name, [&] { return row.launch(y_, scale_, x_, alpha, beta, k, shape, stream_of(stream)); });
        });
}

template <class Row>
void def_backward(py::module_& m, const char* op, KernelTable<Row> (*table)()) {
  def_table(m, op, table);
  m.def(op, [op, table](const std::string& kernel, const typename Row::Shape& shape, py::object dx,
                        py::object dy, py::object x, py::object y, py::object scale, float alpha, float beta,
                        std::uintptr_t stream) {
    Args args(op);
    const std::int64_t count = count_of(shape);
    float* dx_ = args.out<float>(dx, "out", count);
    const float* dy_ = args.in<float>(dy, "dy", count);
    const float* x_ = args.in<float>(x, "x", count);
    const float* y_ = args.in<float>(y, "y", count);
    const float* scale_ = args.in<float>(scale, "scale", count);
    const Row& row = row_of(op, table(), kernel, shape);
    run(row.name,
        [&] { return row.launch(dx_, dy_, x_, y_, scale_, alpha, beta, shape, stream_of(stream)); });
  });
}

}  // namespace

void register_norm(py::module_& m) {
  py::class_<LrnShape>(m, "LrnShape", py::module_local())
      .def(py::init([](int n, int c, int size, int groups) {
             elements("LrnShape", {n, c});
             check_size("LrnShape", size);
             if (groups < 1 || c % groups != 0) throw py::value_error("LrnShape: groups must divide c");
             return LrnShape{n, c, size, groups};
           }),
           py::kw_only(), py::arg("n"), py::arg("c"), py::arg("size"), py::arg("groups"));
  py::class_<LrnSpatialShape>(m, "LrnSpatialShape", py::module_local())
      .def(py::init([](int n, int h, int w, int c, int size) {
             elements("LrnSpatialShape", {n, h, w, c});
             check_size("LrnSpatialShape", size);
             return LrnSpatialShape{n, h, w, c, size};
           }),
           py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("c"), py::arg("size"));
  def_forward(m, "lrn", lrn_kernels);
  def_backward(m, "lrn_backward", lrn_backward_kernels);
  def_forward(m, "lrn_spatial", lrn_spatial_kernels);
  def_backward(m, "lrn_spatial_backward", lrn_spatial_backward_kernels);
}

}  // namespace pcn::bind
