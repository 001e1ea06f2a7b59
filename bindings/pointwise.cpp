// pyconvnet.ops.pointwise below Python: activations, bias, sums, concatenation and dropout.
#include "pointwise/pointwise.h"

#include "array.h"

namespace pcn::bind {
namespace {

void def_unary(py::module_& m, const char* op, Tables<UnaryRow> tables) {
  def_table(m, op, tables.of_float);
  m.def(op, [op, tables](const std::string& kernel, const ElementwiseShape& shape, py::object y, py::object x,
                         std::uintptr_t stream) {
    with_element(x, [&](auto element) {
      using T = decltype(element);
      Args args(op);
      T* y_ = args.out<T>(y, "out", shape.count);
      const T* x_ = args.in<T>(x, "x", shape.count);
      const auto& row = row_of(op, tables.of<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(y_, x_, shape, stream_of(stream)); });
    });
  });
}

void def_gradient(py::module_& m, const char* op, Tables<GradientRow> tables) {
  def_table(m, op, tables.of_float);
  m.def(op, [op, tables](const std::string& kernel, const ElementwiseShape& shape, py::object dx,
                         py::object dy, py::object y, std::uintptr_t stream) {
    with_element(dy, [&](auto element) {
      using T = decltype(element);
      Args args(op);
      T* dx_ = args.out<T>(dx, "out", shape.count);
      const T* dy_ = args.in<T>(dy, "dy", shape.count);
      const T* y_ = args.in<T>(y, "y", shape.count);
      const auto& row = row_of(op, tables.of<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(dx_, dy_, y_, shape, stream_of(stream)); });
    });
  });
}

void register_sums(py::module_& m) {
  def_table(m, "add", add_kernels<float>);
  m.def("add", [](const std::string& kernel, const ElementwiseShape& shape, py::object y, py::object a,
                  py::object b, float alpha, float beta, std::uintptr_t stream) {
    with_element(a, [&](auto element) {
      using T = decltype(element);
      Args args("add");
      T* y_ = args.out<T>(y, "out", shape.count);
      const T* a_ = args.in<T>(a, "a", shape.count);
      const T* b_ = args.in<T>(b, "b", shape.count);
      const auto& row = row_of("add", add_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(y_, a_, b_, alpha, beta, shape, stream_of(stream)); });
    });
  });

  py::class_<RowsShape>(m, "RowsShape", py::module_local())
      .def(py::init([](int rows, int cols) {
             elements("RowsShape", {rows, cols});
             return RowsShape{rows, cols};
           }),
           py::kw_only(), py::arg("rows"), py::arg("cols"));
  def_table(m, "add_bias", add_bias_kernels<float>);
  m.def("add_bias", [](const std::string& kernel, const RowsShape& shape, py::object y, py::object x,
                       py::object b, std::uintptr_t stream) {
    with_element(x, [&](auto element) {
      using T = decltype(element);
      Args args("add_bias");
      const std::int64_t count = elements("add_bias", {shape.rows, shape.cols});
      T* y_ = args.out<T>(y, "out", count);
      const T* x_ = args.in<T>(x, "x", count);
      const float* b_ = args.in<float>(b, "b", shape.cols);
      const auto& row = row_of("add_bias", add_bias_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(y_, x_, b_, shape, stream_of(stream)); });
    });
  });
  def_table(m, "bias_backward", bias_backward_kernels<float>);
  m.def("bias_backward", [](const std::string& kernel, const RowsShape& shape, py::object db, py::object dy,
                            py::object workspace, std::uintptr_t stream) {
    with_element(dy, [&](auto element) {
      using T = decltype(element);
      Args args("bias_backward");
      float* db_ = args.out<float>(db, "out", shape.cols);
      const T* dy_ = args.in<T>(dy, "dy", elements("bias_backward", {shape.rows, shape.cols}));
      const auto& row = row_of("bias_backward", bias_backward_kernels<T>(), kernel, shape);
      void* workspace_ = args.workspace(workspace, row.workspace_bytes(shape));
      run(row.name, [&] { return row.launch(db_, dy_, shape, workspace_, stream_of(stream)); });
    });
  });
}

void register_copy_columns(py::module_& m) {
  py::class_<CopyColumnsShape>(m, "CopyColumnsShape", py::module_local())
      .def(py::init([](int rows, int cols, int dst_cols, int dst_first, int src_cols, int src_first) {
             elements("CopyColumnsShape", {rows, cols});
             elements("CopyColumnsShape", {rows, dst_cols});
             elements("CopyColumnsShape", {rows, src_cols});
             if (dst_first < 0 || cols > dst_cols - dst_first || src_first < 0 || cols > src_cols - src_first)
               throw py::value_error("CopyColumnsShape: the columns must lie inside both matrices");
             return CopyColumnsShape{rows, cols, dst_cols, dst_first, src_cols, src_first};
           }),
           py::kw_only(), py::arg("rows"), py::arg("cols"), py::arg("dst_cols"), py::arg("dst_first"),
           py::arg("src_cols"), py::arg("src_first"));
  def_table(m, "copy_columns", copy_columns_kernels<float>);
  m.def("copy_columns", [](const std::string& kernel, const CopyColumnsShape& shape, py::object dst,
                           py::object src, std::uintptr_t stream) {
    with_element(src, [&](auto element) {
      using T = decltype(element);
      Args args("copy_columns");
      T* dst_ = args.out<T>(dst, "dst", elements("copy_columns", {shape.rows, shape.dst_cols}));
      const T* src_ = args.in<T>(src, "src", elements("copy_columns", {shape.rows, shape.src_cols}));
      const auto& row = row_of("copy_columns", copy_columns_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(dst_, src_, shape, stream_of(stream)); });
    });
  });
}

void register_dropout(py::module_& m) {
  py::class_<DropoutShape>(m, "DropoutShape", py::module_local())
      .def(py::init([](int rows, int cols, std::int64_t row0, std::int64_t col0, std::int64_t total_cols) {
             elements("DropoutShape", {rows, cols});
             constexpr std::int64_t limit = std::int64_t{1} << 31;
             if (row0 < 0 || row0 >= limit || total_cols >= limit || col0 < 0 || cols > total_cols - col0)
               throw py::value_error("DropoutShape: the window must lie inside the whole matrix");
             return DropoutShape{rows, cols, row0, col0, total_cols};
           }),
           py::kw_only(), py::arg("rows"), py::arg("cols"), py::arg("row0"), py::arg("col0"),
           py::arg("total_cols"));
  def_table(m, "dropout", dropout_kernels<float>);
  m.def(
      "dropout", [](const std::string& kernel, const DropoutShape& shape, py::object y, py::object mask,
                    py::object x, std::uint32_t threshold, float scale, std::uint64_t seed, std::int64_t step,
                    py::object step_on_device, std::uint32_t layer, std::uintptr_t stream) {
        with_element(x, [&](auto element) {
          using T = decltype(element);
          Args args("dropout");
          const std::int64_t count = elements("dropout", {shape.rows, shape.cols});
          T* y_ = args.out<T>(y, "y", count);
          std::uint8_t* mask_ = args.out<std::uint8_t>(mask, "mask", count);
          const T* x_ = args.in<T>(x, "x", count);
          const DropoutStream random{seed, step, args.optional_in<std::int64_t>(step_on_device, "step", 1),
                                     layer};
          const auto& row = row_of("dropout", dropout_kernels<T>(), kernel, shape);
          run(row.name,
              [&] { return row.launch(y_, mask_, x_, threshold, scale, random, shape, stream_of(stream)); });
        });
      });
  def_table(m, "dropout_backward", dropout_backward_kernels<float>);
  m.def("dropout_backward", [](const std::string& kernel, const ElementwiseShape& shape, py::object dx,
                               py::object dy, py::object mask, float scale, std::uintptr_t stream) {
    with_element(dy, [&](auto element) {
      using T = decltype(element);
      Args args("dropout_backward");
      T* dx_ = args.out<T>(dx, "out", shape.count);
      const T* dy_ = args.in<T>(dy, "dy", shape.count);
      const std::uint8_t* mask_ = args.in<std::uint8_t>(mask, "mask", shape.count);
      const auto& row = row_of("dropout_backward", dropout_backward_kernels<T>(), kernel, shape);
      run(row.name, [&] { return row.launch(dx_, dy_, mask_, scale, shape, stream_of(stream)); });
    });
  });
}

template <class T>
void bias_relu_dropout(const std::string& kernel, const DropoutShape& shape, py::handle y, py::handle x,
                       py::handle b, std::uint32_t threshold, float scale, const DropoutStream& random,
                       Args& args, std::uintptr_t stream) {
  const std::int64_t count = elements("bias_relu_dropout", {shape.rows, shape.cols});
  T* y_ = args.out<T>(y, "out", count);
  const T* x_ = args.in<T>(x, "x", count);
  const float* b_ = args.optional_in<float>(b, "b", shape.cols);
  const auto& row = row_of("bias_relu_dropout", bias_relu_dropout_kernels<T>(), kernel, shape);
  run(row.name, [&] { return row.launch(y_, x_, b_, threshold, scale, random, shape, stream_of(stream)); });
}

void register_bias_relu_dropout(py::module_& m) {
  def_table(m, "bias_relu_dropout", bias_relu_dropout_kernels<float>);
  m.def("bias_relu_dropout", [](const std::string& kernel, const DropoutShape& shape, py::object y,
                                py::object x, py::object b, std::uint32_t threshold, float scale,
                                std::uint64_t seed, std::int64_t step, py::object step_on_device,
                                std::uint32_t layer, std::uintptr_t stream) {
    Args args("bias_relu_dropout");
    const DropoutStream random{seed, step, args.optional_in<std::int64_t>(step_on_device, "step", 1), layer};
    const auto call = Args::is<Bf16>(x) ? bias_relu_dropout<Bf16> : bias_relu_dropout<float>;
    call(kernel, shape, y, x, b, threshold, scale, random, args, stream);
  });
}

}  // namespace

void register_pointwise(py::module_& m) {
  py::class_<ElementwiseShape>(m, "ElementwiseShape", py::module_local())
      .def(py::init([](int count) {
             elements("ElementwiseShape", {count});
             return ElementwiseShape{count};
           }),
           py::kw_only(), py::arg("count"));
  def_unary(m, "relu", {relu_kernels<float>, relu_kernels<Bf16>});
  def_unary(m, "tanh", {tanh_kernels<float>, tanh_kernels<Bf16>});
  def_unary(m, "logistic", {logistic_kernels<float>, logistic_kernels<Bf16>});
  def_gradient(m, "relu_backward", {relu_backward_kernels<float>, relu_backward_kernels<Bf16>});
  def_gradient(m, "tanh_backward", {tanh_backward_kernels<float>, tanh_backward_kernels<Bf16>});
  def_gradient(m, "logistic_backward", {logistic_backward_kernels<float>, logistic_backward_kernels<Bf16>});
  register_sums(m);
  register_copy_columns(m);
  register_dropout(m);
  register_bias_relu_dropout(m);
}

}  // namespace pcn::bind
