// The platform of pyconvnet._emulator: NumPy arrays, and the executor in kernels/emulation.
#include "platform.h"

namespace pcn::bind::platform {

const char* const kInterface = "__array_interface__";
const char* const kWanted = "a NumPy array";

std::string admit(void* pointer, std::size_t bytes, bool writable) {
  emulation::register_global(pointer, bytes, writable);
  return {};
}
void release(void* pointer) { emulation::unregister_global(pointer); }

std::string error_text(cudaError_t status) {
  const std::string detail = emulation::take_error();
  if (!detail.empty()) return detail;
  return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
}

int capability() { return 0; }

const EmulatorControls* emulator_controls() {
  static constexpr EmulatorControls controls{PCN_EMULATOR_MARCH, emulation::configure, emulation::flavour,
                                             emulation::count_accesses, emulation::take_access_counts};
  return &controls;
}
const CudaControls* cuda_controls() { return nullptr; }

}  // namespace pcn::bind::platform
