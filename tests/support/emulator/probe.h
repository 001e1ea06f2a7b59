// probe.h: the little that the probe programs share. They build with g++ (emulator) and with nvcc (device)
// alike.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/device.h"
#include "common/philox.h"
#include "common/primitives.h"
#include "common/tensor_map.h"
#ifndef __CUDACC__
#include "emulation/control.h"
#endif

namespace probe {

// Device memory with a host copy: read() after a launch, write() before. Starts as 0xFF bytes (NaN, -1).
template <class T>
struct Array {
  std::vector<T> host;
  T* device = nullptr;

  explicit Array(size_t n) : host(n) {
    if (n) memset(static_cast<void*>(host.data()), 0xFF, n * sizeof(T));
    cudaMalloc(&device, n * sizeof(T));
    write();
  }
  template <class F>
  Array(size_t n, F&& value) : Array(n) {
    for (size_t i = 0; i < n; ++i) host[i] = value(static_cast<int>(i));
    write();
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { cudaFree(device); }
  void write() { cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice); }
  const std::vector<T>& read() {
    cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost);
    return host;
  }
  operator T*() const { return device; }
  T* data() const { return device; }
  T& operator[](size_t i) { return host[i]; }
};

// What the last failed launch said; empty where there is nothing to say.
inline std::string error_text(cudaError_t error) {
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error == cudaSuccess) return "";
#ifndef __CUDACC__
  const std::string text = pcn::emulation::take_error();
  if (!text.empty()) return text;
#endif
  return cudaGetErrorString(error);
}

inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}

// Small integers that differ from place to place: exact in every format and every order of summation.
inline float small(int i) { return static_cast<float>((i * 7 + i / 5 + i / 33) % 9 - 4); }

}  // namespace probe
