// pyconvnet.ops.norm below Python: local response normalisation across channels and across pixels,
// and the first with the maximum over windows of pixels behind it.
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

template <template <class> class Row>
void def_forward(py::module_& m, const char* op, Tables<Row> tables) {
  using Shape = typename Row<float>::Shape;
  def_table(m, op, tables.of_float);
  m.def(op, [op, tables](const std::string& kernel, const Shape& shape, py::object y, py::object scale,
                         py::object x, float alpha, float beta, float k, std::uintptr_t stream) {
    with_element(x, [&](auto element) {
      using T = decltype(element);
      Args args(op);
      const std::int64_t count = count_of(shape);
      T* y_ = args.out<T>(y, "y", count);
      float* scale_ = args.out<float>(scale, "scale", count);
      const T* x_ = args.in<T>(x, "x", count);
      const auto& row = row_of(op, tables.template of<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(y_, scale_, x_, alpha, beta, k, shape, stream_of(stream)); });
    });
  });
}

// Options: what the launcher takes between beta and the shape.
template <template <class> class Row, class... Options>
void def_backward(py::module_& m, const char* op, Tables<Row> tables) {
  using Shape = typename Row<float>::Shape;
  def_table(m, op, tables.of_float);
  m.def(op, [op, tables](const std::string& kernel, const Shape& shape, py::object dx, py::object dy,
                         py::object x, py::object y, py::object scale, float alpha, float beta,
                         Options... options, std::uintptr_t stream) {
    with_element(x, [&](auto element) {
      using T = decltype(element);
      Args args(op);
      const std::int64_t count = count_of(shape);
      T* dx_ = args.out<T>(dx, "out", count);
      const T* dy_ = args.in<T>(dy, "dy", count);
      const T* x_ = args.in<T>(x, "x", count);
      const T* y_ = args.in<T>(y, "y", count);
      const float* scale_ = args.in<float>(scale, "scale", count);
      const auto& row = row_of(op, tables.template of<T>(), kernel, shape);
      run(row.name, [&] {
        return row.launch(dx_, dy_, x_, y_, scale_, alpha, beta, options..., shape, stream_of(stream));
      });
    });
  });
}

// One axis of the windows of pixels: each holds at least one pixel, and no coordinate leaves 32 bits.
void check_axis(std::int64_t extent, std::int64_t size, std::int64_t windows, std::int64_t stride,
                std::int64_t pad) {
  constexpr std::int64_t limit = std::int64_t{1} << 31;
  if (size < 1 || stride < 1)
    throw py::value_error("LrnMaxPool2dShape: windows and strides must be positive");
  if (pad < 0 || pad >= size)
    throw py::value_error("LrnMaxPool2dShape: padding must be 0 … the window's extent - 1");
  if ((windows - 1) * stride - pad >= extent)
    throw py::value_error("LrnMaxPool2dShape: the last window is outside the image");
  if (extent + size >= limit || (windows - 1) * stride + size >= limit)
    throw py::value_error(
        "LrnMaxPool2dShape: 2^31 pixels or more under one axis's windows are not supported");
}

LrnMaxPool2dShape make_pooled_shape(int n, int h, int w, int c, int lrn_size, int groups, int r, int s, int p,
                                    int q, int stride_h, int stride_w, int pad_h, int pad_w) {
  elements("LrnMaxPool2dShape", {n, h, w, c});
  elements("LrnMaxPool2dShape", {n, p, q, c});
  elements("LrnMaxPool2dShape", {r, s});
  if (lrn_size < 1) throw py::value_error("LrnMaxPool2dShape: lrn_size must be positive");
  if (groups < 1 || c % groups != 0) throw py::value_error("LrnMaxPool2dShape: groups must divide c");
  check_axis(h, r, p, stride_h, pad_h);
  check_axis(w, s, q, stride_w, pad_w);
  return {n, h, w, c, lrn_size, groups, r, s, p, q, stride_h, stride_w, pad_h, pad_w};
}

std::int64_t count_in(const LrnMaxPool2dShape& shape) {
  return elements("lrn_max_pool2d", {shape.n, shape.h, shape.w, shape.c});
}
std::int64_t count_out(const LrnMaxPool2dShape& shape) {
  return elements("lrn_max_pool2d", {shape.n, shape.p, shape.q, shape.c});
}

void register_pooled(py::module_& m) {
  py::class_<LrnMaxPool2dShape>(m, "LrnMaxPool2dShape", py::module_local())
      .def(py::init(&make_pooled_shape), py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"),
           py::arg("c"), py::arg("lrn_size"), py::arg("groups"), py::arg("r"), py::arg("s"), py::arg("p"),
           py::arg("q"), py::arg("stride_h"), py::arg("stride_w"), py::arg("pad_h"), py::arg("pad_w"));
  def_table(m, "lrn_max_pool2d", lrn_max_pool2d_kernels<float>);
  m.def("lrn_max_pool2d", [](const std::string& kernel, const LrnMaxPool2dShape& shape, py::object y,
                             py::object argmax, py::object x, float alpha, float beta, float k,
                             std::uintptr_t stream) {
    with_element(x, [&](auto element) {
      using T = decltype(element);
      Args args("lrn_max_pool2d");
      const std::int64_t count = count_out(shape);
      T* y_ = args.out<T>(y, "y", count);
      void* argmax_ = argmax_is_byte(shape)
                          ? static_cast<void*>(args.out<std::uint8_t>(argmax, "argmax", count))
                          : static_cast<void*>(args.out<std::int32_t>(argmax, "argmax", count));
      const T* x_ = args.in<T>(x, "x", count_in(shape));
      const auto& row = row_of("lrn_max_pool2d", lrn_max_pool2d_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(y_, argmax_, x_, alpha, beta, k, shape, stream_of(stream)); });
    });
  });
  def_table(m, "lrn_max_pool2d_backward", lrn_max_pool2d_backward_kernels<float>);
  m.def("lrn_max_pool2d_backward", [](const std::string& kernel, const LrnMaxPool2dShape& shape,
                                      py::object dx, py::object dy, py::object argmax, py::object x,
                                      float alpha, float beta, float k, bool relu, std::uintptr_t stream) {
    with_element(x, [&](auto element) {
      using T = decltype(element);
      Args args("lrn_max_pool2d_backward");
      T* dx_ = args.out<T>(dx, "out", count_in(shape));
      const T* dy_ = args.in<T>(dy, "dy", count_out(shape));
      const void* argmax_ =
          argmax_is_byte(shape)
              ? static_cast<const void*>(args.in<std::uint8_t>(argmax, "argmax", count_out(shape)))
              : static_cast<const void*>(args.in<std::int32_t>(argmax, "argmax", count_out(shape)));
      const T* x_ = args.in<T>(x, "x", count_in(shape));
      const auto& row =
          row_of("lrn_max_pool2d_backward", lrn_max_pool2d_backward_kernels<T>(), kernel, shape);
      run(row.name,
          [&] { return row.launch(dx_, dy_, argmax_, x_, alpha, beta, k, relu, shape, stream_of(stream)); });
    });
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
           py::kw_only(), py::arg("n"), py::arg("c"), py::arg("size"), py::arg("groups"))
      .def_property_readonly("key", [](const LrnShape& s) {
        return "n=" + std::to_string(s.n) + " c=" + std::to_string(s.c) + " size=" + std::to_string(s.size) +
               " groups=" + std::to_string(s.groups);
      });
  py::class_<LrnSpatialShape>(m, "LrnSpatialShape", py::module_local())
      .def(py::init([](int n, int h, int w, int c, int size) {
             elements("LrnSpatialShape", {n, h, w, c});
             check_size("LrnSpatialShape", size);
             return LrnSpatialShape{n, h, w, c, size};
           }),
           py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("c"), py::arg("size"));
  def_forward<LrnRow>(m, "lrn", {lrn_kernels<float>, lrn_kernels<Bf16>});
  def_backward<LrnBackwardRow, bool>(m, "lrn_backward",
                                     {lrn_backward_kernels<float>, lrn_backward_kernels<Bf16>});
  def_forward<LrnSpatialRow>(m, "lrn_spatial", {lrn_spatial_kernels<float>, lrn_spatial_kernels<Bf16>});
  def_backward<LrnSpatialBackwardRow>(
      m, "lrn_spatial_backward", {lrn_spatial_backward_kernels<float>, lrn_spatial_backward_kernels<Bf16>});
  register_pooled(m);
}

}  // namespace pcn::bind
