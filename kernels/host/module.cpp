// pyconvnet._host: the kernels of the `cpu` device for Python. Plain C API: pybind11 would take longer to compile than all
// kernels together. Each function checks what it is given, arrays and extents, and lets go of the interpreter meanwhile;
// memory is what the arrays are, so nothing that Python passes reads or writes outside of it.
#include "host/arguments.h"
#include "host/read.h"

namespace pcn_host {
namespace {

// Runs a kernel without the interpreter's lock, if the arguments were right.
template <typename F>
PyObject* run(Arguments& args, F kernel) {
  if (!args.good()) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  kernel();
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

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
  Arguments args(values, count, 8);
  const Kernels* kernels = args.level();
  const Conv g = conv_of(args);
  const long n0 = args.integer(0, g.n), n1 = args.integer(n0, g.n);
  if (!args.good()) return nullptr;
  const long filters = whole(g.k / g.groups, kernels->lanes);
  const float* dy = args.floats(args.product(g.n, g.p, g.q, g.k));
  const float* x = args.floats(args.product(g.n, g.h, g.w, g.c));
  float* sums = args.floats(args.product(g.c, g.r, g.s, filters), true);
  float* bias = args.floats(g.k, true, true);
  const Room room(args, wgrad_image(g) + args.product(g.p, g.q, filters));
  if (!room.at()) return nullptr;
  return run(args, [&] { kernels->wgrad(g, n0, n1, dy, x, room.at(), sums, bias); });
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

PyObject* sgd(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 10);
  const Kernels* kernels = args.level();
  const long elements = args.integer(1, 1l << 40), start = args.integer(0, elements),
             stop = args.integer(start, elements);
  const float momentum = args.number(), decay = args.number(), rate = args.number();
  const float* g = args.floats(elements);
  float* w = args.floats(elements, true);
  float* v = args.floats(elements, true);
  return run(args,
             [&] { kernels->sgd(stop - start, momentum, decay, rate, g + start, w + start, v + start); });
}

PyObject* augment(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 13);
  const Kernels* kernels = args.level();
  const Crops g = crops_of(args);
  const long n0 = args.integer(0, g.n), n1 = args.integer(n0, g.n);
  const bool bytes = args.integer(0, 1);
  if (!args.good()) return nullptr;
  const long elements = args.product(g.images, g.h, g.w, g.c);
  const unsigned char* pixels = bytes ? args.array<unsigned char>("B", elements, false) : nullptr;
  const float* floats = bytes ? nullptr : args.floats(elements);
  const int* indices = args.array<int>("i", g.n, false, true);
  args.require(indices || g.images == g.n, "without indices as many images as crops");
  const int* crop = args.array<int>("i", args.product(g.n, 2), false, true);
  const unsigned char* mirror = args.array<unsigned char>("B", g.n, false, true);
  const float* colour = args.floats(args.product(g.n, g.c), false, true);
  const float* mean = g.mean_pixels ? args.floats(args.product(g.mean_pixels, g.c)) : nullptr;
  if (!g.mean_pixels) args.none();
  const float scale = args.number();
  float* y = args.floats(args.product(g.n, g.crop_h, g.crop_w, g.c), true);
  const Room room(args, args.product(3, g.crop_w, g.c));
  if (!room.at()) return nullptr;
  return run(args, [&] {
    kernels->augment(g, n0, n1, pixels, floats, indices, crop, mirror, colour, mean, scale, room.at(), y);
  });
}

PyObject* resize(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 8);
  const Kernels* kernels = args.level();
  const Resize g = resize_of(args);
  if (!args.good()) return nullptr;
  const unsigned char* x = args.array<unsigned char>("B", args.product(g.h, g.w, g.c), false);
  const int* spans_h = spans_of(args, g.to_h, g.h, g.taps_h);
  const int* weights_h = args.array<int>("i", args.product(g.to_h, g.taps_h), false);
  const int* spans_w = spans_of(args, g.to_w, g.w, g.taps_w);
  const int* weights_w = args.array<int>("i", args.product(g.to_w, g.taps_w), false);
  unsigned char* y = args.array<unsigned char>("B", args.product(g.to_h, g.to_w, g.c), true);
  args.product(4, g.h, g.to_w, g.c);
  args.product(4, 16, g.w + g.to_w, g.c);
  const Room room(args, args.good() ? resize_room(g) / long(sizeof(float)) + 1 : 0);
  if (!room.at()) return nullptr;
  auto* bytes = reinterpret_cast<unsigned char*>(room.at());
  return run(args, [&] { kernels->resize(g, x, spans_h, weights_h, spans_w, weights_w, bytes, y); });
}

PyObject* read(PyObject*, PyObject* const* values, Py_ssize_t count) {
  Arguments args(values, count, 5);
  const long rows = args.integer(0, 1l << 30), bytes = args.integer(1, 1l << 40);
  const int* files = args.array<int>("i", rows, false);
  const long* offsets = args.array<long>("l", rows, false);
  unsigned char* out = args.array<unsigned char>("B", args.product(rows, bytes), true);
  if (!args.good()) return nullptr;
  ReadEnd found;
  Py_BEGIN_ALLOW_THREADS;
  found = read_rows(rows, bytes, files, offsets, out);
  Py_END_ALLOW_THREADS;
  if (found.row < 0) Py_RETURN_NONE;
  return Py_BuildValue("(li)", found.row, found.error);
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
    method<wgrad>("wgrad", "wgrad(level, conv, n0, n1, dy, x, sums, bias)"),
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
    method<sgd>("sgd", "sgd(level, count, start, stop, momentum, decay, rate, g, w, v)"),
    method<augment>(
        "augment",
        "augment(level, crops, n0, n1, bytes, images, indices, crop, mirror, colour, mean, scale, y)"),
    method<resize>("resize", "resize(level, extents, x, spans_h, weights_h, spans_w, weights_w, y)"),
    method<read>("read", "read(rows, bytes, files, offsets, out) -> None or (row, errno) where it ended"),
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
