// cutlass_conv.cu: one of CUTLASS's own convolutions for sm_90, by implicit matrix products, made from its headers
//
// cutlass_peer.py compiles it with -DPCN_OP=kFprop|kDgrad|kWgrad -DPCN_ELEMENT=... -DPCN_M, -DPCN_N, -DPCN_K: a tile of
// M x N outputs, K of the reduction, and reads the machine code; cutlass_contender.py makes a shared library of it and
// times that. It is compared with this library's kernels and never becomes part of them.
//
// CUTLASS 4.2 has one schedule for it: blocks of one tile, a warpgroup that brings operands by TMA (im2col where the
// direction asks for it), one that multiplies; no groups, no split reduction; TF32 forward alone.
#include <cute/tensor.hpp>
#include <cutlass/cutlass.h>
#include <cutlass/kernel_hardware_info.h>

#include <cutlass/conv/collective/collective_builder.hpp>
#include <cutlass/conv/convnd_problem_shape.hpp>
#include <cutlass/conv/convolution.h>
#include <cutlass/conv/device/conv_universal_adapter.hpp>
#include <cutlass/conv/kernel/conv_universal.hpp>
#include <cutlass/device_kernel.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/util/packed_stride.hpp>
#include <cutlass/version.h>

// A convolution of x (N, H, W, C) with w (K, R, S, C) to y (N, P, Q, K), strides in elements.
struct Layer {
  int x[4], w[4];
  int64_t x_stride[4], w_stride[4], y_stride[4];
  int before[2], after[2], step[2];  // padding above and left, below and right; the convolution's stride
};

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
using Adapter = cutlass::conv::device::ConvUniversalAdapter<Kernel>;
using cutlass::Status;

struct Plan {
  typename Adapter::Arguments arguments;
  Adapter adapter;
};

// The strides of the result as its epilogue wants them: pixels from the innermost on, or those of filters.
template <class Stride>
Stride result_stride(Problem const& problem) {
  Stride stride{};
  if constexpr (WGRAD) {
    stride = cutlass::make_cute_packed_stride(stride, problem.shape_C, problem.stride_C, OP);
  } else {
    cute::for_each(cute::make_seq<cute::rank<0>(Stride{})>{},
                   [&](auto i) { cute::get<0, i>(stride) = problem.stride_C[Problem::RankT - 2 - i]; });
  }
  return stride;
}

template <class Array, class T, size_t COUNT>
Array array(T const (&values)[COUNT]) {
  Array made;
  std::copy(values, values + COUNT, made.begin());
  return made;
}

}  // namespace

template __global__ void cutlass::device_kernel<Kernel>(CUTLASS_GRID_CONSTANT typename Kernel::Params const);

// What ptxas does not tell stands in this name, which it prints.
template <int THREADS, int SHARED, int STAGES>
__global__ void facts() {}
template __global__ void
facts<Kernel::MaxThreadsPerBlock, static_cast<int>(Kernel::SharedStorageSize), Mainloop::DispatchPolicy::Stages>();

// ---- the library: statuses are those of cutlass::Status -----------------------------------------------------

extern "C" {

const char* conv_version() {
#define PCN_TEXT(x) #x
#define PCN_WORD(x) PCN_TEXT(x)
  return "CUTLASS " PCN_WORD(CUTLASS_MAJOR) "." PCN_WORD(CUTLASS_MINOR) "." PCN_WORD(CUTLASS_PATCH) ", nvcc " PCN_WORD(
      __CUDACC_VER_MAJOR__) "." PCN_WORD(__CUDACC_VER_MINOR__);
}

const char* conv_words(int status) { return cutlass::cutlassGetStatusString(static_cast<Status>(status)); }

// Asks whether the kernel can do it, without a device; where it can, a plan to be freed, and the bytes it works in.
int conv_plan(Layer const* layer, void** made, size_t* workspace) {
  using Extent = typename Problem::TensorExtent;
  using Stride = typename Problem::TensorStride;
  using Spatial = typename Problem::SpatialExtent;
  const Problem problem(cutlass::conv::Mode::kCrossCorrelation, array<Extent>(layer->x), array<Stride>(layer->x_stride),
                        array<Extent>(layer->w), array<Stride>(layer->w_stride), array<Stride>(layer->y_stride),
                        array<Spatial>(layer->before), array<Spatial>(layer->after), array<Spatial>(layer->step),
                        Spatial{1, 1}, 1);
  typename Adapter::Arguments arguments{problem, {}, {}};
  arguments.epilogue.dC = result_stride<typename Kernel::StrideC>(problem);
  arguments.epilogue.dD = result_stride<typename Kernel::StrideD>(problem);
  const Status status = Adapter::can_implement(arguments);
  if (status == Status::kSuccess) {
    *made = new Plan{arguments, {}};
    *workspace = Adapter::get_workspace_size(arguments);
  }
  return static_cast<int>(status);
}

// Gives a plan its arrays: operands in the order of the product (fprop x, w; dgrad dy, w; wgrad dy, x), and the result.
int conv_bind(void* made, void const* a, void const* b, void* out, void* workspace, cudaStream_t stream) {
  Plan& plan = *static_cast<Plan*>(made);
  plan.arguments.mainloop = {static_cast<Element const*>(a), static_cast<Element const*>(b)};
  plan.arguments.epilogue.ptr_D = static_cast<Result*>(out);  // of C, times zero, nothing is read
  return static_cast<int>(plan.adapter.initialize(plan.arguments, workspace, stream));
}

int conv_run(void* made, cudaStream_t stream) {
  return static_cast<int>(static_cast<Plan*>(made)->adapter.run(stream));
}

void conv_free(void* made) { delete static_cast<Plan*>(made); }
}
