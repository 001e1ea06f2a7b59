// The compiled modules: pyconvnet._cuda and pyconvnet._emulator, from one compilation. Each links the kernels
// and the platform that belong to it; the other's entry is in it, too, and never called.
// CMake writes families.inc, one PCN_FAMILY(name) a line, from the folders of kernels/ that were built.
#include <pybind11/stl.h>

#include "array.h"
#include "platform.h"

#define PCN_FAMILY(name) void register_##name(py::module_& m);
namespace pcn::bind {
#include "families.inc"
}
#undef PCN_FAMILY

namespace {

using pcn::bind::platform::CudaControls;
using pcn::bind::platform::EmulatorControls;

void register_counts(py::module_& m, const EmulatorControls& controls) {
  m.def("count_accesses", controls.count_accesses, py::arg("on"), py::arg("blocks") = 0,
        "Starts (afresh) or stops counting memory accesses; only in the flavour `count`. With `blocks`, "
        "launches "
        "run only so many of their blocks, spread over the grid, and compute incomplete results.");
  m.def(
      "access_counts",
      [take = controls.take_access_counts] {
        py::list launches;
        for (const auto& l : take()) {
          py::list sites;
          for (const auto& s : l.sites) {
            sites.append(py::dict(py::arg("frames") = py::tuple(py::cast(s.frames)),
                                  py::arg("shared") = s.shared, py::arg("kind") = s.kind,
                                  py::arg("bytes") = s.bytes, py::arg("requests") = s.requests,
                                  py::arg("lanes") = s.lanes, py::arg("cost") = s.cost,
                                  py::arg("ideal") = s.ideal, py::arg("lines") = s.lines,
                                  py::arg("ideal_lines") = s.ideal_lines, py::arg("worst") = s.worst));
          }
          launches.append(py::dict(py::arg("stem") = l.stem, py::arg("kernel") = l.kernel,
                                   py::arg("grid") = py::make_tuple(l.grid[0], l.grid[1], l.grid[2]),
                                   py::arg("block") = py::make_tuple(l.block[0], l.block[1], l.block[2]),
                                   py::arg("dynamic_bytes") = l.dynamic_bytes,
                                   py::arg("static_bytes") = l.static_bytes, py::arg("sites") = sites));
        }
        return launches;
      },
      "The launches since count_accesses(True) and their accesses by place in the program; see "
      "emulation/control.h for the fields. Clears them.");
}

void register_emulator(py::module_& m, const EmulatorControls& controls) {
  m.attr("march") = controls.march;
  m.def(
      "configure", controls.configure, py::arg("order") = "fwd", py::arg("seed") = 1,
      py::arg("async_") = "late", py::arg("workers") = 0, py::arg("image") = 90,
      "Sets the schedule of the following launches: the order in which threads run (fwd, rev, dfs, rand, "
      "mix), its seed, when asynchronous copies land (late, eager, rand), and the number of blocks in flight "
      "(0: one per core); and the compute capability that the kernels' code is said to be compiled for (0: "
      "no "
      "code).");
  m.def("flavour", controls.flavour, "plain, asan, race or count");
  register_counts(m, controls);
}

void register_cuda(py::module_& m, const CudaControls& controls) {
  m.def(
      "device_count",
      [count = controls.device_count] {
        std::string reason;
        const int found = count(reason);
        return py::make_tuple(found, reason);
      },
      "Number of CUDA devices, and why it is 0 where it is. Never raises.");
  m.def("runtime_version", controls.runtime_version);
  m.attr("architectures") = controls.architectures;
}

void register_all(py::module_& m) {
  const EmulatorControls* emulator = pcn::bind::platform::emulator_controls();
  m.attr("emulated") = emulator != nullptr;
  if (emulator != nullptr) register_emulator(m, *emulator);
  if (const CudaControls* cuda = pcn::bind::platform::cuda_controls()) register_cuda(m, *cuda);
  m.def("misaligned", &pcn::bind::misaligned,
        "Bit i is set where the i-th array does not start at a multiple of 16 bytes.");
  py::list families;
#define PCN_FAMILY(name)         \
  pcn::bind::register_##name(m); \
  families.append(#name);
#include "families.inc"
#undef PCN_FAMILY
  m.attr("families") = families;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) { register_all(m); }
PYBIND11_MODULE(_emulator, m) { register_all(m); }
