"""Bugs for test_planted_bugs.py: tiles that blocks share (conv/hopper/stream_k.h)."""

SHARES, HOST, LAYOUT, KERNEL, HALO, TILE = (
    f"conv/hopper/{name}.h"
    for name in ("stream_k", "stream_k_product", "product", "wgmma_kernel", "halo", "wgmma_tile")
)
_FILE, _RING, _STRIPS = "test_stream_k.py", "fprop_wgmma128x128_bf16", "fprop_wgmma_halo256x128_bf16"
# Shares that end where tiles do not, too.
RING = (_FILE, f"test_kernel and emulator and {_RING} and (deep- or strided or towers)")
STRIPS = (_FILE, f"test_kernel and emulator and {_STRIPS} and (deep- or narrow or short)")
BOTH = (_FILE, f"test_kernel and emulator and (deep- or short) and ({_RING} or {_STRIPS})")
MASK = (_FILE, "test_kernel and emulator and deep_back and dgrad_wgmma_halo384x96_bf16")
TALL = (_FILE, "test_kernel and emulator and deep- and fprop_wgmma384x96_bf16")
WAVE = (_FILE, f"test_kernel and emulator and a_wave_and_more and {_RING}")
ORDER = (_FILE, f"test_parts_are_added and emulator and ({_RING} or {_STRIPS})")
EVERY = (_FILE, "test_every_row_shares or test_what_cannot_be_shared")
SCRATCH = (_FILE, f"test_scratch_memory and {_RING}")
_REBUILD = {
    MASK: ("conv2d_dgrad_wgmma_halo384x96_bf16.cu",),
    TALL: ("conv2d_fprop_wgmma384x96_bf16.cu",),
    STRIPS: ("conv2d_fprop_wgmma_halo256x128_bf16.cu",),
    BOTH: ("conv2d_fprop_wgmma128x128_bf16.cu", "conv2d_fprop_wgmma_halo256x128_bf16.cu"),
    ORDER: ("conv2d_fprop_wgmma128x128_bf16.cu", "conv2d_fprop_wgmma_halo256x128_bf16.cu"),
}

BUGS = [
    (*bug, _REBUILD.get(bug[-1], ("conv2d_fprop_wgmma128x128_bf16.cu",)))
    for bug in (
        # ---- which steps are whose
        (SHARES, "* share / shares)", "* share / (shares + 1))", "steps that nobody has", BOTH),
        (SHARES, "from = first % stream_k.steps;", "from = 0;", "shares that begin with a tile", BOTH),
        (SHARES, "stream_k.steps - from, from = 0;", "stream_k.steps - from;",
         "a share's second tile begun where its first one was", BOTH),
        (SHARES, "left -= stream_k.steps - from, from", "left -= stream_k.steps, from",
         "a second tile that is left to nobody", BOTH),
        (SHARES, "left > 0 ? tile + 1 : blockIdx.x", "left > 0 ? tile : blockIdx.x",
         "one tile twice", BOTH),
        (SHARES, "left > 0 ? tile + 1 : blockIdx.x", "left > 0 ? tile + 1 : tile + gridDim.x",
         "whole tiles counted from a shared one on", WAVE),
        (SHARES, "end = min(from + left, stream_k.steps);", "end = stream_k.steps;",
         "parts that end with their tile", BOTH),
        # ---- where parts lie, and in which order they are added
        (SHARES, "return share + tile;", "return share;", "a share's two parts in one place", BOTH),
        (SHARES, "return share + tile;", "return tile;", "all parts of a tile in one place", BOTH),
        (SHARES, "(step + 1) * shares - 1", "(step + 1) * shares", "parts of the next tile added", BOTH),
        (SHARES, "slot(blockIdx.x, tile - work)", "slot(blockIdx.x, tile)",
         "parts behind those of as many tiles as are whole", WAVE),
        (TILE, "(of * 64 + half * 8) * T::BN", "of * 64 * T::BN", "rows 8 apart in one place", RING),
        (TILE, "place.row) * T::BN + place.pair;", "place.row) * T::BN;",
         "one lane's columns for four", RING),
        (TILE, "warpgroup * T::PARTS * 64 + place.row", "warpgroup * 64 + place.row",
         "one consumer's rows over the other's", TALL),
        (HOST, "load_constant(sum, part_of(first));\n  for (int share = first + 1; share <= last; ++share)",
         "load_constant(sum, part_of(last));\n  for (int share = last - 1; share >= first; --share)",
         "the last part first", ORDER),
        (HOST, "load_constant(sum, part_of(first));\n  for (int share = first + 1; share <= last; ++share)",
         "load_constant(sum, part_of(last));\n  for (int share = first; share < last; ++share)",
         "the part that is made last before the others", ORDER),
        (HOST, "share <= last; ++share", "share < last; ++share", "the last part left out", BOTH),
        # ---- what becomes of a sum, and where it goes
        (HOST, "const int of_all = group * columns + n;", "const int of_all = n;",
         "outputs and bias of the first group for all", RING),
        (HOST, "sum[e] = sum[e] < 0.f ? 0.f : sum[e];", "sum[e] = sum[e];", "sums that stay negative", RING),
        (HOST, "if (epilogue.mask != nullptr)", "if (false)", "no mask", MASK),
        (HOST, "from * 2 + row / positions", "from * 2", "one strip's outputs twice", STRIPS),
        (HOST, "int index = args.work + tile;", "int index = tile;",
         "sums of the last tiles for the first ones", WAVE),
        (LAYOUT, "std::max(std::min(args.work, kMultiprocessors), args.stream_k.shares)",
         "std::max(std::min(args.work, kMultiprocessors), args.stream_k.tiles)",
         "blocks for whole tiles alone", RING),
        # ---- tiles of strips: parts that begin within a step of channels
        (HALO, "int chunk = work.begin / taps, tap_h", "int chunk = 0, tap_h",
         "filters of the first step of channels", STRIPS),
        (HALO, "tap_h = first / args.shape.s, tap_w", "tap_h = 0, tap_w",
         "filters of the first row of taps", STRIPS),
        (HALO, "tap_w = first % args.shape.s;", "tap_w = 0;", "filters of a row's first tap", STRIPS),
        (HALO, "if (tap_h == args.shape.r) tap_h = 0, ++chunk;", "if (tap_h == args.shape.r) ++chunk;",
         "taps that go on behind a filter", STRIPS),
        (HALO, "for (int chunk = work.begin / taps; chunk", "for (int chunk = 0; chunk",
         "pixels of steps that are not this block's", STRIPS),
        (HALO, "chunk * taps < work.end", "chunk < args.chunks", "pixels that nobody multiplies", STRIPS),
        (HALO, "int offset = tap / args.shape.s * args.pitch + tap_w;", "int offset = 0;",
         "the first tap's pixels", STRIPS),
        (HALO, "tap = 0, offset = 0;", "tap = 0;", "a part's first tap for each step of channels", STRIPS),
        (HALO, "tap = 0, offset = 0;", "offset = 0;",
         "steps of channels as short as a part's first one", STRIPS),
        (HALO, "max(left + tap - taps, 0)", "max(left - taps, 0)",
         "taps behind a filter in a part's first step of channels", STRIPS),
        (HALO, "    if (block.sharing()) continue;  // its sums", "    // its sums",
         "a warp that waits for outputs that do not come", STRIPS),
        # ---- which tiles are shared
        (HOST, "if (shares <= tail ||", "if (shares < tail ||",
         "a block for each tile that is shared", EVERY),
        (HOST, "(plan.shares + plan.tiles - 1) * t.bm", "(plan.shares + plan.tiles) * t.bm",
         "memory for a part that there is not", SCRATCH),
        (LAYOUT, "if (splits <= 0) layout.shared", "layout.shared",
         "tiles that are shared although none are to be", EVERY),
    )
]  # fmt: skip
