"""Tiles that several blocks share (kernels/conv/hopper/stream_k.h): ``NAME/stream-k``.

``NAME`` alone shares them where the heuristic says so, in other tests as well, ``NAME/1`` never. Here every
row shares: shares end anywhere in a tile, behind a wave of whole tiles or without one; parts are added in the
order of their steps, whoever comes first.
"""

import itertools

import numpy as np
import pytest
from support.helpers import Scratch, filled_with_nan, same_bits
from support.kernels.conv_problems import (
    DIRECTIONS,
    PLAIN,
    compute,
    cuts,
    kernels,
    listed,
    problem,
    shape_of,
    shared,
    shared_bytes,
    slow,
    table,
    tile_of,
)
from support.kernels.conv_shapes import Conv, alexnet_convs
from test_conv_bf16 import BF16, F32
from test_conv_halo import PRECISION, dtype_of, in_every_order, run
from test_conv_wgmma import NASTY, ORDERS, SAME1, SAME2

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops.conv import capability
from pyconvnet.ops.core import STREAM_K

OPS = ("conv2d", "conv2d_dgrad")
MULTIPROCESSORS = 132
CASES = [
    # Shares end within a tile, within a step of channels, within a round of two steps; tiles that are ragged.
    Conv("deep", (3, 9, 13, 320), (136, 3, 3, 320), pad=SAME1),
    Conv("deep_back", (3, 9, 13, 136), (320, 3, 3, 136), pad=SAME1),
    Conv("towers", (2, 13, 12, 384), (384, 3, 2, 192), pad=((1, 1), (0, 1)), groups=2),
    Conv("narrow", (2, 11, 13, 288), (96, 5, 5, 144), pad=SAME2, groups=2),
    Conv("strided", (3, 19, 23, 256), (144, 3, 3, 256), (2, 2), pad=SAME1),
    Conv("one_pixel", (2, 13, 12, 1024), (272, 1, 1, 1024)),
    Conv("short", (5, 13, 12, 96), (64, 3, 2, 96)),
    Conv("one_tile", (1, 5, 6, 512), (48, 3, 3, 512), pad=SAME1),
    Conv("many_tiles", (1, 5, 6, 256), (69 * 128, 1, 2, 256), pad=((0, 0), (0, 1))),
    Conv("many_tiles_back", (1, 5, 6, 69 * 96), (256, 1, 2, 69 * 96), pad=((0, 0), (0, 1))),
]
#: 133 and more tiles: blocks have a share, and then a whole tile.
WAVES = {
    "conv2d": Conv("a_wave_and_more", (1, 6, 7, 64), (138 * 192, 2, 3, 64), pad=((1, 0), (1, 1))),
    "conv2d_dgrad": Conv(
        "a_wave_and_more", (1, 6, 7, 138 * 192), (64, 2, 3, 138 * 192), pad=((0, 1), (1, 1))
    ),
}
#: One tile of rows, several of columns; every output sees all of a filter. Sums are of 9 taps of 512.
IN_ORDER = {
    "conv2d": Conv("in_order", (1, 6, 7, 512), (328, 3, 3, 512)),
    "conv2d_dgrad": Conv("in_order", (1, 4, 5, 328), (512, 3, 3, 328), pad=SAME2),
}
#: The default run takes every case on these, those of many tiles on two, and on other rows one or two cases.
LEAST = (
    "conv2d_fprop_wgmma128x128_bf16", "conv2d_fprop_wgmma_halo256x128_bf16",
    "conv2d_dgrad_wgmma128x192", "conv2d_dgrad_wgmma_halo384x96_bf16",
)  # fmt: skip
FEW = {"conv2d": ("deep", "strided"), "conv2d_dgrad": ("deep_back",)}


@pytest.fixture
def device(device):
    """The emulator and, where it is of 9.0, the GPU."""
    if capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    return device


def rows(cases: list[Conv] | dict[str, Conv]) -> list:
    """One test for each direction, its cases, and each kernel that can share its tiles."""
    return [
        pytest.param(op, case, kernel, id=f"{case}-{kernel.removeprefix('conv2d_')}")
        for op in OPS
        for case in (cases if isinstance(cases, list) else [cases[op]])
        for precision in PRECISION.values()
        for kernel in kernels(op, case, precision=precision)
        if cuts(op, case, kernel, STREAM_K, precision)
    ]


EVERY = [*rows(CASES), *rows(WAVES)]


def few(parameters: list) -> list:
    """The same parameters, of which the default run takes some, sanitized builds fewer."""

    def always(op, case, kernel):
        if case.name in FEW[op]:
            return kernel in LEAST or PLAIN
        return PLAIN and kernel in (LEAST[::3] if "tile" in case.name or case is WAVES[op] else LEAST)

    return slow(parameters, always)


def least(parameters: list) -> list:
    """The same parameters, of which the default run takes :data:`LEAST`."""
    return slow(parameters, unless=lambda op, case, kernel: kernel in LEAST)


def plan_of(op: str, case: Conv, kernel: str) -> tuple[int, int]:
    """The tiles that are shared, and the blocks that share them."""
    return shared(op, shape_of(case, PRECISION[dtype_of(kernel)]).cut(STREAM_K))[kernel]


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel"), few(EVERY))
def test_kernel(op, case, kernel, device, run_on):
    """With bias and ReLU, or behind a mask, as float64 has it."""
    with run_on(device):
        run(op, case, device, f"{kernel}/stream-k")


def in_orders() -> list:
    """Each direction's first case on every kernel, with orders of the emulator: on :data:`LEAST` every order,
    by default, on others the nasty ones.
    """
    found = []
    for row in EVERY:
        op, case, kernel = row.values
        if case.name == FEW[op][0]:
            orders = (ORDERS if PLAIN else NASTY[2:]) if kernel in LEAST else NASTY
            marks = [] if kernel in LEAST else [pytest.mark.slow]
            found += [
                pytest.param(*row.values, *how, id="-".join((row.id, *how)), marks=marks) for how in orders
            ]
    return found


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel", "order", "asynchronous"), in_orders())
def test_every_order_gives_the_same_bits(op, case, kernel, order, asynchronous):
    in_every_order(op, case, f"{kernel}/stream-k", order, asynchronous)


@pytest.mark.parametrize(
    ("op", "case", "kernel"), [row for row in EVERY if row.values[1].name == FEW[row.values[0]][0]]
)
def test_scratch_memory_is_what_was_announced(op, case, kernel, device, run_on):
    """A part's sums for each pair of share and tile, behind the filters that are turned. Of what it held,
    NaN, nothing comes out.
    """
    precision, scratch = PRECISION[dtype_of(kernel)], Scratch(device)
    shape = shape_of(case, precision)
    options = {"kernel": f"{kernel}/stream-k", "dtype": dtype_of(kernel), "precision": precision}
    with run_on(device):
        result = compute(op, case, device, **options, workspace=scratch)
    assert np.isfinite(result.astype(F32)).all()
    cut = shape.cut(STREAM_K)
    assert scratch.requests == [listed(op, cut)[kernel]]
    assert scratch.requests == [listed(op, shape.cut(1))[kernel] + shared_bytes(op, cut, kernel)]


@pytest.mark.parametrize(
    ("op", "case", "kernel"), least([row for row in rows(CASES[:1]) if row.values[0] == "conv2d"])
)
def test_a_bias_at_any_address(op, case, kernel, device, run_on):
    """16 bytes at a time, or where they do not begin at a multiple of 16 one by one."""
    dtype = dtype_of(kernel)
    p = problem(case, dtype)
    longer = np.concatenate([np.full(1, np.nan, F32), p.b])
    with run_on(device):
        x, w, b = (device.asarray(a) for a in (p.x, p.w, longer))
        options = {"kernel": f"{kernel}/stream-k", "precision": PRECISION[dtype], **case.options}
        aligned, odd = (
            device.to_numpy(ops.conv2d(x, w, bias, **options)) for bias in (device.asarray(p.b), b[1:])
        )
    assert same_bits(aligned, odd)


# ---------------------------------------------------------------- in which order parts are added


def step_of(op: str, kernel: str, step: int) -> tuple[int, int, int]:
    """A step's tap of the layer's filters, and the first of its channels (of dgrad, filters)."""
    _, _, depth = tile_of(kernel)
    chunks = 512 // depth
    chunk, tap = (step // 9, step % 9) if "_halo" in kernel else (step % chunks, step // chunks)
    tap = tap if op == "conv2d" else 8 - tap
    return tap // 3, tap % 3, chunk * depth


def parts_of(steps: int, tiles: int, shares: int) -> list[list[tuple[int, int]]]:
    """Each tile's parts, steps [begin, end), where the steps of all are dealt out evenly."""
    total = tiles * steps
    ends = sorted({*(total * share // shares for share in range(shares + 1)), *range(0, total, steps)})
    return [
        [(a - tile * steps, b - tile * steps) for a, b in itertools.pairwise(ends) if a // steps == tile]
        for tile in range(tiles)
    ]


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel"), least(rows(IN_ORDER)))
def test_parts_are_added_in_the_order_of_steps(op, case, kernel, device, run_on):
    """Each part has one number, in its first step or in its last one. Large ones cancel, and leave what they
    do in this order alone: float32's sum from the first part to the last.
    """
    _, columns, depth = tile_of(kernel)
    dtype, (tiles, shares) = dtype_of(kernel), plan_of(op, case, kernel)
    every = parts_of(9 * 512 // depth, tiles, shares)
    assert tiles == -(-328 // columns)
    assert max(map(len, every)) >= 3
    w, expected = np.zeros((328, 3, 3, 512)), np.zeros(328, F32)
    for tile, parts in enumerate(every):
        own = slice(tile * columns, (tile + 1) * columns)
        for i, (begin, end) in enumerate(parts):
            number = np.float32((2.0**26, 3.0, -(2.0**26), 1.0, 5.0)[i % 5])
            w[(own, *step_of(op, kernel, end - 1 if i % 2 else begin))] = number
            expected[own] += number
    with run_on(device):
        ones = device.asarray(np.ones(case.x if op == "conv2d" else case.y, dtype))
        out = filled_with_nan(device, case.y if op == "conv2d" else case.x, dtype)
        options = {"kernel": f"{kernel}/stream-k", "out": out, "precision": PRECISION[dtype], **case.options}
        if op == "conv2d":
            ops.conv2d(ones, device.asarray(w.astype(dtype)), **options)
        else:
            filters = np.ascontiguousarray(w.transpose(3, 1, 2, 0).astype(dtype))
            ops.conv2d_dgrad(ones, device.asarray(filters), case.x, **options)
    result = device.to_numpy(out)
    assert same_bits(result, np.ascontiguousarray(np.broadcast_to(expected.astype(dtype), result.shape)))


# ---------------------------------------------------------------- which tiles are shared


def test_every_row_shares():
    """Each that multiplies operands as it finds them: behind a wave and without one, in shares that end where
    tiles do and in shares that do not.
    """
    for op, dtype in itertools.product(OPS, (BF16, F32)):
        wgmma = {name for name in table(op, dtype) if "_wgmma" in name and "_transposing" not in name}
        seen = set()
        for _, case, kernel in (
            row.values for row in EVERY if row.values[0] == op and row.values[2] in wgmma
        ):
            tiles, shares = plan_of(op, case, kernel)
            assert 0 < tiles < shares <= MULTIPROCESSORS
            shape = shape_of(case, PRECISION[dtype])
            assert shared(op, shape.cut(1))[kernel] == (0, 0)
            assert shared(op, shape)[kernel] in ((0, 0), (tiles, shares))
            seen.add((kernel, case is WAVES[op], shares % tiles == 0))
        assert {(kernel, False, even) for kernel in wgmma for even in (False, True)} <= seen
        assert {kernel for kernel, wave, _ in seen if wave} == wgmma


LISTS = [
    # 132 tiles; steps too few for a second share; what cuts its sums otherwise or not at all.
    ("conv2d", (1, 6, 7, 64), (132 * 128, 1, 1, 64), {}, "wgmma128x128"),
    ("conv2d", (1, 6, 7, 64), (64, 1, 1, 64), {}, "wgmma128x128 wgmma256x96 mma64x64"),
    ("conv2d", (1, 6, 7, 256), (64, 1, 1, 256), {}, "wgmma128x128"),
    ("conv2d", (1, 6, 7, 64), (64, 1, 2, 64), {}, "wgmma_halo256x128 wgmma_halo384x96"),
    ("conv2d_wgrad", (2, 6, 7, 64), (64, 3, 3, 64), {"pad": 1}, "wgmma256x128 mma128x128"),
    ("conv2d_dgrad", (9, 6, 7, 64), (64, 3, 3, 64), {"pad": 1, "stride": 2}, "mma128x128 mma64x64"),
]


@pytest.mark.parametrize(("op", "x", "w", "options", "names"), LISTS)
def test_what_cannot_be_shared(op, x, w, options, names):
    dev = devices.emulator()
    for name in names.split():
        kernel = f"conv2d_{DIRECTIONS[op]}_{name}_bf16"
        assert kernel in ops.kernels(op, x, w, precision="bf16", device=dev, **options)
        case = Conv("refused", x, w, (options.get("stride", 1),) * 2, ((options.get("pad", 0),) * 2,) * 2)
        with (
            ops.on(dev),
            pytest.raises(ValueError, match=f"{op}: .*'{kernel}/stream-k' .* cannot share its tiles"),
        ):
            compute(op, case, dev, f"{kernel}/stream-k", BF16)


def test_alexnet_shares_where_the_last_wave_is_ragged():
    """At batch 128 its convolutions make whole waves, as near as no matter; at others they do not."""

    def layers(batch: int) -> set[tuple[str, str]]:
        found = set()
        for case, op, precision in itertools.product(alexnet_convs(batch)[1:], OPS, PRECISION.values()):
            plans = shared(op, shape_of(case, precision))
            if plans[kernels(op, case, precision=precision)[0]] != (0, 0):
                found.add((case.name, op))
        return found

    assert layers(128) == set()
    assert len(layers(150)) >= 6
    assert len(layers(32)) >= 4
