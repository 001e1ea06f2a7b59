"""Why an access that is not ideal is as it is: ``[stem: ]kind of access at file`` -> reason.

The report puts the reason beside each such place; a place without a reason, and a reason without a place,
fail its check.
"""

_ANY_SHAPE = "for shapes that no faster kernel takes: single floats, several neighbours a thread"
_BIAS = "the bias: each lane takes 4 neighbouring floats one by one, 3 of them from L1"
_PIXELS = "3 channels of a pixel are 3 loads that share their sectors; L1 serves the second and third"
_FILTERS = "runs of stride * C floats of a filter's rows start anywhere; 140 KB, once a step, from the cache"
_SHIFTED = "windows of channels start anywhere: neighbours' loads overlap, shifted"

REASONS: dict[str, str] = {
    "load at augment/gather.h": _PIXELS,
    "load at common/space_to_depth.h": _FILTERS,
    "load at conv/space_to_depth.h": f"reads pixels of 3 channels, writes whole lines: {_PIXELS}",
    "load at conv/gemm_tile.h": _BIAS,
    "conv2d_fprop_generic: load at conv/loaders.h": _ANY_SHAPE,
    "conv2d_dgrad_generic: load at conv/loaders.h": _ANY_SHAPE,
    "conv2d_wgrad_generic: load at conv/loaders.h": _ANY_SHAPE,
    "conv2d_dgrad_generic: store at conv/gemm_tile.h": _ANY_SHAPE,
    "conv2d_wgrad_generic: store at conv/gemm_tile.h": _ANY_SHAPE,
    "conv2d_dgrad_tile48: shared store at conv/loaders.h": (
        "12 threads cover a row of 48 floats, so that some 8 lanes of one pass lie in two rows"
    ),
    "conv2d_dgrad_wgmma384x48_bf16: shared store at conv/hopper/wgmma_tile.h": (
        "24 columns of pieces are 3 products, which no order of odd rows keeps out of even rows' banks; "
        "AlexNet's layer is not cut into pieces"
    ),
    "conv2d_dgrad_wgmma384x48: shared store at conv/hopper/wgmma_tile.h": (
        "24 columns of floats are 3 products, which no order of odd rows keeps out of even rows' banks; a "
        "hundred steps are made before each store"
    ),
    "conv2d_dgrad_wgmma_halo896x48: shared store at conv/hopper/wgmma_tile.h": (
        "24 columns of floats, as above; 200 steps are made before each store"
    ),
    "load at norm/lrn_generic.cu": _SHIFTED,
    "load at norm/lrn_backward_generic.cu": _SHIFTED,
    "load at norm/pooled.h": _SHIFTED,
    "load at norm/lrn_max_pool2d_backward_generic.cu": _SHIFTED,
    "lrn_max_pool2d_backward_generic: load at norm/response.h": _SHIFTED,
    "load at pointwise/add_bias_rows.cu": (
        "in bfloat16 a lane takes 8 neighbouring floats of the bias as two vectors, the second from L1"
    ),
    "shared store at pointwise/bias_backward_two_stage.cu": (
        "4 stores in the source, which nvcc merges into one STS.128 (see above), free of conflicts"
    ),
}
