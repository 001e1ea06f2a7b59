// wgmma.cpp: asynchronous warpgroup products
//
// Each warp computes its own 16 of the 64 rows. In the late mode a product is made when its group is waited
// for, and until then the accumulators are parked and the registers hold poison, so that reading them early,
// or refilling an operand's stage early, shows as a wrong result.
#include "emulation/executor.h"

#include <cstring>
#include <iterator>

namespace pcn {
namespace emulation {
namespace {

float* accumulators(const WgmmaOp& op, int lane) {
  float* d;
  memcpy(&d, &op.args[static_cast<size_t>(lane) * (op.args.size() / 32)], sizeof d);
  return d;
}

void park(const Warp& warp, WgmmaOp& op) {
  for (const WgmmaOp& earlier : warp.wgmma) {
    if (accumulators(earlier, 0) == accumulators(op, 0)) return;  // chained: parked by the first of the chain
  }
  const size_t n = static_cast<size_t>(op.registers);
  op.parked.resize(32 * n);
  for (int lane = 0; lane < 32; ++lane) {
    float* d = accumulators(op, lane);
    memcpy(&op.parked[static_cast<size_t>(lane) * n], d, n * sizeof(float));
    memset(d, 0xFF, n * sizeof(float));
  }
}

void execute(Warp& warp, int upto_group) {
  size_t i = 0;
  for (; i < warp.wgmma.size() && warp.wgmma[i].group < upto_group; ++i) {
    WgmmaOp& op = warp.wgmma[i];
    void* args[32];
    for (int lane = 0; lane < 32; ++lane)
      args[lane] = &op.args[static_cast<size_t>(lane) * (op.args.size() / 32)];
    if (!op.parked.empty()) {
      const size_t n = static_cast<size_t>(op.registers);
      for (int lane = 0; lane < 32; ++lane) {
        memcpy(accumulators(op, lane), &op.parked[static_cast<size_t>(lane) * n], n * sizeof(float));
      }
    }
    op.function(args);
  }
  // Accumulators on which later, still pending products chain are parked again.
  std::vector<WgmmaOp> rest(std::make_move_iterator(warp.wgmma.begin() + static_cast<ptrdiff_t>(i)),
                            std::make_move_iterator(warp.wgmma.end()));
  warp.wgmma.clear();
  for (WgmmaOp& op : rest) {
    if (op.parked.empty()) park(warp, op);
    warp.wgmma.push_back(std::move(op));
  }
}

Warp& own_warp() { return worker->warps[context->warp]; }

struct Issue {
  void* arg;
  size_t bytes;
  int registers;
  WgmmaFunction function;
};

}  // namespace

void wgmma_issue(void* arg, size_t bytes, int registers, WgmmaFunction function, const char* name) {
  Issue issue{arg, bytes, registers, function};
  warp_collective(
      0xffffffffu, &issue,
      [](void* const* args, unsigned mask) {
        if (mask != 0xffffffffu) fail("wgmma by an incomplete warp");
        Warp& warp = own_warp();
        if (warp.needs_wgmma_fence) fail("wgmma without a wgmma.fence before it");
        const auto* first = static_cast<const Issue*>(args[0]);
        WgmmaOp op;
        op.function = first->function;
        op.registers = first->registers;
        op.group = warp.wgmma_group;
        op.args.resize(32 * first->bytes);
        for (size_t lane = 0; lane < 32; ++lane) {
          memcpy(&op.args[lane * first->bytes], static_cast<const Issue*>(args[lane])->arg, first->bytes);
        }
        const bool eager = worker->grid->config.async == Async::eager;
        if (!eager) park(warp, op);
        warp.wgmma.push_back(std::move(op));
        if (eager) execute(warp, warp.wgmma_group + 1);
      },
      reinterpret_cast<const void*>(function), name);
}

void wgmma_fence() {
  static const char operation = 0;
  warp_collective(
      0xffffffffu, nullptr, [](void* const*, unsigned) { own_warp().needs_wgmma_fence = false; }, &operation,
      "wgmma.fence");
}

void wgmma_commit() {
  static const char operation = 0;
  warp_collective(
      0xffffffffu, nullptr, [](void* const*, unsigned) { ++own_warp().wgmma_group; }, &operation,
      "wgmma.commit_group");
}

void wgmma_wait(int newest) {
  static const char operation = 0;
  warp_collective(
      0xffffffffu, &newest,
      [](void* const* args, [[maybe_unused]] unsigned mask) {
        Warp& warp = own_warp();
        const int n = *static_cast<const int*>(args[0]);
        execute(warp, warp.wgmma_group - n);
        PCN_RACE(
            warp_sync(context->warp, mask));  // each lane knows the reads that one of them has made for all
        if (n == 0) warp.needs_wgmma_fence = true;
      },
      &operation, "wgmma.wait_group");
}

}  // namespace emulation
}  // namespace pcn
