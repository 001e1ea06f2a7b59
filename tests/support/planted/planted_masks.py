"""Bugs for test_planted_bugs.py: the ReLU's mask in input gradients; bias, ReLU and dropout in one pass."""

MASKED = ("test_masked_dgrad.py", "test_conv2d_dgrad and (tile64 or mma64x64 or generic)")
DROPOUT = ("test_bias_relu_dropout.py", "test_it_is_the_three_after_each_other and emulator")
TILE64, MMA64 = ("conv2d_dgrad_tile64.cu",), ("conv2d_dgrad_mma64x64.cu",)

#: What a Mutation is made of, in its order.
BUGS = [
    (
        "conv/gemm_tile.h",
        "return mask <= 0.f ? 0.f : value",
        "return mask < 0.f ? 0.f : value",
        "gradient passes where the ReLU gave zero",
        MASKED,
        TILE64,
    ),
    (
        "conv/gemm_tile.h",
        "mask_part<4>(row, acc[i], mine.cols.first",
        "mask_part<4>(row, acc[i], mine.cols.second",
        "mask of other columns",
        MASKED,
        TILE64,
        True,
    ),
    (
        "conv/mma_tile.h",
        "mask_part<2>(epilogue.mask + start, &acc[i][j][2 * half]",
        "mask_part<2>(epilogue.mask + start, &acc[i][j][half]",
        "mask of another fragment's element",
        MASKED,
        MMA64,
        True,
    ),
    (
        "conv/gemm_tile.h",
        "mask_part<VEC>(epilogue.mask, sum, i, count, true)",
        "mask_part<VEC>(epilogue.mask, sum, i % cols, count, true)",
        "mask of the first row, after a split reduction",
        MASKED,
        # add_pieces is the same function in every file; the linker takes the planted one, which comes first.
        ("conv/conv2d_dgrad_generic.cu",),
        True,
    ),
    (
        "pointwise/bias_relu_dropout_philox.cu",
        "if ((cols | c) % 4 == 0 &&",
        "if (c % 4 == 0 &&",
        "bias read past its end, where rows are ragged",
        DROPOUT,
    ),
]
