// launch.cpp: launch() and image.h as nvcc compiles them, on a runtime of two devices that keeps CUDA's rules
// on shared memory and images
//
// Prints one JSON object of lists; test_architectures.py knows what they must hold.
#include "common/device.h"

#include <cstdio>
#include <map>
#include <utility>

namespace {

struct Code {  // of a kernel on a device
  cudaError_t status = cudaSuccess;
  size_t static_bytes = 0;
  int version = 90;
};
constexpr size_t UNASKED = 49152, MOST = 232448;
int device = 0, questions = 0;
cudaError_t last = cudaSuccess, no_device = cudaSuccess;
std::map<std::pair<int, const void*>, Code> codes;
std::map<std::pair<int, const void*>, size_t> asked;

cudaError_t told(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

template <int N>
void kernel(int) {}
template <int N>
Code& code(int on = 0) {
  return codes[{on, reinterpret_cast<const void*>(kernel<N>)}];
}
template <int N>
int launched(size_t dynamic_bytes) {
  return pcn::launch("stem", kernel<N>, dim3(1), dim3(32), dynamic_bytes, nullptr, N);
}

}  // namespace

cudaError_t cudaGetLastError() { return std::exchange(last, cudaSuccess); }
cudaError_t cudaGetDevice(int* d) { return *d = device, told(no_device); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void* k) {
  ++questions;
  const Code& c = codes[{device, k}];
  *a = {c.static_bytes, c.version, 90};
  return told(c.status);
}
cudaError_t cudaFuncSetAttribute(const void* k, cudaFuncAttribute, int value) {
  if (codes[{device, k}].static_bytes + static_cast<size_t>(value) > MOST) return told(cudaErrorInvalidValue);
  asked[{device, k}] = static_cast<size_t>(value);
  return cudaSuccess;
}
cudaError_t launch_kernel(const void* k, size_t dynamic_bytes) {
  const Code& c = codes[{device, k}];
  if (c.status != cudaSuccess) return told(c.status);
  const bool plain = c.static_bytes + dynamic_bytes <= UNASKED;
  return plain || dynamic_bytes <= asked[{device, k}] ? cudaSuccess : told(cudaErrorInvalidValue);
}

int main() {
  // Shared memory: static and dynamic bytes -> status, and how much was asked for.
  code<0>().static_bytes = 12 << 10;
  code<2>().static_bytes = 1 << 10;
  code<3>().static_bytes = 2 << 10;
  code<6>().static_bytes = 12 << 10;
  printf("{\"shared\": [%d, ", launched<0>(40 << 10));
  printf("%d, %d, ", launched<1>(48 << 10), launched<4>((48 << 10) + 16));
  printf("%d, %d, ", launched<2>(226 << 10), launched<3>(226 << 10));
  printf("%d], \"asked\": [", launched<6>(36 << 10));
  const void* kernels[] = {reinterpret_cast<void*>(kernel<0>), reinterpret_cast<void*>(kernel<1>),
                           reinterpret_cast<void*>(kernel<4>), reinterpret_cast<void*>(kernel<2>),
                           reinterpret_cast<void*>(kernel<3>), reinterpret_cast<void*>(kernel<6>)};
  for (const void* k : kernels) printf("%s%zu", k == kernels[0] ? "" : ", ", asked[{0, k}]);
  printf("], \"last\": [%d], ", last);

  // One question a kernel and device, none where nothing dynamic is wanted.
  questions = 0;
  launched<5>(0), printf("\"questions\": [%d, ", questions);
  launched<5>(64), launched<5>(64), printf("%d, ", questions);
  device = 1;
  code<5>(1).static_bytes = 20 << 10;
  const int other = launched<5>(30 << 10);
  printf("%d], \"other\": [%d], ", questions, other);
  device = 0;

  // Images: compiled for 75, 80 and 90; none; no device, which is not remembered.
  code<10>().version = 75, code<11>().version = 80, code<12>().status = cudaErrorNoKernelImageForDevice;
  const auto at_least = [](int version) {
    printf("[%d, %d, %d, %d]", pcn::image_at_least(kernel<10>, version),
           pcn::image_at_least(kernel<11>, version), pcn::image_at_least(kernel<5>, version),
           pcn::image_at_least(kernel<12>, version));
  };
  printf("\"image\": ["), at_least(75), printf(", "), at_least(80), printf(", "), at_least(90);
  code<13>().version = 75;
  no_device = cudaErrorNoDevice;
  const bool unknown = pcn::image_at_least(kernel<13>, 80);
  no_device = cudaSuccess;
  printf("], \"unknown\": [%d, %d], ", unknown, pcn::image_at_least(kernel<13>, 80));
  printf("\"no_code\": [%d, %d, %d]}\n", launched<12>(0), launched<12>(64), last);
}
