#include "array.h"

#include <pybind11/stl.h>

#include <pybind11/numpy.h>

#include <cstring>

#include "common/tensor_map_problem.h"
#include "platform.h"

namespace pcn::bind {
namespace {

using platform::kInterface;
using platform::kWanted;

std::string typestr_text(const std::string& typestr) {
  for (const auto& [code, text] : {std::pair{"<f4", "float32"},
                                   {"<f8", "float64"},
                                   {"<f2", "float16"},
                                   {Typestr<Bf16>::typestr, Typestr<Bf16>::dtype},
                                   {"|u1", "uint8"},
                                   {"|i1", "int8"},
                                   {"|b1", "bool"},
                                   {"<i4", "int32"},
                                   {"<u4", "uint32"},
                                   {"<i8", "int64"},
                                   {"<u8", "uint64"}})
    if (typestr == code) return text;
  return typestr;
}

std::string type_name(py::handle object) { return py::str(py::type::of(object).attr("__name__")); }

// The array interface knows no bfloat16, only "two bytes": the dtype's name decides.
bool called_bfloat16(py::handle array) {
  const py::object dtype = py::getattr(array, "dtype", py::none());
  return std::string(py::str(dtype)) == "bfloat16";
}

py::dict interface_of(const char* op, py::handle array, const char* name) {
  py::object interface;
  try {
    interface = py::getattr(array, kInterface, py::none());
  } catch (py::error_already_set&) {  // PyTorch raises where the tensor requires a gradient
    interface = py::none();
  }
  if (!py::isinstance<py::dict>(interface))
    throw py::type_error(std::string(op) + ": " + name + " must be " + kWanted + ", got " + type_name(array));
  return interface.cast<py::dict>();
}

// What an array says of itself.
struct View {
  std::string typestr;
  std::int64_t count;
  bool contiguous, read_only;
  std::uintptr_t address;
};

std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t total = 1;
  for (std::int64_t extent : shape) total *= extent;
  return total;
}

View view_of_interface(const char* op, py::handle array, const char* name, std::size_t item) {
  const py::dict interface = interface_of(op, array, name);
  View view{interface["typestr"].cast<std::string>(), 0, true, false, 0};
  if (view.typestr == Typestr<Bf16>::typestr && !called_bfloat16(array))
    view.typestr = "two bytes of another type";
  const auto shape = interface["shape"].cast<std::vector<std::int64_t>>();
  view.count = product(shape);
  if (interface.contains("strides") && !interface["strides"].is_none()) {
    const auto strides = interface["strides"].cast<std::vector<std::int64_t>>();
    std::int64_t step = static_cast<std::int64_t>(item);
    for (std::size_t axis = shape.size(); axis-- > 0; step *= shape[axis])
      if (shape[axis] != 1 && strides[axis] != step && view.count > 0) view.contiguous = false;
  }
  const auto data = interface["data"].cast<std::pair<std::uintptr_t, bool>>();
  view.address = data.first, view.read_only = data.second;
  return view;
}

// The typestr of an array whose type is exactly NumPy's and whose elements the kernels know, in this
// machine's byte order; nullptr for every other object. Reads the object itself: its array interface is a
// dict made anew each time, which takes longer than a small kernel.
const char* typestr_of_numpy(py::handle array) {
  static const bool on_host = platform::emulator_controls() != nullptr;
  if (!on_host) return nullptr;
  const auto& numpy = py::detail::npy_api::get();
  if (reinterpret_cast<PyObject*>(Py_TYPE(array.ptr())) != reinterpret_cast<PyObject*>(numpy.PyArray_Type_))
    return nullptr;
  const auto dtype = py::reinterpret_borrow<py::dtype>(py::detail::array_proxy(array.ptr())->descr);
  const char order = dtype.byteorder();
  if (order != '=' && order != '|') return nullptr;
  static const int kFloat = py::dtype::of<float>().num(), kDouble = py::dtype::of<double>().num(),
                   kByte = py::dtype::of<std::uint8_t>().num(), kInt = py::dtype::of<std::int32_t>().num(),
                   kLong = py::dtype::of<std::int64_t>().num();
  static int bfloat16 = -1;  // ml_dtypes gets its number from NumPy; guarded by the interpreter lock
  const int number = dtype.num();
  if (number == kFloat) return Typestr<float>::typestr;
  if (number == bfloat16) return Typestr<Bf16>::typestr;
  if (number == kByte) return Typestr<std::uint8_t>::typestr;
  if (number == kInt) return Typestr<std::int32_t>::typestr;
  if (number == kLong) return Typestr<std::int64_t>::typestr;
  if (number == kDouble) return Typestr<double>::typestr;
  if (bfloat16 < 0 && number >= 256 && called_bfloat16(array)) {  // 256: the first of users' types
    bfloat16 = number;
    return Typestr<Bf16>::typestr;
  }
  return nullptr;
}

View view_of_numpy(const char* typestr, py::handle array) {
  const auto* numpy = py::detail::array_proxy(array.ptr());
  std::int64_t count = 1;
  for (int axis = 0; axis < numpy->nd; ++axis) count *= numpy->dimensions[axis];
  const bool contiguous = (numpy->flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
  const bool read_only = (numpy->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) == 0;
  return {typestr, count, contiguous, read_only, reinterpret_cast<std::uintptr_t>(numpy->data)};
}

View view_of(const char* op, py::handle array, const char* name, std::size_t item) {
  if (const char* typestr = typestr_of_numpy(array)) return view_of_numpy(typestr, array);
  return view_of_interface(op, array, name, item);
}

}  // namespace

bool Args::has_typestr(py::handle array, const char* typestr) {
  if (const char* known = typestr_of_numpy(array)) return std::strcmp(known, typestr) == 0;
  py::object interface = py::getattr(array, kInterface, py::none());
  return py::isinstance<py::dict>(interface) && interface.contains("typestr") &&
         interface["typestr"].cast<std::string>() == typestr &&
         (std::string(typestr) != Typestr<Bf16>::typestr || called_bfloat16(array));
}

void* Args::checked(py::handle array, const char* name, std::int64_t count, const char* typestr,
                    const char* dtype, std::size_t item, bool writable, bool at_least) {
  const View view = view_of(op_, array, name, item);
  const auto where = [&] { return std::string(op_) + ": " + name; };
  if (view.typestr != typestr)
    throw py::type_error(where() + " must be " + dtype + ", got " + typestr_text(view.typestr));
  if (view.count != count && !(at_least && view.count > count))
    throw py::value_error(where() + " must have " + (at_least ? "at least " : "") + std::to_string(count) +
                          " elements, got " + std::to_string(view.count));
  if (!view.contiguous) throw py::value_error(where() + " must be C-contiguous");
  if (writable && view.read_only) throw py::value_error(where() + " must be writable, got a read-only array");
  if (view.address % item != 0) throw py::value_error(where() + " must be aligned to its element size");
  void* pointer = reinterpret_cast<void*>(view.address);
  if (view.count == 0) return pointer;
  const std::string problem = platform::admit(pointer, static_cast<std::size_t>(view.count) * item, writable);
  if (!problem.empty()) throw py::value_error(where() + " " + problem);
  admitted_.push_back(pointer);
  return pointer;
}

std::uint64_t misaligned(py::args arrays) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < arrays.size(); ++i)
    if (view_of("misaligned", arrays[i], "array", 1).address % 16 != 0) bits |= std::uint64_t{1} << i;
  return bits;
}

void* Args::workspace(py::handle array, std::size_t bytes) {
  if (bytes == 0) return nullptr;
  if (array.is_none())
    throw py::value_error(std::string(op_) + ": workspace of " + std::to_string(bytes) +
                          " bytes needed, got None");
  void* pointer =
      checked(array, "workspace", static_cast<std::int64_t>(bytes), "|u1", "uint8", 1, true, true);
  if (reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0)
    throw py::value_error(std::string(op_) + ": workspace must be aligned to 16 bytes");
  return pointer;
}

Args::~Args() {
  for (void* pointer : admitted_) platform::release(pointer);
}

std::int64_t elements(const char* what, std::initializer_list<std::int64_t> extents) {
  std::int64_t total = 1;
  for (std::int64_t extent : extents) {
    if (extent <= 0) throw py::value_error(std::string(what) + ": every extent must be positive");
    if (extent >= (std::int64_t{1} << 31) || (total *= extent) >= (std::int64_t{1} << 31))
      throw py::value_error(std::string(what) + ": 2^31 elements or more are not supported");
  }
  return total;
}

void check(const char* stem, cudaError_t status) {
  if (status == cudaSuccess) return;
  const std::string problem = take_tensor_map_problem();
  throw std::runtime_error(std::string(stem) + ": " + platform::error_text(status) +
                           (problem.empty() ? "" : "; " + problem));
}

}  // namespace pcn::bind
