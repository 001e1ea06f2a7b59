// pyconvnet.ops.pool below Python: maximum and average over windows of pixels.
#include "pool/pool.h"

#include "array.h"

namespace pcn::bind {
namespace {

// One axis: every window holds at least one pixel, and no coordinate leaves 32 bits.
void check_windows(std::int64_t extent, std::int64_t size, std::int64_t windows, std::int64_t stride,
                   std::int64_t pad) {
  constexpr std::int64_t limit = std::int64_t{1} << 31;
  if (size < 1 || stride < 1) throw py::value_error("Pool2dShape: size and stride must be positive");
  if (pad < 0 || pad >= size) throw py::value_error("Pool2dShape: padding must be 0 … size - 1");
  if ((windows - 1) * stride - pad >= extent)
    throw py::value_error("Pool2dShape: the last window is outside the image");
  if (extent + size >= limit || (windows - 1) * stride + size >= limit)
    throw py::value_error("Pool2dShape: 2^31 pixels or more under one axis's windows are not supported");
}

Pool2dShape pool_shape(int n, int h, int w, int c, int r, int s, int p, int q, int stride_h, int stride_w,
                       int pad_h, int pad_w) {
  elements("Pool2dShape", {n, h, w, c});
  elements("Pool2dShape", {n, p, q, c});
  elements("Pool2dShape", {r, s});
  check_windows(h, r, p, stride_h, pad_h);
  check_windows(w, s, q, stride_w, pad_w);
  return {n, h, w, c, r, s, p, q, stride_h, stride_w, pad_h, pad_w};
}

std::int64_t pixels_in(const Pool2dShape& shape) {
  return elements("pool", {shape.n, shape.h, shape.w, shape.c});
}
std::int64_t pixels_out(const Pool2dShape& shape) {
  return elements("pool", {shape.n, shape.p, shape.q, shape.c});
}

using Sides = std::tuple<int, int, int, int>;  // top, bottom, left, right

CountedPadding counted(const char* op, const Sides& sides, const Pool2dShape& shape) {
  const auto [top, bottom, left, right] = sides;
  if (top < 0 || top >= shape.r || bottom < 0 || bottom >= shape.r || left < 0 || left >= shape.s ||
      right < 0 || right >= shape.s)
    throw py::value_error(std::string(op) + ": counted padding must be 0 … size - 1");
  return {top, bottom, left, right};
}

void register_max(py::module_& m) {
  def_table(m, "max_pool2d", max_pool2d_kernels<float>);
  m.def("max_pool2d", [](const std::string& kernel, const Pool2dShape& shape, py::object y, py::object argmax,
                         py::object x, std::uintptr_t stream) {
    with_element(x, [&](auto element) {
      using T = decltype(element);
      Args args("max_pool2d");
      T* y_ = args.out<T>(y, "y", pixels_out(shape));
      void* argmax_ = argmax_is_byte(shape)
                          ? static_cast<void*>(args.out<std::uint8_t>(argmax, "argmax", pixels_out(shape)))
                          : static_cast<void*>(args.out<std::int32_t>(argmax, "argmax", pixels_out(shape)));
      const T* x_ = args.in<T>(x, "x", pixels_in(shape));
      const auto& row = row_of("max_pool2d", max_pool2d_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(y_, argmax_, x_, shape, stream_of(stream)); });
    });
  });
  def_table(m, "max_pool2d_backward", max_pool2d_backward_kernels<float>);
  m.def("max_pool2d_backward", [](const std::string& kernel, const Pool2dShape& shape, py::object dx,
                                  py::object dy, py::object argmax, py::object mask, std::uintptr_t stream) {
    with_element(dy, [&](auto element) {
      using T = decltype(element);
      Args args("max_pool2d_backward");
      T* dx_ = args.out<T>(dx, "out", pixels_in(shape));
      const T* dy_ = args.in<T>(dy, "dy", pixels_out(shape));
      const void* argmax_ =
          argmax_is_byte(shape)
              ? static_cast<const void*>(args.in<std::uint8_t>(argmax, "argmax", pixels_out(shape)))
              : static_cast<const void*>(args.in<std::int32_t>(argmax, "argmax", pixels_out(shape)));
      const T* mask_ = args.optional_in<T>(mask, "mask", pixels_in(shape));
      const auto& row = row_of("max_pool2d_backward", max_pool2d_backward_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(dx_, dy_, argmax_, mask_, shape, stream_of(stream)); });
    });
  });
}

void register_avg(py::module_& m) {
  def_table(m, "avg_pool2d", avg_pool2d_kernels<float>);
  m.def("avg_pool2d", [](const std::string& kernel, const Pool2dShape& shape, py::object y, py::object x,
                         const Sides& counted_padding, std::uintptr_t stream) {
    with_element(x, [&](auto element) {
      using T = decltype(element);
      Args args("avg_pool2d");
      T* y_ = args.out<T>(y, "out", pixels_out(shape));
      const T* x_ = args.in<T>(x, "x", pixels_in(shape));
      const CountedPadding padding = counted("avg_pool2d", counted_padding, shape);
      const auto& row = row_of("avg_pool2d", avg_pool2d_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(y_, x_, padding, shape, stream_of(stream)); });
    });
  });
  def_table(m, "avg_pool2d_backward", avg_pool2d_backward_kernels<float>);
  m.def("avg_pool2d_backward",
        [](const std::string& kernel, const Pool2dShape& shape, py::object dx, py::object dy, py::object mask,
           const Sides& counted_padding, std::uintptr_t stream) {
          with_element(dy, [&](auto element) {
            using T = decltype(element);
            Args args("avg_pool2d_backward");
            T* dx_ = args.out<T>(dx, "out", pixels_in(shape));
            const T* dy_ = args.in<T>(dy, "dy", pixels_out(shape));
            const T* mask_ = args.optional_in<T>(mask, "mask", pixels_in(shape));
            const CountedPadding padding = counted("avg_pool2d_backward", counted_padding, shape);
            const auto& row = row_of("avg_pool2d_backward", avg_pool2d_backward_kernels<T>(), kernel, shape);
            run(row.name, [&] { return row.launch(dx_, dy_, mask_, padding, shape, stream_of(stream)); });
          });
        });
}

}  // namespace

void register_pool(py::module_& m) {
  py::class_<Pool2dShape>(m, "Pool2dShape", py::module_local())
      .def(py::init(&pool_shape), py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("c"),
           py::arg("r"), py::arg("s"), py::arg("p"), py::arg("q"), py::arg("stride_h"), py::arg("stride_w"),
           py::arg("pad_h"), py::arg("pad_w"));
  register_max(m);
  register_avg(m);
}

}  // namespace pcn::bind
