// tma.cpp: bulk tensor copies (tiled and im2col loads, tiled stores)
//
// Loads land only when nothing else can run (late), at once (eager) or at any scheduling point (rand); stores
// read shared memory when they are waited for (late, rand) or at once (eager).
#include "emulation/executor.h"

#include <cstring>

namespace pcn {
namespace emulation {

void mbarrier_complete_bytes(uint64_t* barrier, int bytes);  // async.cpp

namespace {

constexpr uint32_t CHUNK = 16;  // the swizzle permutes 16-byte chunks

uint32_t box_bytes(const TensorMap& m) {
  uint32_t n = m.element_bytes;
  for (int r = 0; r < (m.im2col ? 2 : m.rank); ++r) n *= m.box[r];
  return n;
}

int swizzle_mode(const TensorMap& m) { return m.swizzle == 0 ? 0 : 4 - m.swizzle; }

const TensorMap& checked_map(const TensorMap* map, const void* shared, int rank, bool im2col) {
  const TensorMap& m = *map;
  if (m.magic != TensorMap::MAGIC) fail("not a tensor map");
  if (m.rank != rank) fail("a tensor map of rank %d used as one of rank %d", m.rank, rank);
  if ((m.im2col != 0) != im2col) fail("a tensor map of the other mode (tiled, im2col)");
  if (m.box[0] * m.element_bytes % CHUNK) fail("TMA: inner box of %d bytes", m.box[0] * m.element_bytes);
  const uint32_t address = shared_address(shared);
  const uint32_t align = m.swizzle == 3 ? 1024 : m.swizzle == 2 ? 512 : m.swizzle == 1 ? 256 : 128;
  if (address % align) fail("TMA: shared address %u must be aligned to %u bytes", address, align);
  shared_pointer(address, box_bytes(m));
  return m;
}

void copy_tile(const TensorMap& m, char* shared, const int* coordinate, bool load) {
  const uint32_t base = shared_address(shared), bytes = box_bytes(m), row = m.box[0] * m.element_bytes;
  const int mode = swizzle_mode(m);
  uint32_t index[5] = {0, 0, 0, 0, 0};
  for (uint32_t offset = 0; offset < bytes; offset += row) {
    bool inside = true;
    int64_t position = 0;
    for (int r = 1; r < m.rank; ++r) {
      const int64_t x = coordinate[r] + static_cast<int64_t>(index[r]) * m.element_stride[r];
      if (x < 0 || x >= static_cast<int64_t>(m.dim[r])) inside = false;
      position += x * static_cast<int64_t>(m.stride[r]);
    }
    for (uint32_t chunk = 0; chunk < row; chunk += CHUNK) {
      char* s = worker->window + swizzle(base + offset + chunk, mode);
      if (load) {
        note_write(s, CHUNK);
      } else {
        note_read_async(s, CHUNK);
      }
      for (uint32_t e = 0; e < CHUNK; e += m.element_bytes) {
        const int64_t x = coordinate[0] + static_cast<int64_t>((chunk + e) / m.element_bytes);
        if (inside && x >= 0 && x < static_cast<int64_t>(m.dim[0])) {
          char* g = const_cast<char*>(m.base) + position + x * m.element_bytes;
          if (load) {
            note_read(g, m.element_bytes);
            memcpy(s + e, g, m.element_bytes);
          } else {
            note_write(g, m.element_bytes);
            memcpy(g, s + e, m.element_bytes);
          }
        } else if (load) {
          memset(s + e, 0, m.element_bytes);
        }
      }
    }
    for (int r = 1; r < m.rank; ++r) {
      if (++index[r] < m.box[r]) break;
      index[r] = 0;
    }
  }
}

// box[1] consecutive positions of the bounding box [lower, dim - 1 + upper], in W, then H, then N order, each
// shifted by the filter offset, box[0] channels each; zero outside the tensor.
void copy_im2col(const TensorMap& m, char* shared, const int* c, const int* offset) {
  const uint32_t base = shared_address(shared), row = m.box[0] * m.element_bytes;
  const int mode = swizzle_mode(m);
  int w = c[1], h = c[2], n = c[3];
  const int w_end = static_cast<int>(m.dim[1]) - 1 + m.upper[0],
            h_end = static_cast<int>(m.dim[2]) - 1 + m.upper[1];
  if (w < m.lower[0] || w > w_end || h < m.lower[1] || h > h_end) {
    fail("TMA im2col: start (%d, %d) outside the bounding box", w, h);
  }
  for (uint32_t pixel = 0; pixel < m.box[1]; ++pixel) {
    const int x = w + offset[0], y = h + offset[1];
    const bool inside = x >= 0 && x < static_cast<int>(m.dim[1]) && y >= 0 &&
                        y < static_cast<int>(m.dim[2]) && n >= 0 && n < static_cast<int>(m.dim[3]);
    for (uint32_t chunk = 0; chunk < row; chunk += CHUNK) {
      char* s = worker->window + swizzle(base + pixel * row + chunk, mode);
      note_write(s, CHUNK);
      for (uint32_t e = 0; e < CHUNK; e += m.element_bytes) {
        const int64_t k = c[0] + static_cast<int64_t>((chunk + e) / m.element_bytes);
        if (inside && k >= 0 && k < static_cast<int64_t>(m.dim[0])) {
          const char* g = m.base + x * static_cast<int64_t>(m.stride[1]) +
                          y * static_cast<int64_t>(m.stride[2]) + n * static_cast<int64_t>(m.stride[3]) +
                          k * m.element_bytes;
          note_read(g, m.element_bytes);
          memcpy(s + e, g, m.element_bytes);
        } else {
          memset(s + e, 0, m.element_bytes);
        }
      }
    }
    if ((w += m.element_stride[1]) > w_end) {
      w = m.lower[0];
      if ((h += m.element_stride[2]) > h_end) {
        h = m.lower[1];
        ++n;
      }
    }
  }
}

void land(const TmaOp& op) {
  PCN_RACE(agent_begin());
  if (op.map.im2col) {
    copy_im2col(op.map, op.shared, op.coordinate, op.offset);
  } else {
    copy_tile(op.map, op.shared, op.coordinate, true);
  }
  PCN_RACE(agent_end(op.barrier));
  mbarrier_complete_bytes(op.barrier, static_cast<int>(box_bytes(op.map)));
}

void issue(void* shared, const TensorMap* map, uint64_t* barrier, const int* coordinate, int rank,
           const int* offset) {
  TmaOp op{checked_map(map, shared, rank, offset != nullptr),
           static_cast<char*>(shared),
           barrier,
           {0, 0, 0, 0, 0},
           {offset ? offset[0] : 0, offset ? offset[1] : 0}};
  for (int i = 0; i < rank; ++i) op.coordinate[i] = coordinate[i];
  mbarrier_complete_bytes(barrier, 0);  // checks that it is one
  const Async async = worker->grid->config.async;
  if (async == Async::late) {
    note_write(shared, box_bytes(op.map));
    memset(shared, 0xFF, box_bytes(op.map));
  }
  PCN_RACE(release_to_agent(context->index));
  if (async == Async::eager) return land(op);
  worker->tma.push_back(op);
  maybe_preempt();
}

}  // namespace

void finish_tma(size_t index) {
  Worker& w = *worker;
  const TmaOp op = w.tma[index];
  w.tma.erase(w.tma.begin() + static_cast<ptrdiff_t>(index));
  w.spins = 0;
  land(op);
}

void tma_load(void* shared, const TensorMap* map, uint64_t* barrier, const int* coordinate, int rank) {
  issue(shared, map, barrier, coordinate, rank, nullptr);
}

void tma_load_im2col(void* shared, const TensorMap* map, uint64_t* barrier, const int* coordinate,
                     const int* offset) {
  issue(shared, map, barrier, coordinate, 4, offset);
}

void tma_store(const TensorMap* map, const void* shared, const int* coordinate, int rank) {
  PendingStore op{checked_map(map, shared, rank, false), static_cast<char*>(const_cast<void*>(shared)), {}};
  for (int i = 0; i < rank; ++i) op.coordinate[i] = coordinate[i];
  if (worker->grid->config.async == Async::eager) return copy_tile(op.map, op.shared, op.coordinate, false);
  worker->current->stores.push_back(op);
}

void tma_store_commit() {
  Fiber& f = *worker->current;
  f.store_groups.push_back(static_cast<int>(f.stores.size()));
  maybe_preempt();
}

void tma_store_wait(int newest) {
  Fiber& f = *worker->current;
  const int complete = static_cast<int>(f.store_groups.size()) - newest;
  if (complete <= 0) return;
  const int upto = f.store_groups[static_cast<size_t>(complete - 1)];
  for (int i = 0; i < upto; ++i) {
    PendingStore& op = f.stores[static_cast<size_t>(i)];
    copy_tile(op.map, op.shared, op.coordinate, false);
  }
  f.stores.erase(f.stores.begin(), f.stores.begin() + upto);
  f.store_groups.erase(f.store_groups.begin(), f.store_groups.begin() + complete);
  for (int& end : f.store_groups) end -= upto;
}

void fence_proxy_async() { PCN_RACE(proxy_fence(context->index)); }

}  // namespace emulation
}  // namespace pcn
