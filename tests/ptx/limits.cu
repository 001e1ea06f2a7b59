// limits.cu: launches, copies and kernels that a card refuses, on the stand-in runtime
//
// Prints one JSON object of the statuses that it got; test_runtime.py knows what they must be.
#include <cuda_runtime.h>

#include <cstdio>

namespace {

__global__ void plain_kernel(int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = 1; }
__global__ void __launch_bounds__(64) bounded_kernel(int* out) { out[threadIdx.x] = 1; }
__global__ void window_kernel(int* out) {
  extern __shared__ int window[];
  __shared__ int fixed[256];
  fixed[threadIdx.x] = window[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = fixed[threadIdx.x] + window[threadIdx.x];
}
__global__ void reads_kernel(const int* in, int* out, int at) { *out = in[at] > 0 ? 2 : 1; }
__global__ void vector_kernel(const float* in, float4* out, int at) {
  *out = *reinterpret_cast<const float4*>(in + at);
}
__global__ void trap_kernel() { __trap(); }

int first = 1;
void say(const char* name, cudaError_t status) {
  std::printf("%s\"%s\": \"%s\"", first ? "{" : ",\n", name, cudaGetErrorName(status));
  first = 0;
}

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream,
                   A... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = dynamic_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}
cudaError_t allow(int bytes) {
  return cudaFuncSetAttribute(window_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace

int main(int argc, char** argv) {
  int *out = nullptr, host[4] = {};
  cudaMalloc(&out, 4096 * sizeof(int));
  if (argc > 1) {  // a fault ends the context: one a process
    const char which = *argv[1];
    cudaError_t launched = cudaSuccess;
    int* in = nullptr;
    cudaMalloc(&in, 64);
    if (which != 'u') cudaMemset(in, 0, 64);
    if (which == 'o') launched = launch(reads_kernel, 1, 1, 0, nullptr, in, out, 16);   // one beyond the end
    if (which == 'h') launched = launch(reads_kernel, 1, 1, 0, nullptr, host, out, 0);  // the host's
    if (which == 'u') launched = launch(reads_kernel, 1, 1, 0, nullptr, in, out, 3);    // nobody wrote it
    if (which == 'm')
      launched = launch(vector_kernel, 1, 1, 0, nullptr, reinterpret_cast<float*>(in),
                        reinterpret_cast<float4*>(out), 1);
    if (which == 't') launched = launch(trap_kernel, 1, 1, 0, nullptr);
    if (which == 'c') {
      plain_kernel<<<2, 32>>>(out);  // by the runtime's other way
      launched = cudaGetLastError();
    }
    say("launched", launched);
    say("synchronised", cudaDeviceSynchronize());
    say("copied", cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost));
    say("launched again", launch(plain_kernel, 1, 1, 0, nullptr, out));
    say("last", cudaGetLastError());
    say("last again", cudaGetLastError());
    std::printf("}\n");
    return 0;
  }
  say("good", launch(plain_kernel, 2, 1024, 0, nullptr, out));
  say("1025 threads", launch(plain_kernel, 1, 1025, 0, nullptr, out));
  say("65 threads deep", launch(plain_kernel, 1, dim3(1, 1, 65), 0, nullptr, out));
  say("no threads", launch(plain_kernel, 1, 0, 0, nullptr, out));
  say("65536 blocks down", launch(plain_kernel, dim3(1, 65536), 1, 0, nullptr, out));
  say("as bounded", launch(bounded_kernel, 1, 64, 0, nullptr, out));
  say("beyond its bounds", launch(bounded_kernel, 1, 65, 0, nullptr, out));
  say("47 KiB and 1", launch(window_kernel, 1, 256, 47 * 1024, nullptr, out));
  say("48 KiB and 1", launch(window_kernel, 1, 256, 48 * 1024, nullptr, out));
  say("227 KiB and 1 allowed", allow(227 * 1024));
  say("226 KiB and 1 allowed", allow(226 * 1024));
  say("226 KiB and 1", launch(window_kernel, 1, 256, 226 * 1024, nullptr, out));
  say("no such stream", launch(plain_kernel, 1, 1, 0, reinterpret_cast<cudaStream_t>(host), out));
  say("last", cudaGetLastError());
  say("copy beyond", cudaMemcpy(out + 4095, host, 8, cudaMemcpyHostToDevice));
  say("copy the wrong way", cudaMemcpy(out, host, 8, cudaMemcpyDeviceToHost));
  say("copy", cudaMemcpy(host, out, 8, cudaMemcpyDefault));
  say("fill beyond", cudaMemset(out, 0, 4096 * sizeof(int) + 1));
  say("free what is not", cudaFree(out + 1));
  say("free", cudaFree(out));
  say("free again", cudaFree(out));
  cudaPointerAttributes a = {};
  say("freed", cudaPointerGetAttributes(&a, out));
  say("is device memory", a.type == cudaMemoryTypeUnregistered ? cudaSuccess : cudaErrorUnknown);
  std::printf("}\n");
  return 0;
}
