// cutlass_conv.cu: one of CUTLASS's own convolutions for sm_90, by implicit matrix products, made from its headers
//
// cutlass_peer.py compiles it with -DPCN_OP=kFprop|kDgrad|kWgrad -DPCN_ELEMENT=... -DPCN_M, -DPCN_N, -DPCN_K: a tile of
// M x N outputs, K of the reduction. It is compared with this library's kernels and never becomes part of them.
//
// CUTLASS 4.2 has one schedule for it: blocks of one tile, a warpgroup that brings operands by TMA (im2col where the
// direction asks for it), one that multiplies; no groups, no split reduction; TF32 forward alone.
#include <cute/tensor.hpp>
#include <cutlass/cutlass.h>
#include <cutlass/kernel_hardware_info.h>

#include <cutlass/conv/collective/collective_builder.hpp>
#include <cutlass/conv/convnd_problem_shape.hpp>
#include <cutlass/conv/convolution.h>
#include <cutlass/conv/kernel/conv_universal.hpp>
#include <cutlass/device_kernel.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>

namespace {

constexpr cutlass::conv::Operator OP = cutlass::conv::Operator::PCN_OP;
constexpr bool WGRAD = OP == cutlass::conv::Operator::kWgrad;
using Element = PCN_ELEMENT;
constexpr int ALIGNMENT = 16 / sizeof(Element);
// The extents that have several modes, of im2col, are written as shapes of their own.
using N = cute::Int<PCN_N>;
using Columns = std::conditional_t<WGRAD, cute::Shape<N>, N>;
using Tile = cute::Shape<cute::Int<PCN_M>, Columns, cute::Shape<cute::Int<PCN_K>>>;
using Cluster = cute::Shape<cute::_1, cute::_1, cute::_1>;
using Activations = cutlass::layout::TensorNHWC;
using Result = std::conditional_t<WGRAD, float, Element>;
using ResultLayout = std::conditional_t<WGRAD, cutlass::layout::TensorKCSR, Activations>;
using Way = std::conditional_t<WGRAD, cutlass::epilogue::NoSmemWarpSpecialized, cutlass::epilogue::TmaWarpSpecialized>;

using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster, cutlass::epilogue::collective::EpilogueTileAuto,
    float, float, std::conditional_t<WGRAD, Result, void>, ResultLayout, 16 / sizeof(Result), Result, ResultLayout,
    16 / sizeof(Result), Way>::CollectiveOp;
using Stages =
    cutlass::conv::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>;
using Mainloop = typename cutlass::conv::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, OP, Element, Activations, ALIGNMENT, Element, Activations,
    ALIGNMENT, float, Tile, Cluster, Stages, cutlass::conv::collective::KernelScheduleAuto>::CollectiveOp;
using Problem = cutlass::conv::ConvProblemShape<OP, Mainloop::DispatchPolicy::NumSpatialDimensions>;
using Kernel = cutlass::conv::kernel::ConvUniversal<Problem, Mainloop, Epilogue>;

}  // namespace

template __global__ void cutlass::device_kernel<Kernel>(CUTLASS_GRID_CONSTANT typename Kernel::Params const);

// What ptxas does not tell stands in this name, which it prints.
template <int THREADS, int SHARED, int STAGES>
__global__ void facts() {}
template __global__ void
facts<Kernel::MaxThreadsPerBlock, static_cast<int>(Kernel::SharedStorageSize), Mainloop::DispatchPolicy::Stages>();
