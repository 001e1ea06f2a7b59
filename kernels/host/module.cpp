// pyconvnet._host: the kernels of the `cpu` device for Python. Plain C API: pybind11 would take longer to compile than all
// kernels together. Each function checks what it is given, arrays and extents, and lets go of the interpreter meanwhile;
// memory is what the arrays are, so nothing that Python passes reads or writes outside of it.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdlib>
#include <initializer_list>

#include "host/host.h"

namespace pcn_host {
namespace {

const Kernels* const kAll[] = {
#ifdef PCN_HOST_X86
    &kernels_avx512,
    &kernels_avx2,
#endif
    &kernels_generic,
};

bool runs(const Kernels* kernels) {
#ifdef PCN_HOST_X86
  if (kernels == &kernels_avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
  if (kernels == &kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return kernels == &kernels_generic;
}

// ---- arguments -------------------------------------------------------------------------------------------------------

// The arguments of a call, one after the other; after a wrong one `good` is false and Python's error set.
class Arguments {
 public:
  Arguments(PyObject* const* args, Py_ssize_t count, Py_ssize_t wanted)
      : args_(args), good_(count == wanted) {
    if (!good_) PyErr_Format(PyExc_TypeError, "_host: %zd arguments wanted, got %zd", wanted, count);
  }
  ~Arguments() {
    for (int i = 0; i < views_; ++i) PyBuffer_Release(&view_[i]);
  }
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  bool good() const { return good_; }

  long integer(long low, long high) { return good_ ? integer_of(args_[next_++], low, high) : 0; }

  float number() {
    const double value = good_ ? PyFloat_AsDouble(args_[next_++]) : 0;
    good_ = good_ && !(value == -1 && PyErr_Occurred());
    return float(value);
  }

  const Kernels* level() {
    PyObject* name = good_ ? args_[next_++] : nullptr;
    const char* text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : nullptr;
    for (const Kernels* kernels : kAll)
      if (text && PyUnicode_CompareWithASCIIString(name, kernels->name) == 0 && runs(kernels)) return kernels;
    if (good_ && !PyErr_Occurred())
      PyErr_Format(PyExc_ValueError, "_host: no level of this processor: %R", name);
    good_ = false;
    return &kernels_generic;
  }

  // A tuple of `count` integers, each in [-2^30, 2^30].
  void tuple(long* numbers, int count) {
    if (!good_) return;
    PyObject* tuple = args_[next_++];
    if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != count) {
      PyErr_Format(PyExc_TypeError, "_host: a tuple of %d integers wanted, got %R", count, tuple);
      good_ = false;
      return;
    }
    for (int i = 0; i < count && good_; ++i)
      numbers[i] = integer_of(PyTuple_GET_ITEM(tuple, i), -kMost, kMost);
  }

  // A contiguous array of `count` elements of a format; None where `optional`.
  template <typename T>
  T* array(const char* format, long count, bool writable, bool optional = false) {
    if (!good_) return nullptr;
    PyObject* object = args_[next_++];
    if (optional && object == Py_None) return nullptr;
    Py_buffer* view = &view_[views_];
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    good_ = PyObject_GetBuffer(object, view, flags) == 0;
    if (!good_) return nullptr;
    ++views_;
    if (view->itemsize != Py_ssize_t(sizeof(T)) || !view->format || view->format[0] != format[0] ||
        view->format[1] || view->len != Py_ssize_t(sizeof(T)) * count ||
        reinterpret_cast<size_t>(view->buf) % sizeof(T)) {
      PyErr_Format(PyExc_ValueError,
                   "_host: an array of %ld elements of format '%s' wanted, got %zd bytes of '%s'", count,
                   format, view->len, view->format ? view->format : "");
      good_ = false;
      return nullptr;
    }
    return static_cast<T*>(view->buf);
  }
  float* floats(long count, bool writable = false, bool optional = false) {
    return array<float>("f", count, writable, optional);
  }

  void require(bool condition, const char* what) {
    if (good_ && !condition) {
      PyErr_Format(PyExc_ValueError, "_host: %s", what);
      good_ = false;
    }
  }

  // The product of factors; an error where it is 2^40 or more.
  template <typename... Ts>
  long product(Ts... factors) {
    long result = 1;
    for (const long factor : {long(factors)...}) {
      require(factor >= 0 && (factor == 0 || result < kMostElements / factor), "arrays are too large");
      result = good_ ? result * factor : 0;
    }
    return result;
  }

 private:
  static constexpr long kMost = 1l << 30, kMostElements = 1l << 40;

  long integer_of(PyObject* object, long low, long high) {
    const long value = PyLong_AsLong(object);
    good_ = !(value == -1 && PyErr_Occurred());
    if (good_ && (value < low || value > high)) {
      PyErr_Format(PyExc_ValueError, "_host: integers must be in [%ld, %ld], got %ld", low, high, value);
      good_ = false;
    }
    return value;
  }

  PyObject* const* args_;
  Py_ssize_t next_ = 0;
  Py_buffer view_[8];
  int views_ = 0;
  bool good_;
};

Conv conv_of(Arguments& args) {
  long e[14] = {};
  args.tuple(e, 14);
  for (int i = 0; i < 14; ++i)
    args.require(i == 11 || i == 12 || e[i] >= 1, "extents, strides and groups must be positive");
  args.require(args.good() && e[3] % e[13] == 0 && e[4] % e[13] == 0,
               "groups must divide channels and filters");
  return {e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8], e[9], e[10], e[11], e[12], e[13]};
}

Pool pool_of(Arguments& args) {
  long e[12] = {};
  args.tuple(e, 12);
  for (int i = 0; i < 12; ++i)
    args.require(i >= 10 || e[i] >= 1, "extents, sizes and strides must be positive");
  const Pool g = {e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8], e[9], e[10], e[11]};
  // Each window holds a pixel of the image, and its positions fit a byte.
  args.require(g.top >= 0 && g.top < g.r && (g.p - 1) * g.stride_h - g.top < g.h && g.left >= 0 &&
                   g.left < g.s && (g.q - 1) * g.stride_w - g.left < g.w && g.r <= 255 && g.s <= 255 &&
                   g.r * g.s <= 255,
               "a window lies outside the image, or is too large");
  return g;
}

Norm norm_of(Arguments& args) {
  long e[8] = {};
  args.tuple(e, 8);
  for (int i = 0; i < 8; ++i) args.require(e[i] >= (i < 4), "extents must be positive, reaches not negative");
  const float alpha = args.number(), beta = args.number(), k = args.number(), factor = args.number();
  args.require(beta == 0.75f || beta == 0.5f || beta == 1.0f, "beta must be 3/4, 1/2 or 1");
  const Norm g = {e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7], alpha, beta, k, factor};
  args.require(g.before_h < g.h && g.after_h < g.h && g.before_w < g.w && g.after_w < g.w,
               "a window beyond the image");
  return g;
}

// Memory for the time of a call; null, with Python's error set, where there is none.
class Room {
 public:
  explicit Room(Arguments& args, long floats)
      : at_(args.good() ? std::malloc(sizeof(float) * floats) : nullptr) {
    if (args.good() && !at_) PyErr_NoMemory();
  }
  ~Room() { std::free(at_); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  float* at() const { return static_cast<float*>(at_); }

 private:
  void* at_;
};

Part part_of(Arguments& args, long images, long rows) {
  long e[4] = {};
  args.tuple(e, 4);
  args.require(0 <= e[0] && e[0] <= e[1] && e[1] <= images && 0 <= e[2] && e[2] <= e[3] && e[3] <= rows,
               "a part outside the output");
  return {e[0], e[1], e[2], e[3]};
}

// Runs a kernel without the interpreter's lock, if the arguments were right.
template <typename F>
PyObject* run(Arguments& args, F kernel) {
  if (!args.good()) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  kernel();
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

// ---- functions -------------------------------------------------------------------------------------------------------

PyObject* levels(PyObject*, PyObject*) {
  PyObject* result = PyDict_New();
  for (const Kernels* kernels : kAll) {
    if (!result || !runs(kernels)) continue;
    PyObject* lanes = PyLong_FromLong(kernels->lanes);
    if (!lanes || PyDict_SetItemString(result, kernels->name, lanes)) Py_CLEAR(result);
    Py_XDECREF(lanes);
  }
  return result;
}

// The least multiple of `lanes` that holds `count` numbers.
long whole(long count, long lanes) { return (count + lanes - 1) / lanes * lanes; }

PyObject* pack(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 7);
  const Kernels* kernels = args.level();
  const Conv g = conv_of(args);
  if (!args.good()) return nullptr;
  const bool transposed = args.integer(0, 1);
  const long channels = g.c / g.groups, filters = g.k / g.groups, lanes = kernels->lanes;
  const long outputs = transposed ? channels : filters, padded = whole(outputs, lanes);
  const long all = g.groups * whole(outputs, 2 * lanes) / (2 * lanes);
  const long begin = args.integer(0, all), end = args.integer(begin, all);
  const float* w = args.floats(args.product(g.k, g.r, g.s, channels));
  float* panels =
      args.floats(args.product(g.groups, g.r, g.s, transposed ? filters : channels, padded), true);
  return run(args, [&] { kernels->pack(g, begin, end, w, transposed, panels); });
}

PyObject* correlate(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 9);
  const Kernels* kernels = args.level();
  const Conv g = conv_of(args);
  const Part part = part_of(args, g.n, g.p);
  if (!args.good()) return nullptr;
  const long filters = whole(g.k / g.groups, kernels->lanes);
  const long outputs = args.product(g.n, g.p, g.q, g.k);
  const float* x = args.floats(args.product(g.n, g.h, g.w, g.c));
  const float* panels = args.floats(args.product(g.c, g.r, g.s, filters));
  const float* bias = args.floats(g.k, false, true);
  const bool relu = args.integer(0, 1);
  const float* mask = args.floats(outputs, false, true);
  float* y = args.floats(outputs, true);
  return run(args, [&] { kernels->correlate(g, part, x, panels, bias, relu, mask, y); });
}

PyObject* wgrad(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 7);
  const Kernels* kernels = args.level();
  const Conv g = conv_of(args);
  const long n0 = args.integer(0, g.n), n1 = args.integer(n0, g.n);
  if (!args.good()) return nullptr;
  const long filters = whole(g.k / g.groups, kernels->lanes);
  const float* dy = args.floats(args.product(g.n, g.p, g.q, g.k));
  const float* x = args.floats(args.product(g.n, g.h, g.w, g.c));
  float* sums = args.floats(args.product(g.c, g.r, g.s, filters), true);
  const Room room(args, wgrad_image(g) + args.product(g.p, g.q, filters));
  if (!room.at()) return nullptr;
  return run(args, [&] { kernels->wgrad(g, n0, n1, dy, x, room.at(), sums); });
}

PyObject* wgrad_sum(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 7);
  const Kernels* kernels = args.level();
  const Conv g = conv_of(args);
  const long parts = args.integer(1, 1 << 20), rows = args.product(g.c, g.r, g.s);
  if (!args.good()) return nullptr;
  const long begin = args.integer(0, rows), end = args.integer(begin, rows);
  const long filters = whole(g.k / g.groups, kernels->lanes);
  const float* sums = args.floats(args.product(parts, rows, filters));
  float* dw = args.floats(args.product(g.k, g.r, g.s, g.c / g.groups), true);
  return run(args, [&] { kernels->wgrad_sum(g, parts, begin, end, sums, dw); });
}

PyObject* max_pool(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 6);
  const Kernels* kernels = args.level();
  const Pool g = pool_of(args);
  const Part part = part_of(args, g.n, g.p);
  const float* x = args.floats(args.product(g.n, g.h, g.w, g.c));
  float* y = args.floats(args.product(g.n, g.p, g.q, g.c), true);
  unsigned char* argmax = args.array<unsigned char>("B", args.product(g.n, g.p, g.q, g.c), true);
  return run(args, [&] { kernels->max_pool(g, part, x, y, argmax); });
}

PyObject* max_pool_backward(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 7);
  const Kernels* kernels = args.level();
  const Pool g = pool_of(args);
  const Part part = part_of(args, g.n, g.h);
  const float* dy = args.floats(args.product(g.n, g.p, g.q, g.c));
  const unsigned char* argmax = args.array<unsigned char>("B", args.product(g.n, g.p, g.q, g.c), false);
  const float* mask = args.floats(args.product(g.n, g.h, g.w, g.c), false, true);
  float* dx = args.floats(args.product(g.n, g.h, g.w, g.c), true);
  return run(args, [&] { kernels->max_pool_backward(g, part, dy, argmax, mask, dx); });
}

// The padding that windows count, (top, bottom, left, right), for averages.
void counted_of(Arguments& args, long* counted) {
  args.tuple(counted, 4);
  args.require(counted[0] >= 0 && counted[1] >= 0 && counted[2] >= 0 && counted[3] >= 0,
               "counted must not be negative");
}

PyObject* avg_pool(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 6);
  const Kernels* kernels = args.level();
  const Pool g = pool_of(args);
  const Part part = part_of(args, g.n, g.p);
  long counted[4] = {};
  counted_of(args, counted);
  const float* x = args.floats(args.product(g.n, g.h, g.w, g.c));
  float* y = args.floats(args.product(g.n, g.p, g.q, g.c), true);
  const Room inverse(args, g.p * g.q);
  if (!inverse.at()) return nullptr;
  return run(args, [&] {
    kernels->inverse_counts(g, counted, inverse.at());
    kernels->avg_pool(g, part, inverse.at(), x, y);
  });
}

PyObject* avg_pool_backward(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 7);
  const Kernels* kernels = args.level();
  const Pool g = pool_of(args);
  const Part part = part_of(args, g.n, g.h);
  long counted[4] = {};
  counted_of(args, counted);
  const float* dy = args.floats(args.product(g.n, g.p, g.q, g.c));
  const float* mask = args.floats(args.product(g.n, g.h, g.w, g.c), false, true);
  float* dx = args.floats(args.product(g.n, g.h, g.w, g.c), true);
  const Room inverse(args, g.p * g.q);
  if (!inverse.at()) return nullptr;
  return run(args, [&] {
    kernels->inverse_counts(g, counted, inverse.at());
    kernels->avg_pool_backward(g, part, inverse.at(), dy, mask, dx);
  });
}

PyObject* lrn(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 11);
  const Kernels* kernels = args.level();
  const Norm g = norm_of(args);
  const long n0 = args.integer(0, g.n), n1 = args.integer(n0, g.n);
  const long elements = args.product(g.n, g.h, g.w, g.c);
  const float* x = args.floats(elements);
  float* y = args.floats(elements, true);
  float* scale = args.floats(elements, true);
  const Room room(args, (g.h + 2) * g.w * g.c);
  if (!room.at()) return nullptr;
  return run(args, [&] { kernels->lrn(g, n0, n1, x, room.at(), y, scale); });
}

PyObject* lrn_backward(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 14);
  const Kernels* kernels = args.level();
  const Norm g = norm_of(args);
  const long n0 = args.integer(0, g.n), n1 = args.integer(n0, g.n);
  const long elements = args.product(g.n, g.h, g.w, g.c);
  const float* dy = args.floats(elements);
  const float* x = args.floats(elements);
  const float* y = args.floats(elements);
  const float* scale = args.floats(elements);
  const bool relu = args.integer(0, 1);
  float* dx = args.floats(elements, true);
  const Room room(args, (g.h + 2) * g.w * g.c);
  if (!room.at()) return nullptr;
  return run(args, [&] { kernels->lrn_backward(g, n0, n1, dy, x, y, scale, relu, room.at(), dx); });
}

// The elements [start, stop) of arrays of so many.
PyObject* relu(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 6);
  const Kernels* kernels = args.level();
  const long elements = args.integer(1, 1l << 40), start = args.integer(0, elements),
             stop = args.integer(start, elements);
  const float* x = args.floats(elements);
  float* y = args.floats(elements, true);
  return run(args, [&] { kernels->relu(stop - start, x + start, y + start); });
}

PyObject* relu_backward(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 7);
  const Kernels* kernels = args.level();
  const long elements = args.integer(1, 1l << 40), start = args.integer(0, elements),
             stop = args.integer(start, elements);
  const float* dy = args.floats(elements);
  const float* y = args.floats(elements);
  float* dx = args.floats(elements, true);
  return run(args, [&] { kernels->relu_backward(stop - start, dy + start, y + start, dx + start); });
}

PyObject* column_sums(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 7);
  const Kernels* kernels = args.level();
  const long rows = args.integer(1, 1l << 40), columns = args.integer(1, 1l << 30);
  const long start = args.integer(0, rows), stop = args.integer(start, rows);
  const float* x = args.floats(args.product(rows, columns));
  float* sums = args.floats(columns, true);
  return run(args, [&] { kernels->column_sums(stop - start, columns, x + start * columns, sums); });
}

template <PyObject* (*F)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef method(const char* name, const char* text) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(F)), METH_FASTCALL, text};
}

PyMethodDef functions[] = {
    {"levels", levels, METH_NOARGS,
     "levels() -> {name: numbers in a vector} of this processor, the best first"},
    method<pack>("pack", "pack(level, conv, transposed, begin, end, w, panels)"),
    method<correlate>("correlate", "correlate(level, conv, part, x, panels, bias, relu, mask, y)"),
    method<wgrad>("wgrad", "wgrad(level, conv, n0, n1, dy, x, sums)"),
    method<wgrad_sum>("wgrad_sum", "wgrad_sum(level, conv, parts, begin, end, sums, dw)"),
    method<max_pool>("max_pool", "max_pool(level, pool, part, x, y, argmax)"),
    method<max_pool_backward>("max_pool_backward",
                              "max_pool_backward(level, pool, part, dy, argmax, mask, dx)"),
    method<avg_pool>("avg_pool", "avg_pool(level, pool, part, counted, x, y)"),
    method<avg_pool_backward>("avg_pool_backward",
                              "avg_pool_backward(level, pool, part, counted, dy, mask, dx)"),
    method<lrn>("lrn", "lrn(level, norm, alpha, beta, k, factor, n0, n1, x, y, scale)"),
    method<lrn_backward>(
        "lrn_backward",
        "lrn_backward(level, norm, alpha, beta, k, factor, n0, n1, dy, x, y, scale, relu, dx)"),
    method<relu>("relu", "relu(level, count, start, stop, x, y)"),
    method<relu_backward>("relu_backward", "relu_backward(level, count, start, stop, dy, y, dx)"),
    method<column_sums>("column_sums", "column_sums(level, rows, columns, start, stop, x, sums)"),
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_host",
                          "Kernels of the cpu device.",
                          0,
                          functions,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace
}  // namespace pcn_host

PyMODINIT_FUNC PyInit__host() { return PyModule_Create(&pcn_host::definition); }
