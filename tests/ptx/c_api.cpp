// c_api.cpp: the executor for ctypes; every function that can fail returns a text, null where all is well
#include <cstring>

#include "executor.h"

namespace {

struct Machine {
  std::shared_ptr<ptx::Module> module;
  ptx::Memory memory;
  ptx::Options options;
  ptx::Stats stats;
};
thread_local std::string text;

template <class F>
const char* guarded(F f) {
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

}  // namespace

extern "C" {

Machine* ptx_new() { return new Machine; }
void ptx_delete(Machine* m) { delete m; }
const char* ptx_load(Machine* m, const char* source, const char* name) {
  return guarded([&] { m->module = ptx::Module::parse(source, name); });
}
const char* ptx_check(Machine* m) {
  return guarded([&] { m->module->check(); });
}
// The kernels' names, a line each.
const char* ptx_kernels(Machine* m) {
  text.clear();
  for (const std::string& name : m->module->kernels()) text += name + "\n";
  return text.c_str();
}
// param_bytes, static_shared_bytes, dynamic_shared, local_bytes, max_threads, min_blocks, target; 0: no such
// kernel.
int ptx_info(Machine* m, const char* kernel, uint64_t* out) {
  const ptx::KernelInfo* k = m->module->kernel(kernel);
  if (!k) return 0;
  const uint64_t values[] = {
      k->param_bytes, k->static_shared_bytes,          k->dynamic_shared, k->local_bytes, k->max_threads,
      k->min_blocks,  static_cast<uint64_t>(k->target)};
  std::memcpy(out, values, sizeof values);
  return 1;
}
void* ptx_global(Machine* m, const char* name, uint64_t* bytes) {
  const ptx::Global* g = m->module->global(name);
  if (!g) return nullptr;
  *bytes = g->bytes;
  return g->pointer;
}
const char* ptx_add(Machine* m, const void* p, uint64_t bytes, int initialised, int writable) {
  return guarded([&] { m->memory.add(p, bytes, initialised, writable); });
}
int ptx_remove(Machine* m, const void* p) { return m->memory.remove(p); }
int ptx_initialised(Machine* m, const void* p, uint64_t bytes) { return m->memory.initialised(p, bytes); }
void ptx_options(Machine* m, int async, int order, uint64_t seed, int threads, uint64_t max_instructions) {
  m->options.async = static_cast<ptx::Async>(async);
  m->options.order = static_cast<ptx::Order>(order);
  m->options.seed = seed;
  m->options.threads = threads;
  m->options.max_instructions = max_instructions;
}
const char* ptx_run(Machine* m, const char* kernel, const uint32_t* grid, const uint32_t* block,
                    uint64_t dynamic, const void* params, uint64_t param_bytes) {
  return guarded([&] {
    ptx::Launch l;
    l.grid = {grid[0], grid[1], grid[2]};
    l.block = {block[0], block[1], block[2]};
    l.dynamic_shared = dynamic;
    l.params = params;
    l.param_bytes = param_bytes;
    ptx::run(*m->module, kernel, l, m->memory, m->options, &m->stats);
  });
}
// launches, blocks, warp instructions, lane instructions
void ptx_stats(Machine* m, uint64_t* out) {
  out[0] = m->stats.launches, out[1] = m->stats.blocks;
  out[2] = m->stats.warp_instructions, out[3] = m->stats.lane_instructions;
}

}  // extern "C"
