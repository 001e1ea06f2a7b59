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

uint32_t row_bytes(const TensorMap& m) { return m.box[0] * m.element_bytes; }
// From row to row of the box in shared memory: a swizzled row takes the whole span, however little it holds.
uint32_t pitch(const TensorMap& m) { return m.swizzle ? CHUNK << m.swizzle : row_bytes(m); }
uint32_t rows(const TensorMap& m) {
  uint32_t n = 1;
  for (int r = 1; r < (m.im2col ? 2 : m.rank); ++r) n *= m.box[r];
  return n;
}
uint32_t footprint(const TensorMap& m) { return rows(m) * pitch(m); }      // bytes of shared memory
uint32_t box_bytes(const TensorMap& m) { return rows(m) * row_bytes(m); }  // that travel

int swizzle_mode(const TensorMap& m) { return m.swizzle == 0 ? 0 : 4 - m.swizzle; }

const TensorMap& checked_map(const TensorMap* map, const void* shared, int rank, bool im2col) {
  prefetch_tensor_map(map);
  const TensorMap& m = *map;
  if (m.rank != rank) fail("a tensor map of rank %d used as one of rank %d", m.rank, rank);
  if ((m.im2col != 0) != im2col) fail("a tensor map of the other mode (tiled, im2col)");
  const uint32_t address = shared_address(shared);
  const uint32_t align = 128 << m.swizzle;  // where the pattern starts anew; without one, what the copy wants
  if (address % align) fail("TMA: shared address %u must be aligned to %u bytes", address, align);
  shared_pointer(address, footprint(m));
  return m;
}

void round_to_tf32(char* p) {
  uint32_t u;
  memcpy(&u, p, 4);
  if ((u & 0x7f800000u) != 0x7f800000u) u = (u + 0x1000u) & ~0x1fffu;
  if ((u & 0x7fffffffu) > 0x7f800000u) u = 0x7fffffffu;
  memcpy(p, &u, 4);
}

// One row of a box, at `address` in shared memory: the elements from `first` on of the row of the tensor at
// `global`; null: outside the tensor, zeros. What a load leaves in the rest of the span is undefined: NaN.
void copy_row(const TensorMap& m, uint32_t address, char* global, int64_t first, bool load) {
  const uint32_t row = row_bytes(m), size = m.element_bytes;
  for (uint32_t chunk = 0; chunk < (load ? pitch(m) : row); chunk += CHUNK) {
    char* s = worker->window + swizzle(address + chunk, swizzle_mode(m));
    if (load) {
      note_write(s, CHUNK);
    } else {
      note_read_async(s, CHUNK);
    }
    if (chunk >= row) {
      memset(s, 0xFF, CHUNK);
      continue;
    }
    for (uint32_t e = 0; e < CHUNK; e += size) {
      const int64_t x = first + static_cast<int64_t>((chunk + e) / size);
      if (global && x >= 0 && x < static_cast<int64_t>(m.dim[0])) {
        char* g = global + x * static_cast<int64_t>(size);
        if (load) {
          note_read(g, size);
          memcpy(s + e, g, size);
          if (m.to_tf32) round_to_tf32(s + e);
        } else {
          note_write(g, size);
          memcpy(g, s + e, size);
        }
      } else if (load) {
        memset(s + e, 0, size);
      }
    }
  }
}

void copy_tile(const TensorMap& m, char* shared, const int* coordinate, bool load) {
  const uint32_t base = shared_address(shared);
  uint32_t index[5] = {0, 0, 0, 0, 0};
  for (uint32_t i = 0; i < rows(m); ++i) {
    bool inside = true;
    int64_t position = 0;
    for (int r = 1; r < m.rank; ++r) {
      const int64_t x = coordinate[r] + static_cast<int64_t>(index[r]);
      if (x < 0 || x >= static_cast<int64_t>(m.dim[r])) inside = false;
      position += x * static_cast<int64_t>(m.stride[r]);
    }
    char* row = inside ? const_cast<char*>(m.base) + position : nullptr;
    copy_row(m, base + i * pitch(m), row, coordinate[0], load);
    for (int r = 1; r < m.rank; ++r) {
      if (++index[r] < m.box[r]) break;
      index[r] = 0;
    }
  }
}

// box[1] consecutive positions of the bounding box [lower, dim - 1 + upper], in W, then H, then N order, each
// shifted by the filter offset, box[0] channels each; zero outside the tensor.
void copy_im2col(const TensorMap& m, char* shared, const int* c, const int* offset) {
  const uint32_t base = shared_address(shared);
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
    const int64_t position = x * static_cast<int64_t>(m.stride[1]) + y * static_cast<int64_t>(m.stride[2]) +
                             n * static_cast<int64_t>(m.stride[3]);
    char* row = inside ? const_cast<char*>(m.base) + position : nullptr;
    copy_row(m, base + pixel * pitch(m), row, c[0], true);
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
    note_write(shared, footprint(op.map));
    memset(shared, 0xFF, footprint(op.map));
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
  if (offset[0] > 255 || offset[1] > 255) {
    fail("TMA im2col: offsets (%d, %d); of a tensor of four dimensions they are at most 255", offset[0],
         offset[1]);
  }
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

void prefetch_tensor_map(const TensorMap* map) {
  if (reinterpret_cast<uintptr_t>(map) % alignof(TensorMap)) fail("misaligned tensor map at %p", map);
  if (map->magic != TensorMap::MAGIC) fail("not a tensor map");
}

void check_l2_policy(uint64_t policy) {
  if (policy != L2_EVICT_FIRST && policy != L2_EVICT_LAST)
    fail("%llx is no policy of L2", static_cast<unsigned long long>(policy));
}

void fence_proxy_async() { PCN_RACE(proxy_fence(context->index)); }

}  // namespace emulation
}  // namespace pcn
