"""Bugs for test_planted_bugs.py: the kernels for compute capability 9.0: ring, maps, stores."""

TILE, KERNEL, HOST, DGRAD, WGRAD, ACROSS = (
    f"conv/hopper/{name}.h" for name in ("wgmma_tile", "wgmma_kernel", "product", "dgrad", "wgrad", "weights")
)
RING, ELEMENTS = "conv/hopper/ring.h", "conv/elements.h"
SHAPES = (
    "test_conv_wgmma.py",
    "test_kernel and emulator and (as_conv2 or rows_and_more or strided) and 128x128",
)
# The ring turns round four times in a tile; outputs are bfloat16.
ORDERS = ("test_conv_wgmma.py", "test_every_order and as_conv2 and 128x128_bf16-1- and not dgrad")
# Both warpgroups have rows.
BOTH = ("test_conv_wgmma.py", "test_every_order and rows_and_more and 128x128 and not dgrad")
SEVERAL = ("test_conv_wgmma.py", "test_every_order and several and 128x128 and not dgrad")
ODD = ("test_conv_wgmma.py", "test_every_order and odd_tiles and 128x128 and not dgrad")
PARTS = ("test_conv_wgmma.py", "test_kernel and emulator and rows_and_more and 256x128")
PIECES = ("test_conv_wgmma.py", "test_pieces and emulator and 128x128 and not dgrad")
GROUPS = ("test_conv_wgmma.py", "test_a_group_does and emulator and 128x128")
LIMITS = ("test_conv_wgmma.py", "test_limits_of_instructions")
SMALL, LARGE = ("conv2d_fprop_wgmma128x128_bf16.cu",), ("conv2d_fprop_wgmma256x128_bf16.cu",)

BUGS = [
    # ---- phases and parities, counts of barriers
    (
        KERNEL,
        "barriers.empty[place.stage], place.parity ^ 1",
        "barriers.empty[place.stage], place.parity",
        "the producer waits for a stage that was never full",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "barriers.full[place.stage + later], place.parity)",
        "barriers.full[place.stage + later], 0)",
        "from the second round on stages read before they are full",
        ORDERS,
        SMALL,
    ),
    (RING, "stage = 0, parity ^= 1;", "stage = 0;", "a parity that does not turn", SHAPES, SMALL),
    (
        KERNEL,
        "mbarrier_init(&barriers.full[stage], 1)",
        "mbarrier_init(&barriers.full[stage], 2)",
        "a full barrier that waits for two",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "T::CONSUMERS * T::WARPGROUP / 32 + Side",
        "T::WARPGROUP / 32 + Side",
        "a stage falls empty when one warpgroup has multiplied it",
        ORDERS,
        SMALL,
    ),
    (
        RING,
        "if (threadIdx.x % 32 == 0) mbarrier_arrive",
        "mbarrier_arrive",
        "every lane gives a stage back",
        ORDERS,
        SMALL,
    ),
    (
        KERNEL,
        "KS * 32 * (T::BM + T::BN)",
        "T::STAGE_BYTES",
        "bytes expected that a narrow step does not bring",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "wgmma_wait<1>();",
        "wgmma_wait<2>();",
        "a stage given back while it is multiplied",
        ORDERS,
        SMALL,
    ),
    (
        KERNEL,
        "wgmma_wait<0>(acc);",
        "wgmma_wait<1>(acc);",
        "sums stored before they are there",
        ORDERS,
        SMALL,
    ),
    (KERNEL, "      wgmma_fence();\n", "", "products without a fence", SHAPES, SMALL),
    # ---- descriptors and swizzles
    (
        KERNEL,
        "descriptor<T>(shared_address(stages) + T::A_BYTES)",
        "descriptor<T>(shared_address(stages) + T::A_BYTES + 1024)",
        "filters read from the next group of 8 rows",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "+ warpgroup * (T::PARTS * ROWS)",
        "+ warpgroup * ROWS",
        "the second warpgroup multiplies rows of the first",
        PARTS,
        LARGE,
    ),
    (
        KERNEL,
        "Side::template A_PRODUCT<T> * ks",
        "Side::template A_PRODUCT<T> / 2 * ks",
        "a product's operands half a product apart",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "stages += (1024 - (shared_address(stages) & 1023)) & 1023;",
        "",
        "a ring that is not aligned",
        ORDERS,
        SMALL,
    ),
    (
        TILE,
        "(column / 8 ^ row_in_8) * 16",
        "(column / 8) * 16",
        "outputs that are not swizzled",
        SHAPES,
        SMALL,
    ),
    (
        TILE,
        "(column / 4 ^ row_in_8) * 16",
        "(column / 4 ^ row_in_8 ^ 1) * 16",
        "pieces' columns swizzled otherwise than their map",
        PIECES,
        SMALL,
    ),
    # ---- the way out
    (
        TILE,
        "tma_store_wait_read<T::STORES - 1>();",
        "tma_store_wait_read<T::STORES>();",
        "a buffer filled while it is being read",
        SEVERAL,
        SMALL,
    ),
    (
        TILE,
        "by threads\n      named_barrier_sync(1 + warpgroup, T::WARPGROUP);",
        "by threads",
        "rows stored that other warps have not written",
        ORDERS,
        SMALL,
    ),
    (
        KERNEL,
        "T::STAGES * T::STAGE_BYTES + warpgroup * T::STORES",
        "0 * T::STAGE_BYTES + warpgroup * T::STORES",
        "outputs in the first stage of the ring",
        ODD,
        SMALL,
    ),
    (
        KERNEL,
        "warpgroup * T::STORES * T::STORE_BYTES;",
        "0;",
        "one pair of buffers for both warpgroups",
        BOTH,
        SMALL,
    ),
    (
        TILE,
        "first = work.group * columns + work.n0;",
        "first = work.n0;",
        "the first group's bias for all",
        SHAPES,
        SMALL,
    ),
    # ---- steps, tiles and pieces
    (TILE, "tap_w = 0, ++tap_h", "++tap_h", "a filter's row that goes on in the next column", SHAPES, SMALL),
    (
        TILE,
        "c = chunk * args.channels",
        "c = chunk * T::BK",
        "channels left out between narrow steps",
        ("test_conv_wgmma.py", "test_kernel and emulator and channels_of_96 and 128x128"),
        SMALL,
    ),
    (
        KERNEL,
        "ks + later > 0 || accumulate",
        "ks + later > 0 || accumulate || work.begin > 0",
        "a piece that begins with the sums of the last one",
        PIECES,
        SMALL,
    ),
    (
        TILE,
        "channel = work.group * group_channels + c",
        "channel = c",
        "every group sees the first one's channels",
        SHAPES,
        SMALL,
    ),
    (
        TILE,
        "work.group, m, work.piece);",
        "work.group, m, 0);",
        "every piece stored as the first",
        PIECES,
        SMALL,
    ),
    # ---- rounds of two steps
    (KERNEL, "a + (later * STAGE", "a + (0 * STAGE", "the first step's pixels for both", SHAPES, SMALL),
    (KERNEL, "b + (later * STAGE", "b + (0 * STAGE", "the first step's filters for both", SHAPES, SMALL),
    (
        KERNEL,
        "mbarrier_wait(&barriers.full[place.stage + later]",
        "mbarrier_wait(&barriers.full[place.stage]",
        "the second step multiplied when the first has landed",
        ORDERS,
        SMALL,
    ),
    (
        KERNEL,
        "place.stage + later - 1",
        "place.stage + later",
        "a round's second stage given back before it is multiplied",
        ORDERS,
        SMALL,
    ),
    (
        KERNEL,
        "(accumulate)\n          release(before + ROUND - 1)",
        "(accumulate)\n          release(before)",
        "a round's first stage given back twice",
        ORDERS,
        SMALL,
    ),
    (
        KERNEL,
        "place.advance(ROUND)",
        "place.advance()",
        "rounds that begin with a second stage",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "later > 0 && left == 1",
        "later > 0 && left == 0",
        "what lies in an empty stage multiplied",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "KS * 32 * (T::BM + T::BN));",
        "KS * 32 * (T::BM + T::BN) << (step + 1 == work.end && stages_end > work.end));",
        "twice the bytes expected of a step alone in its round",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "mbarrier_arrive(full);",
        "",
        "consumers that wait for what does not come",
        SHAPES,
        SMALL,
    ),
    (
        KERNEL,
        "step < stages_end",
        "step < work.end",
        "a tile that begins with a second stage",
        ODD,
        SMALL,
    ),
    (
        KERNEL,
        "left < 0) release(before);",
        "left < 0) {}",
        "the stage of an odd last step kept",
        ODD,
        SMALL,
    ),
    # ---- maps
    (
        HOST,
        "{(s.q - 1) * s.stride_w - s.pad_w - (s.w - 1)",
        "{(s.q - 1) * s.stride_w - s.pad_w - s.w",
        "rows of windows that end a pixel early",
        SHAPES,
        SMALL,
    ),
    (
        HOST,
        "static_cast<uint32_t>(s.stride_w), static_cast<uint32_t>(s.stride_h)",
        "static_cast<uint32_t>(s.stride_h), static_cast<uint32_t>(s.stride_w)",
        "steps of the map swapped",
        SHAPES,
        SMALL,
    ),
    (
        HOST,
        "{pixel, s_ * pixel, r * s_ * pixel}",
        "{pixel, r * pixel, r * s_ * pixel}",
        "filters' rows as far apart as their columns",
        SHAPES,
        SMALL,
    ),
    (
        HOST,
        "steps.chunks * steps.channels == group_channels",
        "steps.chunks > 0",
        "steps that reach into the next group",
        LIMITS,
        SMALL,
    ),
    (
        HOST,
        "s.stride_w <= 8 && s.stride_h <= 8",
        "s.stride_w <= 9 && s.stride_h <= 9",
        "steps that no map takes",
        LIMITS,
        SMALL,
    ),
    (HOST, "corner[i] < -128", "corner[i] < -129", "corners that no map takes", LIMITS, SMALL),
]

# ---- dgrad: filters across the reduction, turned round; the mask
_SOME = "test_dgrad and emulator and (as_conv2 or back or beyond) and not several"
BACK = ("test_conv_wgmma.py", f"{_SOME} and 128x128")
BACK_TALL = ("test_conv_wgmma.py", f"{_SOME} and 384x48")
BACK_WIDE = ("test_masked_dgrad.py", "test_masks_of_ragged and emulator and wide and 128x192_bf16")
BACK_192 = ("conv2d_dgrad_wgmma128x192_bf16.cu",)
BACK_128, BACK_48 = ("conv2d_dgrad_wgmma128x128_bf16.cu",), ("conv2d_dgrad_wgmma384x48_bf16.cu",)
BUGS += [
    (TILE, "s.r - 1 - tap_h, filter", "tap_h, filter", "rows of filters not turned round", BACK, BACK_128),
    (DGRAD, "s.r - 1 - s.pad_h", "s.pad_h", "the layer's padding for that of its gradient", BACK, BACK_128),
    (
        TILE,
        "8 * SPAN<T>, SPAN<T>, BLOCK_BYTES<T>)",
        "8 * SPAN<T>, SPAN<T>, BLOCK_BYTES<T> / 2)",
        "columns that follow 32 rows of the reduction",
        BACK,
        BACK_128,
    ),
    (TILE, "16 * SPAN<T> / 16", "8 * SPAN<T> / 16", "products 8 rows apart", BACK, BACK_128),
    (TILE, "work.n0 + block * COLUMNS<T>,", "work.n0,", "the first columns in every block", BACK, BACK_128),
    (TILE, "filter = work.group * (s.c / s.groups) + c", "filter = c", "one group's filters", BACK, BACK_128),
    (TILE, "if (part > 0)", "if (part > 9)", "the mask of the first 64 rows for all", BACK_TALL, BACK_48),
    (TILE, "word, place.pair * 4)", "word, 0)", "the mask read by one lane for all four", BACK, BACK_128),
    (TILE, "ahead, 4) >> place.pair", "ahead, 4)", "all four lanes masked as the first", BACK, BACK_128),
    (TILE, "(both & 2) != 0", "(both & 1) != 0", "columns of a pair masked as the first", BACK, BACK_128),
    (TILE, "bits[index % 2]", "bits[0]", "rows masked as the ones 8 before", BACK, BACK_128),
    (ELEMENTS, "v[5] = high(q.z)", "v[5] = low(q.z)", "a mask's element for its neighbour", BACK, BACK_128),
    (
        TILE,
        "const int run = word * 128",
        "const int run = 0",
        "the first 128 columns' mask",
        BACK_WIDE,
        BACK_192,
    ),
    (HOST, ": TensorSwizzle::k32;", ": TensorSwizzle::k64;", "a wider swizzle", BACK_TALL, BACK_48),
    (
        DGRAD,
        "s.stride_h == 1 && s.stride_w == 1 && wgmma_supports",
        "s.stride_h == 1 && wgmma_supports",
        "strided columns taken",
        ("test_conv_wgmma.py", "test_limits_of_dgrad"),
        BACK_128,
    ),
]

# ---- TF32
TF32, TF32_SMALL = (
    ("test_conv_wgmma.py", "test_tf32 and emulator and as_conv2 and 128x128"),
    ("conv2d_fprop_wgmma128x128.cu",),
)
BUGS += [
    (HOST, "TensorElement::kTf32;", "TensorElement::kFloat32;", "operands cut off", TF32, TF32_SMALL),
    (TILE, "wgmma_m64k8_tf32<BN>(d, a, b, accumulate)", "wgmma_m64k8_tf32<BN>(d, a, b, 1)",
     "sums that never begin", TF32, TF32_SMALL),
]  # fmt: skip

# ---- dgrad in TF32: the pass that turns filters, scratch memory for them and the pieces, the mask in bits
TURN = "conv/hopper/turn_filters.h"
_ENDS = "test_dgrad and emulator and (ends_within or three_groups or few)"
TURNED = ("test_dgrad_tf32.py", f"{_ENDS} and 128x192")
TURNED_ORDERS = ("test_dgrad_tf32.py", "test_every_order and ends_within and 128x192")
TURNED_TALL = ("test_dgrad_tf32.py", "test_dgrad and emulator and three_groups and 384x48")
TURNED_ROWS = ("test_dgrad_tf32.py", "test_dgrad and emulator and few_filters and 384x48")
TURNED_PIECES = ("test_dgrad_tf32.py", "test_pieces and emulator and 128x192")
TURNED_LIMITS = ("test_dgrad_tf32.py", "test_the_kernels_take or test_the_pass")
TURNED_192, TURNED_48 = ("conv2d_dgrad_wgmma128x192.cu",), ("conv2d_dgrad_wgmma384x48.cu",)
BUGS += [
    (file, plant, instead, what, tests, TURNED_48 if tests[1].endswith("384x48") else TURNED_192)
    for file, plant, instead, what, tests in (
        # ---- the pass
        (TURN, "taps + taps - 1 - tap)", "taps + tap)", "filters not turned round", TURNED),
        (TURN, "taps + taps - 1 - tap)", "taps + (s.r - 1 - tap / s.s) * s.s + tap % s.s)",
         "rows of filters turned, but not columns", TURNED),
        (TURN, "v[e] = tile[row][four + e]", "v[e] = tile[four + e][row]", "filters not transposed", TURNED),
        (TURN, "(group * channels + c0 + row)", "(c0 + row)", "all groups' filters over the first's", TURNED),
        (TURN, "(group * filters + k0 + row)", "(k0 + row)", "the first group's filters for all", TURNED),
        (TURN, "  __syncthreads();\n", "", "filters that other threads have not brought", TURNED_ORDERS),
        (TURN, "&& k0 + four < filters)", "&& k0 + four < filters - 4)", "four filters left out", TURNED),
        # ---- scratch memory
        (DGRAD, "static_cast<char*>(workspace) + turned_filters<T>(shape)", "static_cast<char*>(workspace)",
         "pieces over the filters", TURNED_PIECES),
        (DGRAD, "    w = filters;\n", "", "filters as the layer has them", TURNED),
        # ---- the mask
        (TILE, "lane ^ ahead, 4)", "lane, 4)", "odd rows masked as other columns", TURNED),
        (TILE, "rows(place.row + 8 * half)", "rows(place.row)", "the mask of the rows 8 before", TURNED),
        (TILE, "1u << (at + e)", "1u << (at + (e ^ 1))", "a column masked as its neighbour", TURNED),
        (TILE, "if (!(v[e] <= 0.f))", "if (v[e] > 0.f)", "nothing passes where the mask is NaN", TURNED),
        (TILE, "row * args.shape.k + column0", "row * args.shape.k", "one group's mask", TURNED_TALL),
        (TILE, "if (part > 0) finish.begin(RowsFrom", "if (part > 1) finish.begin(RowsFrom",
         "bits of the 64 rows before", TURNED_ROWS),
        # ---- what is taken
        (DGRAD, "return turning + wgmma_cost", "return wgmma_cost", "a pass for nothing", TURNED_LIMITS),
    )
] + [
    (HOST, "if (T::BM > 256 && single_pixels(s)) return false;", "", "boxes of more rows than maps have",
     TURNED_LIMITS, TURNED_48),
]  # fmt: skip

# ---- wgrad: both operands across the reduction, sums that leave transposed, dy's beside them
_WEIGHTS = "test_wgrad and emulator and (as_conv2 or wide_blocks or ten_steps or strided_pixels)"
WEIGHTS = ("test_conv_wgmma.py", f"{_WEIGHTS} and 256x96")
WEIGHTS_ORDERS = ("test_conv_wgmma.py", "test_every_order and (ten_steps or wide_blocks) and 256x96")
WEIGHTS_PIECES = ("test_conv_wgmma.py", "test_pieces and emulator and 256x96")
WEIGHTS_EXACT = ("test_wgrad_tf32.py", "test_integers and emulator and 256x96_bf16")
WEIGHTS_LIMITS = ("test_conv_wgmma.py", "test_limits_of_wgrad")
WEIGHTS_96 = ("conv2d_wgrad_wgmma256x96_bf16.cu",)
BUGS += [
    (ACROSS, plant, instead, what, tests, WEIGHTS_96)
    for plant, instead, what, tests in (
        # ---- operands
        ("16 * A_SPAN / 16", "8 * A_SPAN / 16", "products of weights 8 pixels apart", WEIGHTS),
        ("8 * A_SPAN, A_SPAN, A_BLOCK", "16 * A_SPAN, A_SPAN, A_BLOCK", "every other 8 pixels", WEIGHTS),
        ("A_SPAN, A_BLOCK_BYTES<T>);", "A_SPAN, A_BLOCK_BYTES<T> / 2);", "blocks half as far apart", WEIGHTS),
        ("if (++x == s.s) x = 0, ++y;", "if (++x == s.s) ++y;", "taps that leave their filter", WEIGHTS),
        ("? channel + at * Side::CHANNELS : s.c", "? channel : s.c", "the first channels for all", WEIGHTS),
        ("chunk = block % args.chunks", "chunk = 0", "tiles that begin with a tap's first channels", WEIGHTS),
        ("channel = work.group * (args.shape.c / args.shape.groups);", "channel = 0;",
         "the first group's channels for all", WEIGHTS),
        ("filter = work.group * (s.k / s.groups) + work.n0", "filter = work.n0", "one group's dy", WEIGHTS),
        ("pixel += T::BK;", "pixel += T::BK / 2;", "pixels multiplied twice", WEIGHTS),
        ("pixel(work_.begin * T::BK)", "pixel(0)", "pieces of the same pixels", WEIGHTS_PIECES),
        ("np % s.p * s.stride_h", "np % s.p * s.stride_w", "rows of pixels as far apart as columns", WEIGHTS),
        # ---- the way out
        ("(row / 4 ^ in_8) * 16", "(row / 4) * 16", "sums that are not swizzled", WEIGHTS),
        ("place.row / RUN * HALF", "place.row / RUN * 0", "weights over those of the other half", WEIGHTS),
        ("(c * RUN / 8 + j) * 4 + 2 * half + e", "(c * RUN / 8 + j) * 4 + 2 * e + half", "sums turned",
         WEIGHTS),
        ("written by threads\n        named_barrier_sync(1 + warpgroup, T::WARPGROUP);", "written by threads",
         "weights stored that other warps have not written", WEIGHTS_ORDERS),
        ("tma_store_wait_read<T::STORES - 1>();", "tma_store_wait_read<T::STORES>();",
         "sums in a buffer that is being read", WEIGHTS_ORDERS),
        ("buffer + HALF, m + RUN, work.n0", "buffer + HALF, m, work.n0",
         "the second 32 weights over the first", WEIGHTS),
        ("work.n0 + c * RUN, work.group, work.piece);\n          if",
         "work.n0 + c * RUN, work.group, 0);\n          if",
         "every piece of weights stored as the first", WEIGHTS_PIECES),
        # ---- db
        ("? T::BN / Backward::COLUMNS<T> : 0", "? T::BN / Backward::COLUMNS<T> - 1 : 0",
         "filters without a warp", WEIGHTS),
        ("at ^ (at / 128 % (SPAN / 16)) * 16", "at", "dy read as if it were not swizzled", WEIGHTS),
        ("pixel = lane / PAIRS; pixel", "pixel = 0; pixel", "some pixels for all", WEIGHTS),
        ("other = PAIRS; other < 32", "other = PAIRS; other < 16", "half of the lanes' sums", WEIGHTS),
        ("        if (lane == 0) mbarrier_arrive(&barriers.empty[place.stage]);\n", "",
         "a stage that sums keep", WEIGHTS),
        ("work.piece * args.piece + work.group", "work.group", "all pieces' sums as the first's",
         WEIGHTS_PIECES),
        ("args.piece + work.group * (args.shape.k / args.shape.groups);", "args.piece;",
         "every group's sums as the first's", WEIGHTS),
        ("lane % 2 == 0 ? even : odd", "even", "every other filter's sum twice", WEIGHTS),
        ("if (filter < args.shape.k", "if (filter <= args.shape.k", "a sum of the next group's filter",
         WEIGHTS_EXACT),
    )
] + [
    (WGRAD, plant, instead, what, tests, WEIGHTS_96)
    for plant, instead, what, tests in (
        ("T::BK, swizzle_of(channels * sizeof(E))", "T::BK, swizzle_of(128)",
         "narrow blocks swizzled as wide ones", WEIGHTS),
        ("s.c / s.groups % kWide<T> == 0 ||", "s.c / s.groups % 16 == 0 ||", "blocks of two taps", WEIGHTS),
        ("swizzle_of(SPAN)", "swizzle_of(2 * SPAN)", "dy swizzled as what is wider", WEIGHTS),
        ("s.c / s.groups % 16 == 0) && maps", "s.c / s.groups % 8 == 0) && maps", "half blocks taken",
         WEIGHTS_LIMITS),
        ("{row, filters * row, static_cast<uint64_t>(4 * piece)}",
         "{row, filters * row, groups * filters * row}", "pieces without room for db", WEIGHTS_PIECES),
    )
]  # fmt: skip
