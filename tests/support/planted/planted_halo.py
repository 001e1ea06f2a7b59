"""Bugs for test_planted_bugs.py: the convolutions whose taps share a load of pixels (conv/hopper/halo.h)."""

HALO, HOST, TILE = (f"conv/hopper/{name}.h" for name in ("halo", "halo_product", "wgmma_tile"))
_FILE, _LEAST, _ORDER = "test_conv_halo.py", "256x128_bf16", "test_orders_of and {} and 256x128_bf16"
SHAPES = (_FILE, f"test_kernel and emulator and {_LEAST} and not several and not reduced")
# Both buffers of channels are used more than twice.
ORDERS = (_FILE, f"test_every_order and five_steps and {_LEAST}")
# And blocks have more tiles than one; strips end where the next one begins; loads bring more than is read.
SEVERAL, STRIPS, LONG = (
    (_FILE, _ORDER.format(name))
    for name in ("several_strips", "odd_strips", "strips and not (odd or several_strips)")
)
MASK = (_FILE, "test_kernel and emulator and dgrad and 384x96_bf16 and not several and not reduced")
LIMITS = (_FILE, "test_what_they_take")
BACK = (_FILE, "test_what_they_take and dgrad")
FPROP, DGRAD = ("conv2d_fprop_wgmma_halo256x128_bf16.cu",), ("conv2d_dgrad_wgmma_halo384x96_bf16.cu",)

BUGS = [
    (*bug, DGRAD if bug[-1] in (MASK, BACK) else FPROP)
    for bug in (
        # ---- phases and parities, counts of barriers
        (HALO, "barriers.pixels_empty[buffer.stage], buffer.parity ^ 1)",
         "barriers.pixels_empty[buffer.stage], buffer.parity)",
         "pixels that wait until others are multiplied", SHAPES),
        (HALO, "barriers.pixels_full[buffer.stage], buffer.parity)",
         "barriers.pixels_full[buffer.stage], 0)",
         "from the third step of channels on pixels read before they are there", ORDERS),
        (HALO, "buffer.advance();\n    }\n  }\n}", "buffer.stage ^= 1;\n    }\n  }\n}",
         "a producer's parity that does not turn", ORDERS),
        (HALO, "mbarrier_init(&barriers.pixels_empty[buffer], PRODUCER / 32)",
         "mbarrier_init(&barriers.pixels_empty[buffer], PRODUCER / 64)",
         "pixels replaced when one warpgroup has multiplied them", ORDERS),
        (HALO, "mbarrier_init(&barriers.empty[stage], PRODUCER / 32)",
         "mbarrier_init(&barriers.empty[stage], PRODUCER / 64)",
         "filters replaced when one warpgroup has multiplied them", ORDERS),
        (HALO, "PLANES * args.box * 16", "PLANES * args.plane * 16",
         "bytes expected that no load brings", SHAPES),
        (HALO, "PLANES * args.box * 16", "PLANES * args.box * 8", "half of the bytes waited for", ORDERS),
        (HALO, "wgmma_wait<1>();", "wgmma_wait<2>();", "what is being multiplied given back", ORDERS),
        (HALO, "wgmma_wait<0>(acc);", "wgmma_wait<1>(acc);", "sums read before they are there", ORDERS),
        (HALO, "        wgmma_fence();\n", "", "products without a fence", SHAPES),
        (HALO, "if (accumulate) release(before);", "if (accumulate) release(&barriers.empty[place.stage]);",
         "filters given back while they are multiplied", ORDERS),
        (HALO, "first = accumulate;", "first = 1;",
         "pixels given back by a tile that has not multiplied any", ORDERS),
        (HALO, "      emptied = &barriers.pixels_empty[buffer.stage];\n", "",
         "the first buffer given back for both", ORDERS),
        # ---- which pixels
        (HALO, "args.pitch - args.shape.s)", "args.pitch - args.shape.s + 1)",
         "rows of taps a pixel apart", SHAPES),
        (HALO, "args.shape.s) tap_w = 0, a =", "args.shape.s) a =", "rows of taps that wrap once", SHAPES),
        (HALO, "along_k = 2 * args.plane", "along_k = args.plane", "products a plane apart", SHAPES),
        (HALO, "further(a, ks * along_k + part * 64)", "further(a, ks * along_k)",
         "the first 64 positions for all",
         MASK),
        (HALO, "+ warpgroup * layout.strip, 128", "+ 0 * layout.strip, 128",
         "one strip for both warpgroups", SHAPES),
        (HALO, "const Strip strip(args, work.strip + of);", "const Strip strip(args, work.strip);",
         "one strip loaded for both warpgroups", SHAPES),
        (HALO, "-s.pad_w, strip.row - s.pad_h", "-s.pad_w, strip.row",
         "rows that begin without padding", SHAPES),
        (HALO, "channel = work.group * (s.c / s.groups) + ", "channel = ",
         "one group's pixels for all", SHAPES),
        (HALO, "(strip % args_.strips * args_.strip_rows)", "(strip % args_.strips * (args_.strip_rows - 1))",
         "strips that begin in the one before", SHAPES),
        (HALO, "ks || accumulate", "ks || left < args.shape.r * args.shape.s",
         "sums of the last channels", SHAPES),
        (HOST, "s.w + std::max(s.pad_w, right), s.q)", "s.w + s.pad_w, s.q)",
         "rows without padding on the right",
         SHAPES),
        (HOST, "std::max(s.w + std::max(s.pad_w, right), s.q)", "s.w + std::max(s.pad_w, right)",
         "outputs without a position", SHAPES),
        (HOST, "last_read / h.pitch + 1;", "last_read / h.pitch;",
         "a row of pixels that is not loaded", SHAPES),
        (HOST, "std::max(h.box_rows * h.pitch, read)", "read", "planes over the last one's end", LONG),
        (HOST, "ceil_div(1 << 20, h.pitch)", "(1 << 20) / h.pitch",
         "first columns taken for the last row's", SHAPES),
        # ---- the way out
        (HALO, "position - down * args.pitch, p = row + down", "position - down * args.pitch, p = row",
         "all of a strip's rows in its first", SHAPES),
        (HALO, "q < args.shape.q && down", "(q < args.shape.q || p + 1 < args.shape.p) && down",
         "columns behind the last one stored", STRIPS),
        (HALO, "down < args.strip_rows && ", "", "rows behind the strip's stored", STRIPS),
        (HALO, "p < args.shape.p && image", "p < args.shape.p - 1 && image",
         "an image's last row left out", SHAPES),
        (HALO, "image < args.shape.n;", "image < args.shape.n - 1;", "the last image left out", SHAPES),
        (HALO, "(chunk ^ row % 8) * 16", "chunk * 16", "outputs read as if they were not swizzled", SHAPES),
        (HALO, "T::WARPGROUP + 32);", "T::WARPGROUP);", "outputs read before all have been written", ORDERS),
        (HALO, "      turn ^= 1;\n      halo_pass", "      halo_pass",
         "outputs always in the first buffer", SHAPES),
        (HALO, "if (c * COLUMNS >= columns) continue;", "", "columns that nobody takes", SHAPES),
        (HALO, "T::BUFFERS * buffer + warpgroup", "buffer + warpgroup",
         "outputs over the second buffer", SEVERAL),
        (HALO, "work.group * group_columns + column)", "column)",
         "all groups' outputs as the first's", SHAPES),
        # ---- bias and mask
        (TILE, "    named_barrier_sync(1 + threadIdx.x / T::WARPGROUP, T::WARPGROUP);\n  }\n", "  }\n",
         "a bias added that other warps have not read", ORDERS),
        (TILE, "column < T::BN; column += T::WARPGROUP", "column < T::BN / 2; column += T::WARPGROUP",
         "half of the columns' bias", SHAPES),
        (HALO, "strip.output(first + r)", "strip.output(r)",
         "the mask of the first 64 positions for all", MASK),
        (HALO, "if (part > 0) finish.begin(StripRows{strip, part * 64});", "",
         "the first 64 mask bits kept", MASK),
        # ---- what is taken
        (HOST, "s.stride_h != 1 || s.stride_w != 1", "s.stride_h != 1", "strided columns taken", LIMITS),
        (HOST, "s.pad_h < 0 || s.pad_w < 0", "s.pad_h < 0",
         "rows taken whose first pixels no window meets", BACK),
        (HOST, "s.q > T::POSITIONS", "s.q > T::POSITIONS + 1", "rows taken that no strip has", LIMITS),
        (HOST, "+ pixels <= T::SHARED_BYTES", "+ pixels <= 2 * T::SHARED_BYTES",
         "more than fits taken", LIMITS),
    )
]  # fmt: skip
