// memory.cpp: the allocations of global memory
#include <cstdlib>
#include <cstring>
#include <new>

#include "executor.h"

namespace ptx {

Memory::~Memory() {
  for (auto& [begin, region] : regions_) std::free(region.shadow);
}

const Region* Memory::find(uintptr_t address, size_t bytes) const {
  auto found = regions_.upper_bound(address);
  if (found == regions_.begin()) return nullptr;
  const Region& r = (--found)->second;
  return address - r.begin <= r.bytes && bytes <= r.bytes - (address - r.begin) ? &r : nullptr;
}

void Memory::add(const void* pointer, size_t bytes, bool initialised, bool writable,
                 const std::string& name) {
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto next = regions_.upper_bound(begin);
  const bool over_next = next != regions_.end() && next->first - begin < bytes;
  const bool over_last =
      next != regions_.begin() && begin - std::prev(next)->first < std::prev(next)->second.bytes;
  if (!pointer || !bytes || over_next || over_last) {
    throw std::invalid_argument("an allocation that is empty or overlaps another");
  }
  Region r;
  r.begin = begin, r.bytes = bytes, r.writable = writable, r.name = name;
  if (!initialised) {
    r.shadow = static_cast<uint8_t*>(std::calloc(bytes, 1));
    if (!r.shadow) throw std::bad_alloc();
  }
  regions_[begin] = r;
}

bool Memory::remove(const void* pointer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = regions_.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == regions_.end()) return false;
  std::free(found->second.shadow);
  regions_.erase(found);
  return true;
}

void Memory::mark_initialised(const void* pointer, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Region* r = find(reinterpret_cast<uintptr_t>(pointer), bytes);
  if (!r) throw std::out_of_range("bytes outside every allocation");
  if (r->shadow) std::memset(r->shadow + (reinterpret_cast<uintptr_t>(pointer) - r->begin), 0xff, bytes);
}

void Memory::mark_uninitialised(const void* pointer, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Region* r = find(reinterpret_cast<uintptr_t>(pointer), bytes);
  if (!r) throw std::out_of_range("bytes outside every allocation");
  if (!r->shadow) {
    auto* shadow = static_cast<uint8_t*>(std::malloc(r->bytes));
    if (!shadow) throw std::bad_alloc();
    std::memset(shadow, 0xff, r->bytes);
    regions_[r->begin].shadow = shadow;
  }
  std::memset(r->shadow + (reinterpret_cast<uintptr_t>(pointer) - r->begin), 0, bytes);
}

bool Memory::covers(const void* pointer, size_t bytes) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return find(reinterpret_cast<uintptr_t>(pointer), bytes) != nullptr;
}

bool Memory::initialised(const void* pointer, size_t bytes) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Region* r = find(reinterpret_cast<uintptr_t>(pointer), bytes);
  if (!r) return false;
  if (!r->shadow) return true;
  const uint8_t* s = r->shadow + (reinterpret_cast<uintptr_t>(pointer) - r->begin);
  for (size_t i = 0; i < bytes; ++i) {
    if (s[i] != 0xff) return false;
  }
  return true;
}

std::pair<void*, size_t> Memory::allocation(const void* pointer) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Region* r = find(reinterpret_cast<uintptr_t>(pointer), 1);
  if (!r) return {nullptr, 0};
  return {reinterpret_cast<void*>(r->begin), r->bytes};
}

std::vector<Region> Memory::regions() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Region> all;
  for (const auto& [begin, region] : regions_) all.push_back(region);
  return all;
}

}  // namespace ptx
