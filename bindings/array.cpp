#include "array.h"

#include <pybind11/stl.h>

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

}  // namespace

bool Args::has_typestr(py::handle array, const char* typestr) {
  py::object interface = py::getattr(array, kInterface, py::none());
  return py::isinstance<py::dict>(interface) && interface.contains("typestr") &&
         interface["typestr"].cast<std::string>() == typestr &&
         (std::string(typestr) != Typestr<Bf16>::typestr || called_bfloat16(array));
}

void* Args::checked(py::handle array, const char* name, std::int64_t count, const char* typestr,
                    const char* dtype, std::size_t item, bool writable, bool at_least) {
  const py::dict interface = interface_of(op_, array, name);
  const std::string where = std::string(op_) + ": " + name;
  std::string got = interface["typestr"].cast<std::string>();
  if (got == Typestr<Bf16>::typestr && !called_bfloat16(array)) got = "two bytes of another type";
  if (got != typestr) throw py::type_error(where + " must be " + dtype + ", got " + typestr_text(got));

  std::int64_t total = 1, step = static_cast<std::int64_t>(item);
  const auto shape = interface["shape"].cast<std::vector<std::int64_t>>();
  for (std::int64_t extent : shape) total *= extent;
  if (total != count && !(at_least && total > count))
    throw py::value_error(where + " must have " + (at_least ? "at least " : "") + std::to_string(count) +
                          " elements, got " + std::to_string(total));
  if (interface.contains("strides") && !interface["strides"].is_none()) {
    const auto strides = interface["strides"].cast<std::vector<std::int64_t>>();
    for (std::size_t axis = shape.size(); axis-- > 0; step *= shape[axis])
      if (shape[axis] != 1 && strides[axis] != step && total > 0)
        throw py::value_error(where + " must be C-contiguous");
  }
  const auto data = interface["data"].cast<std::pair<std::uintptr_t, bool>>();
  if (writable && data.second) throw py::value_error(where + " must be writable, got a read-only array");
  if (data.first % item != 0) throw py::value_error(where + " must be aligned to its element size");
  void* pointer = reinterpret_cast<void*>(data.first);
  if (total == 0) return pointer;
  const std::string problem = platform::admit(pointer, static_cast<std::size_t>(total) * item, writable);
  if (!problem.empty()) throw py::value_error(where + " " + problem);
  admitted_.push_back(pointer);
  return pointer;
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
  throw std::runtime_error(std::string(stem) + ": " + platform::error_text(status));
}

}  // namespace pcn::bind
