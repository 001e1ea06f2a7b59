// The tables of the space_to_depth family: one kernel a direction; filters are few.
#include "space_to_depth/space_to_depth.h"

namespace pcn {
namespace {

template <class T>
const FiltersToDepthRow<T> kFiltersToDepth[] = {
    {"filters_to_depth_any", always<DepthShape>, no_workspace<DepthShape>, filters_to_depth_any<T>}};

const FiltersFromDepthRow kFiltersFromDepth[] = {
    {"filters_from_depth_any", always<DepthShape>, no_workspace<DepthShape>, filters_from_depth_any}};

}  // namespace

template <class T>
KernelTable<FiltersToDepthRow<T>> filters_to_depth_kernels() {
  return {kFiltersToDepth<T>, 1};
}
template KernelTable<FiltersToDepthRow<float>> filters_to_depth_kernels<float>();
template KernelTable<FiltersToDepthRow<Bf16>> filters_to_depth_kernels<Bf16>();

KernelTable<FiltersFromDepthRow> filters_from_depth_kernels() { return {kFiltersFromDepth, 1}; }

}  // namespace pcn
