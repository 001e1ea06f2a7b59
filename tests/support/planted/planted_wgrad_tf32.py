"""Bugs for test_planted_bugs.py: weight gradients in TF32 for compute capability 9.0, which transpose dy."""

DEVICE, HOST = "conv/hopper/weights_tf32.h", "conv/hopper/wgrad.h"
_ROW = "emulator and 256x96 and not bf16"
# Every number of dw and db, scratch memory and what lies beside db: of blocks of 32 channels, of 16.
WIDE = ("test_wgrad_tf32.py", f"test_integers and {_ROW} and (groups_of_36 or wide_blocks)")
NARROW = ("test_wgrad_tf32.py", f"test_integers and {_ROW} and (narrow or three_groups or ten_steps)")
# Five and more turns of the ring and of the two buffers; copies and products as early and as late as may be.
ORDERS = ("test_wgrad_tf32.py", "test_every_order and 256x96 and ten_steps")
ROUNDED = ("test_wgrad_tf32.py", f"test_roundings and {_ROW}")
UNROUNDED = ("test_bias_gradient.py", f"test_dy_is_not_rounded and {_ROW}")
LIMITS = ("test_wgrad_tf32.py", "test_limits or test_the_kernels_take")

BUGS = [
    (file, plant, instead, what, tests, ("conv2d_wgrad_wgmma256x96.cu",))
    for file, plant, instead, what, tests in (
        # ---- barriers: parities, counts, what is waited for
        (DEVICE, "buffer.parity ^ 1);", "buffer.parity);", "a wait for buffers that never were full",
         WIDE),
        (DEVICE, "buffer.advance();\n    }\n    if (args", "buffer.stage ^= 1;\n    }\n    if (args",
         "columns over those that are multiplied", ORDERS),
        (DEVICE, "buffer.advance();\n    }\n    Trans", "buffer.stage ^= 1;\n    }\n    Trans",
         "columns of two steps before", ORDERS),
        (DEVICE, "columns_full[buffer], T::WARPS)", "columns_full[buffer], T::WARPS - 1)",
         "columns that two warps of three have written", ORDERS),
        (DEVICE, "columns_empty[buffer], WARPS)", "columns_empty[buffer], WARPS / 2)",
         "a buffer empty when one warpgroup has multiplied it", ORDERS),
        (DEVICE, "empty[stage], WARPS + T::WARPS)", "empty[stage], WARPS)",
         "a stage empty that some have not read", ORDERS),
        (DEVICE, "      mbarrier_wait(&barriers.full[place.stage], place.parity);\n      mbarrier_wait(&",
         "      mbarrier_wait(&", "dy that has not landed", ORDERS),
        (DEVICE, "      mbarrier_wait(&barriers.columns_empty[buffer.stage], buffer.parity ^ 1);\n", "",
         "a buffer that nobody waits for", ORDERS),
        (DEVICE, "          mbarrier_wait(&barriers.columns_full[buffer.stage], buffer.parity);\n", "",
         "columns that nobody waits for", ORDERS),
        (DEVICE, "        } else {\n          __syncwarp();", "        }\n        if (half == 0) {\n",
         "a stage given back before its second half is read", ORDERS),
        (DEVICE, "          __syncwarp();\n          release", "          release",
         "a stage that other lanes still read", ORDERS),
        # ---- products
        (DEVICE, "        wgmma_fence(a[half]);\n", "", "weights that products do not see", WIDE),
        (DEVICE, "wgmma_wait<1>(a[1 - half]);", "wgmma_wait<2>(a[1 - half]);",
         "weights read into registers of products that run", ORDERS),
        (DEVICE, "        wgmma_wait<1>(a[1 - half]);\n        if (half == 0 && accumulate) release(before);",
         "        if (half == 0 && accumulate) release(before);\n        wgmma_wait<1>(a[1 - half]);",
         "a buffer given back while it is multiplied", ORDERS),
        (DEVICE, "wgmma_wait<0>(acc);", "wgmma_wait<1>(acc);", "sums stored before they are there", WIDE),
        (DEVICE, "half + group || accumulate", "group || accumulate", "a half step left out", WIDE),
        (DEVICE, "b + 2 * (2 * half + group)", "b + 2 * group", "the first half's columns for both", WIDE),
        (DEVICE, "x + half * 2 * Fragment::GROUP_BYTES", "x", "the first half's weights for both", NARROW),
        (DEVICE, "warpgroup * T::PARTS * Fragment::PART_BYTES", "warpgroup * Fragment::PART_BYTES",
         "rows that both warpgroups multiply", WIDE),
        # ---- where x and dy lie
        (DEVICE, "pixel = Side::pixel_of(lane % 4 + i / 2 * 4)", "pixel = lane % 4 + i / 2 * 4",
         "x's pixels in another order than dy's", WIDE),
        (DEVICE, "Side::pixel_of(e) * 32", "e * 32", "dy's pixels in another order than x's", NARROW),
        (DEVICE, "? k % 4 * 2 + k / 4 :", "? k % 4 * 2 + k % 2 :", "odd pixels twice", WIDE),
        (DEVICE, "+ k % 4 / 2 * 4 + k / 4 * 2", "+ k % 4 / 2 * 4 + k / 4", "some pixels twice", NARROW),
        (DEVICE, "(in_block ^ (in_block / 128 % (Side::A_SPAN / 16)) * 16)", "in_block",
         "x read as if it were not swizzled", WIDE),
        (DEVICE, "(in_block / 128 % (Side::A_SPAN / 16)) * 16", "(in_block / 128 % 2) * 16",
         "x swizzled as rows of 32 bytes", NARROW),
        (DEVICE, "(four ^ lane % 8) * 16", "four * 16", "columns that are not swizzled", WIDE),
        (DEVICE, "channel / Side::CHANNELS * Side", "0 * Side", "one block's channels for all", WIDE),
        (DEVICE, "from[block * (Side", "from[0 * (Side", "one block's filters for all", WIDE),
        (HOST, "kTransposes<T> ? TensorSwizzle::kNone", "false ? TensorSwizzle::kNone",
         "dy swizzled that is read as it lies", WIDE),
        (DEVICE, "raised(__float_as_uint(exact))", "__float_as_uint(exact)", "dy cut off", ROUNDED),
        # ---- db
        (HOST, "kTransposes<T> ? TensorElement::kFloat32", "false ? TensorElement::kFloat32",
         "sums of dy as TF32", UNROUNDED),
        (DEVICE, "other < T::WARPS; ++other", "other < T::WARPS - 1; ++other", "sums of two warps of three",
         WIDE),
        (DEVICE, "if (work.m0 != 0) continue;", "if (work.m0 == 0) continue;",
         "sums of the tiles that do not make them", WIDE),
        (DEVICE, "min(T::BN, filters - work.n0)", "min(T::BN, filters - work.n0 + 1)",
         "a sum behind the group's last filter", WIDE),
        (DEVICE, "args.sums + work.piece * args.piece", "args.sums", "all pieces' sums as the first's", WIDE),
        (DEVICE, "+ work.group * filters;", ";", "every group's sums as the first's", NARROW),
        (DEVICE, "    named_barrier_sync(id, T::WARPS * 32);\n    const int filters", "    const int filters",
         "sums that other warps have not left", ORDERS),
        # ---- what the host says
        (HOST, "% kWide<T> == 0 ||", "% 16 == 0 ||", "wide blocks of two taps", NARROW),
        (HOST, "|| s.c / s.groups % 16 == 0)", "|| s.c / s.groups % 8 == 0)", "8 channels taken", LIMITS),
        (HOST, "0 : splits * wgrad_piece", "0 : (splits + 1) * wgrad_piece", "a piece too many", WIDE),
        (HOST, "pieces ? out + wgrad_piece(shape, false) : db;", "pieces ? out : db;",
         "pieces of db over those of dw", WIDE),
    )
]  # fmt: skip
