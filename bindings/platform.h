// What differs between the two modules, below Python: pyconvnet._cuda links platform_cuda.cpp,
// pyconvnet._emulator platform_emulator.cpp. All else in bindings/ and every FAMILY_dispatch.cpp is compiled
// once for both, with the stand-in for the toolkit's header (kernels/emulation/toolkit), whose types have
// CUDA's names; so nothing there may call the runtime itself.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulation/control.h"

namespace pcn::bind::platform {

// The attribute by which an array says where it lies, and what such an array is called.
extern const char* const kInterface;
extern const char* const kWanted;

// Whether kernels may reach the `bytes` > 0 of an argument: empty, or why not, to be read after the
// argument's name. What was admitted is to be released after the launch.
std::string admit(void* pointer, std::size_t bytes, bool writable);
void release(void* pointer);

// What the runtime says of a launch that failed; clears it, that it be not blamed on the next one.
std::string error_text(cudaError_t status);

// Compute capability of the current device, 10 * major + minor; 0 where it is not known or does not matter.
int capability();

// What the emulator's module has beside the kernels, and the CUDA module: nullptr in the other one.
struct EmulatorControls {
  const char* march;
  void (*configure)(const std::string& order, std::uint64_t seed, const std::string& async, int workers,
                    int image);
  const char* (*flavour)();
  void (*count_accesses)(bool on, std::uint64_t blocks);
  std::vector<emulation::LaunchCounts> (*take_access_counts)();
};
const EmulatorControls* emulator_controls();

struct CudaControls {
  const char* architectures;
  int (*device_count)(std::string& reason);  // never throws; the reason where it is 0
  int (*runtime_version)();
};
const CudaControls* cuda_controls();

}  // namespace pcn::bind::platform
