// What the module checks of a call's arguments, and makes of them. Not for the kernels: it includes what they must not.
#pragma once

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

  void none() {
    if (good_ && args_[next_++] != Py_None) {
      PyErr_SetString(PyExc_TypeError, "_host: None wanted");
      good_ = false;
    }
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

Crops crops_of(Arguments& args) {
  long e[8] = {};
  args.tuple(e, 8);
  for (int i = 0; i < 8; ++i) args.require(e[i] >= (i < 7), "extents must be positive");
  const Crops g = {e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7]};
  args.require(g.crop_h <= g.h && g.crop_w <= g.w, "crops larger than the images");
  args.require(g.mean_pixels <= 1 || g.mean_pixels == args.product(g.h, g.w), "a mean of other pixels");
  return g;
}

Resize resize_of(Arguments& args) {
  long e[7] = {};
  args.tuple(e, 7);
  for (int i = 0; i < 7; ++i) args.require(e[i] >= 1, "extents must be positive");
  args.require(e[2] == 1 || e[2] == 3, "an image of 1 or 3 channels wanted");
  return {e[0], e[1], e[2], e[3], e[4], e[5], e[6]};
}

// The (first, count) of what each output reads of an extent, at most `taps` of it.
const int* spans_of(Arguments& args, long outputs, long extent, long taps) {
  const int* spans = args.array<int>("i", args.product(outputs, 2), false);
  for (long o = 0; args.good() && o < outputs; ++o) {
    const long first = spans[2 * o], count = spans[2 * o + 1];
    args.require(first >= 0 && count >= 1 && count <= taps && first + count <= extent,
                 "a span outside the image");
  }
  return spans;
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

}  // namespace
}  // namespace pcn_host
