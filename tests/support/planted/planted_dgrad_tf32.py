"""Bugs for test_planted_bugs.py: dgrad in TF32 on 9.0, of filters that are transposed on the way."""

SIDE, HOST = "conv/hopper/dgrad_tf32.h", "conv/hopper/product.h"
SHAPES = ("test_dgrad_tf32.py", "test_dgrad and emulator and ends_within and transposing128x128")
ORDERS = ("test_dgrad_tf32.py", "test_every_order and ends_within and transposing128x128")
ROWS = ("test_dgrad_tf32.py", "test_dgrad and emulator and few_filters and transposing128x128")  # 90 of them
STEMS = ("conv2d_dgrad_wgmma_transposing128x128.cu",)

BUGS = [
    (file, plant, instead, what, tests, STEMS)
    for file, plant, instead, what, tests in (
        # ---- barriers
        (SIDE, "        mbarrier_wait(&barriers.columns_full[buffer.stage], buffer.parity);\n", "",
         "filters multiplied before they are transposed", ORDERS),
        (SIDE, "        buffer.advance();", "        buffer.stage ^= 1;",
         "a parity that does not turn", ORDERS),
        (SIDE, "if (accumulate) release(before), release(columns_before);",
         "if (accumulate) release(before);", "transposed filters that are never given back", SHAPES),
        (SIDE, "wgmma_wait<1>();", "wgmma_wait<2>();",
         "filters overwritten while they are multiplied", ORDERS),
        (SIDE, "        wgmma_fence();\n", "", "products without a fence", ORDERS),
        (SIDE, "wgmma_wait<0>(acc);", "wgmma_wait<1>(acc);", "sums stored before they are there", ORDERS),
        # ---- operands
        (SIDE, "int k) { return k; }", "int k) { return k ^ 1; }", "filters in another order than pixels",
         SHAPES),
        (SIDE, "b + 2 * ks", "b", "the first 8 filters of a step for all", SHAPES),
        (SIDE, "part * ROWS + 2 * ks", "part * ROWS", "the first 8 channels of a step for all", SHAPES),
        (HOST, "Side::PLAIN ? TensorSwizzle::kNone", "!Side::PLAIN ? TensorSwizzle::kNone",
         "filters swizzled that are read as if they were not", SHAPES),
        (SIDE, "T::PARTS * ROWS);", "ROWS / 2);", "a warpgroup's rows half in the other's", ROWS),
        # ---- the way out
        (SIDE, "work.m0 + warpgroup * T::PARTS * 64, args.rows - 1", "work.m0, args.rows - 1",
         "the first warpgroup's mask for both", ROWS),
    )
]  # fmt: skip
