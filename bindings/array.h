// Memory safety at the border between Python and the kernels: an argument becomes a pointer only after its
// dtype, contiguity, extent, writability, alignment and device have been checked. Shape rules live in
// pyconvnet/ops; here only what could corrupt memory is refused.
//
// One compilation serves two modules (platform.h). `_cuda` reads __cuda_array_interface__ (CuPy, PyTorch,
// Numba arrays), `_emulator` reads __array_interface__ (NumPy arrays). Both may be loaded in one process, so
// every class is registered with py::module_local().
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/types.h"

namespace py = pybind11;

namespace pcn::bind {

// Type character and size as in the array interface's typestr.
template <class T>
struct Typestr;
#define PCN_TYPESTR(T, kind, text)               \
  template <>                                    \
  struct Typestr<T> {                            \
    static constexpr const char* typestr = kind; \
    static constexpr const char* dtype = text;   \
  }
PCN_TYPESTR(float, "<f4", "float32");
PCN_TYPESTR(Bf16, "<V2", "bfloat16");  // ml_dtypes' own; two bytes of anything else are told apart by name
PCN_TYPESTR(double, "<f8", "float64");
PCN_TYPESTR(std::uint8_t, "|u1", "uint8");
PCN_TYPESTR(std::int32_t, "<i4", "int32");
PCN_TYPESTR(std::int64_t, "<i8", "int64");
#undef PCN_TYPESTR

// The arrays of one call. Constructed first in every bound function, destroyed after the launch: the
// emulator's race checker learns from it which memory the kernel may touch, and how.
class Args {
 public:
  explicit Args(const char* op) : op_(op) {}
  ~Args();
  Args(const Args&) = delete;
  Args& operator=(const Args&) = delete;

  // A readable array of exactly `count` elements.
  template <class T>
  const T* in(py::handle array, const char* name, std::int64_t count) {
    return static_cast<const T*>(
        checked(array, name, count, Typestr<T>::typestr, Typestr<T>::dtype, sizeof(T), false));
  }
  // None, or a readable array.
  template <class T>
  const T* optional_in(py::handle array, const char* name, std::int64_t count) {
    return array.is_none() ? nullptr : in<T>(array, name, count);
  }
  // A writable array of exactly `count` elements.
  template <class T>
  T* out(py::handle array, const char* name, std::int64_t count) {
    return static_cast<T*>(
        checked(array, name, count, Typestr<T>::typestr, Typestr<T>::dtype, sizeof(T), true));
  }
  template <class T>
  T* optional_out(py::handle array, const char* name, std::int64_t count) {
    return array.is_none() ? nullptr : out<T>(array, name, count);
  }
  // Scratch memory: None where bytes == 0, else a writable uint8 array of at least `bytes` elements,
  // aligned to 16 bytes.
  void* workspace(py::handle array, std::size_t bytes);

  // True if the array's elements are of type T; used where an argument may have one of two dtypes.
  template <class T>
  static bool is(py::handle array) {
    return has_typestr(array, Typestr<T>::typestr);
  }

 private:
  void* checked(py::handle array, const char* name, std::int64_t count, const char* typestr,
                const char* dtype, std::size_t item, bool writable, bool at_least = false);
  static bool has_typestr(py::handle array, const char* typestr);

  const char* op_;
  std::vector<void*> admitted_;
};

// Calls f with a value of the type that the array's elements are of: Bf16, or else float, as which f will
// then ask for the array.
template <class F>
void with_element(py::handle array, F&& f) {
  if (Args::is<Bf16>(array)) {
    f(Bf16{});
  } else {
    f(float{});
  }
}

// The tables of one operation for arrays of float and of Bf16. Both have the same rows.
template <template <class> class Row>
struct Tables {
  KernelTable<Row<float>> (*of_float)();
  KernelTable<Row<Bf16>> (*of_bf16)();
  template <class T>
  KernelTable<Row<T>> of() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return of_float();
    } else {
      return of_bf16();
    }
  }
};

// Product of extents; throws ValueError where one is not positive or the product reaches 2^31, the limit of
// the kernels' 32-bit indexes.
std::int64_t elements(const char* what, std::initializer_list<std::int64_t> extents);

inline cudaStream_t stream_of(std::uintptr_t stream) { return reinterpret_cast<cudaStream_t>(stream); }

// Bit i is set where the i-th array does not start at a multiple of 16 bytes.
std::uint64_t misaligned(py::args arrays);

// Raises RuntimeError naming the kernel where `status` is an error.
void check(const char* stem, cudaError_t status);

// Runs a launcher without the GIL.
template <class F>
void run(const char* stem, F&& launch) {
  cudaError_t status;
  {
    py::gil_scoped_release unlocked;
    status = launch();
  }
  check(stem, status);
}

// The row called `name`; ValueError where the table has none or it does not support the shape.
template <class Table, class Shape>
const typename Table::Row& row_of(const char* op, const Table& table, const std::string& name,
                                  const Shape& shape) {
  const auto* row = table.find(name.c_str());
  if (row == nullptr) throw py::value_error(std::string(op) + ": there is no kernel called '" + name + "'");
  if (!row->supports(shape))
    throw py::value_error(std::string(op) + ": kernel '" + name + "' does not support this shape");
  return *row;
}

// Binds OP_kernels(shape) -> [(name, workspace bytes)] of the supporting rows, in order of preference, and
// OP_table() -> every name.
template <class Table>
void def_table(py::module_& m, const char* op, Table (*table)()) {
  m.def((std::string(op) + "_kernels").c_str(),
        [table](const typename Table::Row::Shape& shape) {
          py::list names;
          for (const auto& row : table())
            if (row.supports(shape)) names.append(py::make_tuple(row.name, row.workspace_bytes(shape)));
          return names;
        },
        py::arg("shape"));
  m.def((std::string(op) + "_table").c_str(), [table] {
    py::list names;
    for (const auto& row : table()) names.append(row.name);
    return names;
  });
}

}  // namespace pcn::bind
