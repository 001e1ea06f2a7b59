// run.cpp: modules, and grids over the cores
#include <algorithm>
#include <cstdlib>
#include <thread>

#include "decode.h"

namespace ptx {

struct Module::Impl {
  std::unique_ptr<Text> text;
  std::map<std::string, Global> globals;
  std::map<std::string, KernelInfo> kernels;
  mutable std::mutex mutex;
  mutable std::map<std::string, std::unique_ptr<Code>> codes;

  ~Impl() {
    for (auto& [name, global] : globals) std::free(global.pointer);
  }
  const Code& code(const std::string& kernel) const {
    const std::lock_guard<std::mutex> lock(mutex);
    auto& slot = codes[kernel];
    if (!slot) slot = decode(*text, *text->functions.at(kernel), globals);
    return *slot;
  }
};

Module::Module(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Module::~Module() = default;

std::shared_ptr<Module> Module::parse(const std::string& text, const std::string& name) {
  auto impl = std::make_unique<Impl>();
  impl->text = parse_text(text, name);
  for (const Variable& v : impl->text->variables) {
    if (v.space != Space::kGlobal && v.space != Space::kConst) continue;
    const size_t align = std::max<size_t>(v.align, 256), bytes = std::max<size_t>(v.bytes, 1);
    Global g;
    g.pointer = std::aligned_alloc(align, (bytes + align - 1) / align * align);
    if (!g.pointer) throw std::bad_alloc();
    g.bytes = bytes;
    g.constant = v.space == Space::kConst;
    std::memset(g.pointer, 0, bytes);
    if (!v.init.empty()) std::memcpy(g.pointer, v.init.data(), v.init.size());
    impl->globals[v.name] = g;
  }
  for (const auto& [key, function] : impl->text->functions) {
    if (!function->entry) continue;
    KernelInfo info = function->info;
    Code code;
    lay_out(*impl->text, *function, code);
    info.static_shared_bytes = code.static_end - SHARED_BASE;
    info.dynamic_shared =
        std::any_of(code.shared.begin(), code.shared.end(), [](const auto& s) { return s.dynamic; });
    info.local_bytes = code.local_bytes;
    impl->kernels[key] = info;
  }
  return std::shared_ptr<Module>(new Module(std::move(impl)));
}

const KernelInfo* Module::kernel(const std::string& mangled) const {
  const auto found = impl_->kernels.find(mangled);
  return found == impl_->kernels.end() ? nullptr : &found->second;
}
std::vector<std::string> Module::kernels() const {
  std::vector<std::string> names;
  for (const auto& [name, info] : impl_->kernels) names.push_back(name);
  return names;
}
const Global* Module::global(const std::string& name) const {
  const auto found = impl_->globals.find(name);
  return found == impl_->globals.end() ? nullptr : &found->second;
}
const std::map<std::string, Global>& Module::globals() const { return impl_->globals; }
const std::string& Module::name() const { return impl_->text->name; }
int Module::target() const { return impl_->text->target; }
void Module::check() const {
  for (const auto& [name, info] : impl_->kernels) impl_->code(name);
}

void Stats::add(const Stats& other) {
  launches += other.launches;
  blocks += other.blocks;
  warp_instructions += other.warp_instructions;
  lane_instructions += other.lane_instructions;
  for (const auto& [name, count] : other.kernels) kernels[name] += count;
}

namespace {

void check_launch(const KernelInfo& info, const Launch& launch, const Options& options) {
  const auto refuse = [&](const std::string& what) { throw Fault("launch of " + info.name + ": " + what); };
  const Dim3 &g = launch.grid, &b = launch.block;
  if (!g.count() || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535)
    refuse("a grid beyond the limits, or empty");
  if (!b.count() || b.x > 1024 || b.y > 1024 || b.z > 64 || b.count() > 1024)
    refuse("a block beyond the limits, or empty");
  if (b.count() > info.max_threads) {
    refuse(std::to_string(b.count()) + " threads, the kernel is compiled for " +
           std::to_string(info.max_threads));
  }
  if (launch.param_bytes != info.param_bytes) {
    refuse(std::to_string(launch.param_bytes) + " bytes of parameters, not " +
           std::to_string(info.param_bytes));
  }
  if (info.static_shared_bytes + launch.dynamic_shared > options.max_shared) {
    refuse(std::to_string(info.static_shared_bytes + launch.dynamic_shared) +
           " bytes of shared memory, there are " + std::to_string(options.max_shared));
  }
}

// Global memory as this launch sees it, in ascending order.
std::vector<Extent> extents(const std::vector<Region>& regions,
                            const std::map<std::string, Global>& globals) {
  std::vector<Extent> all;
  for (const Region& r : regions) {
    const auto shadow = static_cast<intptr_t>(reinterpret_cast<uintptr_t>(r.shadow) - r.begin);
    all.push_back(
        {r.begin, r.begin + r.bytes, 0, shadow, 0, r.shadow != nullptr, r.writable, r.name.c_str()});
  }
  for (const auto& [name, g] : globals) {
    const auto begin = reinterpret_cast<uintptr_t>(g.pointer);
    all.push_back({begin, begin + g.bytes, 0, 0, 0, false, !g.constant, name.c_str()});
  }
  std::sort(all.begin(), all.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  return all;
}

}  // namespace

void run(const Module& module, const std::string& kernel, const Launch& launch, Memory& memory,
         const Options& options, Stats* stats) {
  const KernelInfo* info = module.kernel(kernel);
  if (!info) throw Fault("no kernel " + kernel + " in " + module.name());
  check_launch(*info, launch, options);
  const Code& code = module.impl().code(kernel);
  const std::vector<Region> regions = memory.regions();
  const std::vector<Extent> global = extents(regions, module.globals());
  const uint64_t blocks = launch.grid.count();
  uint64_t threads = options.threads > 0 ? static_cast<uint64_t>(options.threads)
                                         : std::max(1u, std::thread::hardware_concurrency());
  threads = std::min(threads, blocks);

  std::atomic<uint64_t> next{0};
  std::atomic<bool> cancelled{false};
  std::mutex mutex;
  uint64_t fault_block = blocks;
  std::string fault;
  Stats total;
  const auto work = [&] {
    Block block(code, launch, options, global);
    block.cancelled = &cancelled;
    while (!cancelled.load(std::memory_order_relaxed)) {
      const uint64_t n = next.fetch_add(1);
      if (n >= blocks) break;
      try {
        block.run(options.order == Order::kReverse ? blocks - 1 - n : n);
      } catch (const Fault& f) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (*f.what() && n < fault_block) fault_block = n, fault = f.what();
        cancelled = true;
      }
    }
    const std::lock_guard<std::mutex> lock(mutex);
    total.add(block.stats);
  };
  std::vector<std::thread> pool;
  for (uint64_t i = 1; i < threads; ++i) pool.emplace_back(work);
  work();
  for (std::thread& t : pool) t.join();
  if (fault_block < blocks) throw Fault(fault);
  total.launches = 1;
  total.kernels[kernel] = 1;
  if (stats) stats->add(total);
}

}  // namespace ptx
