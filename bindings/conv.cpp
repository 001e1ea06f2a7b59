// Bindings of the conv family. One shape object describes all three directions. Where a row of wgrad does not
// make the bias's gradient, the kernel of bias_backward does it here, so that callers need not know.
#include "conv/conv.h"

#include "array.h"
#include "platform.h"
#include "pointwise/pointwise.h"

namespace pcn::bind {
namespace {

// Checks what the kernels rely on: every extent positive, every tensor below 2^31 elements, every output
// pixel's coordinates within 32 bits, group sizes whole.
Conv2dShape conv_shape(int n, int h, int w, int c, int k, int r, int s, int p, int q, int stride_h,
                       int stride_w, int pad_h, int pad_w, int groups, bool aligned, int precision,
                       int capability, int splits, bool bias_grad) {
  const auto fail = [](const std::string& text) { throw py::value_error("Conv2dShape: " + text); };
  elements("Conv2dShape: x", {n, h, w, c});
  elements("Conv2dShape: y", {n, p, q, k});
  if (groups < 1 || c % groups != 0 || k % groups != 0)
    fail("groups must be positive and divide c and k, got groups=" + std::to_string(groups) +
         ", c=" + std::to_string(c) + ", k=" + std::to_string(k));
  elements("Conv2dShape: w", {k, r, s, c / groups});
  if (stride_h < 1 || stride_w < 1) fail("strides must be positive");
  if (pad_h < 0 || pad_w < 0) fail("padding must not be negative");
  constexpr std::int64_t limit = 1 << 29;
  const std::int64_t reach[] = {
      h, w, pad_h, pad_w, std::int64_t{p} * stride_h + r, std::int64_t{q} * stride_w + s};
  for (const std::int64_t extent : reach)
    if (extent >= limit)
      fail("extents, padding and p * stride must stay below 2^29, got " + std::to_string(extent));
  // The kernels step along a reduction in 32 bits, and past its end by less than a tile.
  constexpr std::int64_t longest = (1ll << 31) - 1024;
  if (std::int64_t{r} * s * (c / groups) > longest || std::int64_t{n} * p * q > longest ||
      std::int64_t{r} * s * (k / groups) > longest)
    fail("the number of terms in a sum must stay below 2^31 - 1024");
  if (precision < 0 || precision > 3)
    fail("precision must be 0 (fp32), 1 (tf32), 2 (fp32x3) or 3 (bf16), got " + std::to_string(precision));
  if (splits < kShareTiles) fail("splits must be a number of pieces, 0 or -1, got " + std::to_string(splits));
  return {n,
          h,
          w,
          c,
          k,
          r,
          s,
          p,
          q,
          stride_h,
          stride_w,
          pad_h,
          pad_w,
          groups,
          aligned ? 1 : 0,
          static_cast<Precision>(precision),
          capability,
          splits,
          bias_grad ? 1 : 0};
}

std::string key_of(const Conv2dShape& s) {
  const auto pair = [](int a, int b) { return std::to_string(a) + "x" + std::to_string(b); };
  std::string text;
  const auto add = [&](const char* name, const std::string& value) { text += std::string(name) + value; };
  add("n=", std::to_string(s.n)), add(" x=", pair(s.h, s.w)), add(" c=", std::to_string(s.c));
  add(" k=", std::to_string(s.k)), add(" filter=", pair(s.r, s.s)), add(" y=", pair(s.p, s.q));
  add(" stride=", pair(s.stride_h, s.stride_w)), add(" pad=", pair(s.pad_h, s.pad_w));
  add(" groups=", std::to_string(s.groups));
  return s.aligned != 0 ? text : text + " unaligned";
}

std::int64_t x_count(const Conv2dShape& s) { return std::int64_t{s.n} * s.h * s.w * s.c; }
std::int64_t w_count(const Conv2dShape& s) { return std::int64_t{s.k} * s.r * s.s * (s.c / s.groups); }
std::int64_t y_count(const Conv2dShape& s) { return std::int64_t{s.n} * s.p * s.q * s.k; }

// The shape promised 16-byte alignment; kernels that move float4 rely on it.
template <class T>
T* aligned(const char* op, const char* name, const Conv2dShape& shape, T* pointer) {
  if (shape.aligned != 0 && reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0)
    throw py::value_error(std::string(op) + ": " + name +
                          " must start at a multiple of 16 bytes where the shape says aligned");
  return pointer;
}

// The kernel will run on the current device, which must be what the shape says: a kernel for tensor cores
// does nothing on a device without.
void check_capability(const char* op, const Conv2dShape& shape) {
  const int capability = platform::capability();
  if (capability == 0) return;  // the launch will say what is wrong
  if (shape.capability > capability)
    throw py::value_error(std::string(op) + ": the shape is made for compute capability " +
                          std::to_string(shape.capability) + ", the device has " +
                          std::to_string(capability));
}

// The row of a name, which must apply to the shape.
template <class Table>
const typename Table::Row& conv_row(const char* op, const Table& table, const std::string& name,
                                    const Conv2dShape& shape) {
  const auto& row = row_of(op, table, name, shape);
  if (!applies(row, shape))
    throw py::value_error(std::string(op) + ": kernel '" + name + "' cannot cut the reduction into " +
                          std::to_string(shape.splits) + " pieces");
  return row;
}

Activation activation_of(const char* op, int activation) {
  if (activation != 0 && activation != 1)
    throw py::value_error(std::string(op) + ": activation must be 0 (none) or 1 (relu), got " +
                          std::to_string(activation));
  return static_cast<Activation>(activation);
}

// One direction on arrays of E; the shape's precision says which E.
template <class E>
void fprop(const std::string& name, const Conv2dShape& shape, py::handle y, py::handle x, py::handle w,
           py::handle b, int activation, py::handle workspace, std::uintptr_t stream) {
  const char* op = "conv2d_fprop";
  const auto table = conv2d_fprop_kernels<E>();
  const auto& row = conv_row(op, table, name, shape);
  const Activation act = activation_of(op, activation);
  check_capability(op, shape);
  Args args(op);
  const E* x_ = aligned(op, "x", shape, args.in<E>(x, "x", x_count(shape)));
  const E* w_ = aligned(op, "w", shape, args.in<E>(w, "w", w_count(shape)));
  const float* b_ = args.optional_in<float>(b, "b", shape.k);
  E* y_ = aligned(op, "y", shape, args.out<E>(y, "y", y_count(shape)));
  void* scratch = args.workspace(workspace, row.workspace_bytes(shape));
  run(row.name, [&] { return row.launch(y_, x_, w_, b_, shape, act, scratch, stream_of(stream)); });
}

template <class E>
void dgrad(const std::string& name, const Conv2dShape& shape, py::handle dx, py::handle dy, py::handle w,
           py::handle mask, py::handle workspace, std::uintptr_t stream) {
  const char* op = "conv2d_dgrad";
  const auto table = conv2d_dgrad_kernels<E>();
  const auto& row = conv_row(op, table, name, shape);
  check_capability(op, shape);
  Args args(op);
  const E* dy_ = aligned(op, "dy", shape, args.in<E>(dy, "dy", y_count(shape)));
  const E* w_ = aligned(op, "w", shape, args.in<E>(w, "w", w_count(shape)));
  const E* mask_ = aligned(op, "mask", shape, args.optional_in<E>(mask, "mask", x_count(shape)));
  E* dx_ = aligned(op, "dx", shape, args.out<E>(dx, "dx", x_count(shape)));
  void* scratch = args.workspace(workspace, row.workspace_bytes(shape));
  run(row.name, [&] { return row.launch(dx_, dy_, w_, mask_, shape, scratch, stream_of(stream)); });
}

// The bias's gradient apart from that of the filters: a matrix of pixels by filters summed over its rows, in
// scratch memory behind that of the row of wgrad.
RowsShape dy_rows(const Conv2dShape& s) { return {s.n * s.p * s.q, s.k}; }
template <class E>
const BiasBackwardRow<E>& bias_row() {
  return *bias_backward_kernels<E>().begin();
}
template <class E>
std::size_t bias_scratch_at(const Conv2dWgradRow<E>& row, const Conv2dShape& shape) {
  return (row.workspace_bytes(shape) + 15) / 16 * 16;
}

// Scratch memory of all that a row's name stands for.
template <class Row>
std::size_t scratch_bytes(const Row& row, const Conv2dShape& shape) {
  return row.workspace_bytes(shape);
}
template <class E>
std::size_t scratch_bytes(const Conv2dWgradRow<E>& row, const Conv2dShape& shape) {
  if (shape.bias_grad == 0 || row.sums_bias(shape)) return row.workspace_bytes(shape);
  return bias_scratch_at(row, shape) + bias_row<E>().workspace_bytes(dy_rows(shape));
}

template <class E>
void wgrad(const std::string& name, const Conv2dShape& shape, py::handle dw, py::handle db, py::handle dy,
           py::handle x, py::handle workspace, std::uintptr_t stream) {
  const char* op = "conv2d_wgrad";
  const auto table = conv2d_wgrad_kernels<E>();
  const auto& row = conv_row(op, table, name, shape);
  check_capability(op, shape);
  Args args(op);
  const E* dy_ = aligned(op, "dy", shape, args.in<E>(dy, "dy", y_count(shape)));
  const E* x_ = aligned(op, "x", shape, args.in<E>(x, "x", x_count(shape)));
  float* dw_ = aligned(op, "dw", shape, args.out<float>(dw, "dw", w_count(shape)));
  float* db_ = args.optional_out<float>(db, "bias_grad", shape.k);
  if ((db_ != nullptr) != (shape.bias_grad != 0))
    throw py::value_error("conv2d_wgrad: bias_grad must be given where the shape says so, and only there");
  char* scratch = static_cast<char*>(args.workspace(workspace, scratch_bytes(row, shape)));
  const bool sums = row.sums_bias(shape);
  run(row.name,
      [&] { return row.launch(dw_, sums ? db_ : nullptr, dy_, x_, shape, scratch, stream_of(stream)); });
  if (db_ == nullptr || sums) return;
  const auto& apart = bias_row<E>();
  run(apart.name, [&] {
    return apart.launch(db_, dy_, dy_rows(shape), scratch + bias_scratch_at(row, shape), stream_of(stream));
  });
}

bool is_bf16(const Conv2dShape& shape) { return shape.precision == Precision::kBf16; }

// The function of two that serves the shape's precision.
template <class... Rest>
auto by_element(void (*of_float)(const std::string&, const Conv2dShape&, Rest...),
                void (*of_bf16)(const std::string&, const Conv2dShape&, Rest...)) {
  return [=](const std::string& name, const Conv2dShape& shape, Rest... rest) {
    (is_bf16(shape) ? of_bf16 : of_float)(name, shape, rest...);
  };
}

// [(name, value(row))] of the rows that apply, cheapest first.
template <class Row, class Value>
py::list ranked_rows(const KernelTable<Row>& table, const Conv2dShape& shape, Value value) {
  py::list rows;
  for (const Row* row : ranked(table, shape)) rows.append(py::make_tuple(row->name, value(*row)));
  return rows;
}

// OP_kernels(shape) -> [(name, workspace bytes)], cheapest first; OP_costs(shape) -> [(name, estimated time)]
// of the same; OP_shared(shape) -> [(name, (tiles, shares))] of the same, tiles that so many blocks share;
// OP_table() -> every name, each once.
template <class FloatTable, class Bf16Table>
void def_ranked(py::module_& m, const std::string& op, FloatTable (*of_float)(), Bf16Table (*of_bf16)()) {
  m.def((op + "_kernels").c_str(),
        [=](const Conv2dShape& shape) {
          const auto bytes = [&](const auto& row) { return scratch_bytes(row, shape); };
          return is_bf16(shape) ? ranked_rows(of_bf16(), shape, bytes)
                                : ranked_rows(of_float(), shape, bytes);
        },
        py::arg("shape"));
  m.def((op + "_costs").c_str(),
        [=](const Conv2dShape& shape) {
          const auto cost = [&](const auto& row) { return row.cost(shape); };
          return is_bf16(shape) ? ranked_rows(of_bf16(), shape, cost) : ranked_rows(of_float(), shape, cost);
        },
        py::arg("shape"));
  m.def((op + "_shared").c_str(),
        [=](const Conv2dShape& shape) {
          const auto shared = [&](const auto& row) {
            const SharedTiles found = row.shared(shape);
            return py::make_tuple(found.tiles, found.shares);
          };
          return is_bf16(shape) ? ranked_rows(of_bf16(), shape, shared)
                                : ranked_rows(of_float(), shape, shared);
        },
        py::arg("shape"));
  m.def((op + "_table").c_str(), [=] {
    py::list names;
    for (const auto& row : of_float()) names.append(row.name);
    for (const auto& row : of_bf16())
      if (of_float().find(row.name) == nullptr) names.append(row.name);
    return names;
  });
}

}  // namespace

void register_conv(py::module_& m) {
  py::class_<Conv2dShape>(m, "Conv2dShape", py::module_local(),
                          "A convolution's extents; see kernels/conv/conv.h.")
      .def(py::init(&conv_shape), py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("c"),
           py::arg("k"), py::arg("r"), py::arg("s"), py::arg("p"), py::arg("q"), py::arg("stride_h") = 1,
           py::arg("stride_w") = 1, py::arg("pad_h") = 0, py::arg("pad_w") = 0, py::arg("groups") = 1,
           py::arg("aligned") = true, py::arg("precision") = 0, py::arg("capability") = 0,
           py::arg("splits") = 0, py::arg("bias_grad") = false)
      .def(
          "cut",
          [](Conv2dShape shape, int splits) {
            if (splits < kShareTiles)
              throw py::value_error("Conv2dShape: splits must be a number of pieces, 0 or -1, got " +
                                    std::to_string(splits));
            shape.splits = splits;
            return shape;
          },
          py::arg("splits"),
          "The same shape with the reduction cut into so many pieces; 0: as kernels find good; -1: stream-K.")
      .def_readonly("splits", &Conv2dShape::splits)
      .def_readonly("n", &Conv2dShape::n)
      .def_readonly("c", &Conv2dShape::c)
      .def_readonly("k", &Conv2dShape::k)
      .def_readonly("r", &Conv2dShape::r)
      .def_readonly("s", &Conv2dShape::s)
      .def_readonly("p", &Conv2dShape::p)
      .def_readonly("q", &Conv2dShape::q)
      .def_readonly("groups", &Conv2dShape::groups)
      .def_property_readonly("key", &key_of, "What a choice of kernel holds for, in words.")
      .def_readonly("capability", &Conv2dShape::capability)
      .def_property_readonly("precision", [](const Conv2dShape& s) { return static_cast<int>(s.precision); });
  def_ranked(m, "conv2d_fprop", conv2d_fprop_kernels<float>, conv2d_fprop_kernels<Bf16>);
  def_ranked(m, "conv2d_dgrad", conv2d_dgrad_kernels<float>, conv2d_dgrad_kernels<Bf16>);
  def_ranked(m, "conv2d_wgrad", conv2d_wgrad_kernels<float>, conv2d_wgrad_kernels<Bf16>);
  m.def("conv2d_fprop", by_element(fprop<float>, fprop<Bf16>), py::arg("kernel"), py::arg("shape"),
        py::arg("y"), py::arg("x"), py::arg("w"), py::arg("b").none(true), py::arg("activation"),
        py::arg("workspace").none(true), py::arg("stream"));
  m.def("conv2d_dgrad", by_element(dgrad<float>, dgrad<Bf16>), py::arg("kernel"), py::arg("shape"),
        py::arg("dx"), py::arg("dy"), py::arg("w"), py::arg("mask").none(true),
        py::arg("workspace").none(true), py::arg("stream"));
  m.def("conv2d_wgrad", by_element(wgrad<float>, wgrad<Bf16>), py::arg("kernel"), py::arg("shape"),
        py::arg("dw"), py::arg("bias_grad").none(true), py::arg("dy"), py::arg("x"),
        py::arg("workspace").none(true), py::arg("stream"));
}

}  // namespace pcn::bind
