"""The convolutions of compute capability 9.0 whose taps share a load of pixels (kernels/conv/hopper/halo.h).

``test_conv_wgmma.py``, ``test_conv_bf16.py`` and ``test_masked_dgrad.py`` run them on other shapes. Here is
what they alone have: strips of image rows, of which two make a tile, and the last may be shorter, or missing;
rows of pixels that share the zeros between them; windows that wrap from a row to the next; buffers of
channels that are used in turns; outputs by a warp; what does not fit a strip.
"""

import re

import numpy as np
import pytest
from support.helpers import assert_close, filled_with_nan, same_bits
from support.kernels.conv_problems import (
    ALEXNET,
    DIRECTIONS,
    PLAIN,
    compute,
    halo_rows,
    kernels,
    problem,
    slow,
    table,
)
from support.kernels.conv_shapes import Conv, alexnet_convs
from support.kernels.tiles import TILES
from test_conv_bf16 import BF16, F32, assert_right
from test_conv_precision import EPS_TF32, rms
from test_conv_wgmma import NASTY, ORDERS, SAME1, SAME2
from test_conv_wgmma import rows as wgmma_rows
from test_masked_dgrad import relu_output, through_relu

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import reference
from pyconvnet.ops.conv import capability

CASES = [
    # Strips: of one image several, in number odd or even, the last one shorter; images with a strip each.
    Conv("strips", (1, 35, 30, 8), (40, 3, 3, 8), pad=SAME1),
    Conv("odd_strips", (3, 38, 13, 16), (24, 3, 3, 16), pad=SAME1),
    Conv("one_strip", (1, 5, 6, 24), (24, 3, 2, 24), pad=((1, 1), (0, 1))),
    Conv("three_images", (3, 5, 7, 16), (40, 2, 3, 16), pad=((0, 1), (1, 1))),
    Conv("rows_of_one", (5, 1, 9, 16), (24, 1, 3, 16), pad=((0, 0), (1, 1))),
    Conv("one_row_high", (4, 1, 9, 16), (24, 3, 3, 16), pad=SAME1),
    Conv("row_is_strip", (1, 3, 127, 8), (16, 1, 3, 8), pad=((0, 0), (1, 1))),
    # Padding: none, uneven, on one side; as much as a filter, so that windows begin or end in zeros; more.
    Conv("unpadded", (2, 12, 11, 16), (24, 3, 3, 16)),
    Conv("uneven", (2, 9, 10, 16), (24, 3, 4, 16), pad=((2, 0), (1, 2))),
    Conv("left", (2, 6, 9, 16), (24, 2, 3, 16), pad=((0, 0), (2, 0))),
    Conv("right", (2, 6, 9, 16), (24, 2, 3, 16), pad=((0, 0), (0, 2))),
    Conv("above", (2, 6, 9, 16), (24, 3, 3, 16), pad=((2, 0), (0, 0))),
    Conv("below", (2, 6, 9, 16), (24, 3, 3, 16), pad=((0, 2), (0, 0))),
    Conv("far_right", (2, 5, 8, 16), (24, 2, 4, 16), pad=((0, 1), (1, 3))),
    Conv("far_left", (2, 5, 8, 16), (24, 2, 4, 16), pad=((1, 0), (3, 1))),
    Conv("beyond", (2, 6, 5, 16), (24, 3, 3, 16), pad=((5, 4), (4, 5))),
    Conv(
        "cropped", (2, 9, 7, 24), (64, 2, 3, 24), pad=((1, 2), (2, 3))
    ),  # of dgrad, which has none behind dy
    # Filters.
    Conv("filter_1x3", (2, 9, 11, 16), (24, 1, 3, 16), pad=((0, 0), (1, 1))),
    Conv("filter_3x1", (2, 9, 11, 16), (24, 3, 1, 16), pad=((1, 1), (0, 0))),
    Conv("filter_2x4", (2, 9, 11, 16), (24, 2, 4, 16), pad=((1, 0), (2, 1))),
    Conv("filter_5x5", (2, 9, 11, 16), (24, 5, 5, 16), pad=SAME2),
    Conv("filter_is_image", (9, 4, 5, 16), (40, 4, 5, 16)),
    # Steps of channels: many, of 96 bytes and of 128, and ones that end within; columns that end anywhere.
    Conv("five_steps", (1, 6, 7, 320), (200, 2, 2, 320), pad=((0, 1), (1, 0))),
    Conv("narrow_steps", (2, 5, 6, 144), (72, 2, 3, 144), pad=((1, 0), (1, 1))),
    Conv("ends_within", (2, 6, 5, 200), (136, 3, 2, 200), pad=((1, 1), (0, 1))),
    Conv("wide", (2, 5, 6, 64), (328, 2, 2, 64)),
    Conv("groups", (3, 6, 7, 128), (208, 3, 3, 64), pad=SAME1, groups=2),
    Conv("narrow_groups", (1, 9, 8, 144), (384, 3, 3, 48), pad=SAME1, groups=3),
]
NAMED = {case.name: case for case in CASES}
#: 138 and more tiles: blocks take a second one, and barriers, buffers and outputs go on where they are.
SEVERAL = Conv("several_groups", (5, 2, 3, 2944), (2944, 1, 2, 64), pad=((0, 0), (0, 1)), groups=46)
SEVERAL_STRIPS = Conv("several_strips", (67, 76, 5, 8), (16, 2, 1, 8), pad=((1, 0), (0, 0)))
EVERY = [*CASES, SEVERAL, SEVERAL_STRIPS]
#: The least tile of each direction, on which the default run takes every case; on the others a few.
LEAST = ("conv2d_fprop_wgmma_halo256x128_bf16", "conv2d_dgrad_wgmma_halo384x96_bf16")
FEW = ("strips", "uneven", "narrow_groups")


PRECISION = {BF16: "bf16", F32: "tf32"}


@pytest.fixture
def device(device):
    """The emulator and, where it is of 9.0, the GPU."""
    if capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    return device


def dtype_of(kernel: str) -> np.dtype:
    return BF16 if "_bf16" in kernel else F32


def rows(cases: list[Conv], ops_: tuple[str, ...] = ("conv2d", "conv2d_dgrad")) -> list:
    """One test for each direction, case and kernel of halo.h."""
    return [
        pytest.param(op, *row.values, id=row.id)
        for op in ops_
        for precision in PRECISION.values()
        for row in wgmma_rows(cases, op, precision)
        if halo_rows({row.values[1]})
    ]


def least(parameters: list) -> list:
    """The same parameters, of which the default run takes the least tiles'."""
    return slow(parameters, unless=lambda op, case, kernel, *more: kernel in LEAST)


def run(op: str, case: Conv, dev, kernel: str) -> np.ndarray:
    """Compute a case, with bias and ReLU or behind a mask, and compare with float64. ``kernel/1`` shares no
    tiles (test_stream_k.py).
    """
    dtype = dtype_of(kernel)
    p = problem(case, dtype)
    if op == "conv2d":
        options, expected = {"activation": "relu"}, np.maximum(p.y, 0)
    else:
        mask = relu_output(case.x, dtype)
        options, expected = {"mask": dev.asarray(mask)}, through_relu(p.dx, mask)
    result = compute(op, case, dev, kernel, dtype, precision=PRECISION[dtype], **options)
    if dtype == BF16:
        assert_right(result, expected, p.terms[op])
    else:
        assert_close(result, expected, p.terms[op], eps=EPS_TF32)
        assert rms(result - expected) <= EPS_TF32 * rms(expected)
    return result


def always(op, case, kernel) -> bool:
    return (kernel in LEAST and case not in ALEXNET) or case.name in FEW


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel"), slow(rows([*EVERY, *ALEXNET]), unless=always))
def test_kernel(op, case, kernel, device, run_on):
    with run_on(device):
        run(op, case, device, f"{kernel}/1")


@pytest.mark.kernels
@pytest.mark.parametrize(("order", "asynchronous"), ORDERS if PLAIN else NASTY[2:])
@pytest.mark.parametrize(
    ("op", "case", "kernel"), least(rows([NAMED[name] for name in ("narrow_groups", "five_steps")]))
)
def test_every_order_gives_the_same_bits(op, case, kernel, order, asynchronous):
    in_every_order(op, case, f"{kernel}/1", order, asynchronous)


@pytest.mark.kernels
@pytest.mark.parametrize(("order", "asynchronous"), NASTY if PLAIN else NASTY[2:])
@pytest.mark.parametrize(
    ("op", "case", "kernel"),
    slow(
        rows([NAMED["strips"], NAMED["odd_strips"], SEVERAL, SEVERAL_STRIPS]),
        unless=lambda op, case, kernel: (
            kernel in LEAST and (case in CASES or (op == "conv2d" and case is SEVERAL_STRIPS))
        ),
    ),
)
def test_orders_of_several_tiles_give_the_same_bits(op, case, kernel, order, asynchronous):
    in_every_order(op, case, f"{kernel}/1", order, asynchronous)


def in_every_order(op, case, kernel, order, asynchronous):
    dev = devices.emulator()
    try:
        dev.ext.configure(order=order, async_=asynchronous, seed=5)
        with ops.on(dev):
            result = run(op, case, dev, kernel)
            dev.ext.configure()
            assert same_bits(result, run(op, case, dev, kernel))
    finally:
        dev.ext.configure()


# ---------------------------------------------------------------- what must not come in


def outputs_of(op: str, case: Conv, dev, kernel: str, pixels: np.ndarray, bias=None) -> np.ndarray:
    """The outputs for other pixels than the case's, in an array full of NaN."""
    p = problem(case, pixels.dtype)
    out = filled_with_nan(dev, case.y if op == "conv2d" else case.x, pixels.dtype)
    options = {"kernel": kernel, "out": out, "precision": PRECISION[p.x.dtype], **case.options}
    if op == "conv2d":
        given = None if bias is None else dev.asarray(bias)
        return dev.to_numpy(ops.conv2d(dev.asarray(pixels), dev.asarray(p.w), given, **options))
    return dev.to_numpy(ops.conv2d_dgrad(dev.asarray(pixels), dev.asarray(p.w), case.x, **options))


def reach(op: str, case: Conv, bad: np.ndarray) -> np.ndarray:
    """Which outputs see any of the pixels that are bad."""
    ones = np.ones(case.w)
    if op == "conv2d":
        return reference.conv2d(bad.astype(np.float64), ones, **case.options) > 0
    return reference.conv2d_dgrad(bad.astype(np.float64), ones, case.x, **case.options) > 0


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize(
    ("op", "case", "kernel"),
    least(rows([NAMED[name] for name in ("odd_strips", "far_left", "far_right", "groups", "one_row_high")])),
)
def test_what_is_not_finite_reaches_its_windows_alone(op, case, kernel, value, device, run_on):
    """Not the next row, strip, image or group: those have the bits that they have without."""
    p = problem(case, dtype_of(kernel))
    pixels = (p.x if op == "conv2d" else p.dy).copy()
    bad = np.random.default_rng(7).random(pixels.shape) < 0.004
    bad[0, 0, -1, 0] = bad[-1, -1, 0, -1] = True  # beside another row's and another image's pixels
    reached = reach(op, case, bad)
    assert reached.any()
    assert not reached.all()
    infected = np.where(bad, np.array(value, pixels.dtype), pixels)
    for name in (f"{kernel}/1", kernel):  # tiles whole, and shared
        with run_on(device):
            clean, seen = (outputs_of(op, case, device, name, given) for given in (pixels, infected))
        np.testing.assert_array_equal(np.isfinite(seen.astype(F32)), ~reached)
        assert same_bits(np.where(reached, 0, seen), np.where(reached, 0, clean))


@pytest.mark.parametrize("image", range(3))
@pytest.mark.parametrize(("op", "case", "kernel"), least(rows([NAMED["odd_strips"], NAMED["three_images"]])))
def test_an_image_does_not_see_another(op, case, kernel, image, device, run_on):
    p = problem(case, dtype_of(kernel))
    pixels = (p.x if op == "conv2d" else p.dy).copy()
    pixels[image] = np.nan
    with run_on(device):
        seen = outputs_of(op, case, device, kernel, pixels)
    finite = np.isfinite(seen.astype(F32))
    assert [finite[i].all() for i in range(3)] == [i != image for i in range(3)]
    assert not finite[image].any() or op == "conv2d_dgrad"  # which has pixels that no window meets


@pytest.mark.parametrize(("op", "case", "kernel"), rows([NAMED["narrow_groups"]], ("conv2d",)))
def test_bias(op, case, kernel, device, run_on):
    """A column's own, whatever number; in a tile that the group's end cuts, not the next group's."""
    p = problem(case, dtype_of(kernel))
    bias = p.b.copy()
    bias[[0, 127, 128, 300]] = np.nan, np.inf, -np.inf, np.nan
    with run_on(device):
        clean, seen, without = (
            outputs_of(op, case, device, kernel, p.x, values) for values in (p.b, bias, None)
        )
    changed = np.isin(np.arange(case.w[0]), (0, 127, 128, 300))
    assert same_bits(seen[..., ~changed], clean[..., ~changed])
    for column in np.flatnonzero(changed):
        np.testing.assert_array_equal(seen[..., column].astype(F32), np.full(seen.shape[:3], bias[column]))
    assert np.isfinite(without.astype(F32)).all()
    assert not same_bits(without, clean)


# ---------------------------------------------------------------- what they take


def test_the_cases_have_what_they_are_for():
    """For each kernel: strips in even and odd numbers, last ones that are shorter and that are missing,
    windows that wrap, more tiles than blocks.
    """
    for op, dtype in ((op, dtype) for op in ("conv2d", "conv2d_dgrad") for dtype in (BF16, F32)):
        every = halo_rows(table(op, dtype))
        assert every
        seen = {
            kernel: {
                what for row in rows(EVERY, (op,)) if row.values[2] == kernel for what in has(*row.values)
            }
            for kernel in every
        }
        wanted = {"odd", "even", "shorter", "missing", "wraps", "several", "two images in a tile"}
        assert {kernel: wanted - found for kernel, found in seen.items() if found != wanted} == {}


def has(op: str, case: Conv, kernel: str) -> set[str]:
    """What a case has, with strips as halo_product.h cuts them."""
    (line,) = (tile.line for tile in TILES if tile.stem == kernel)
    rows_, columns = map(int, re.findall(r"HaloTile<(\d+), (\d+)", line)[0])
    positions = rows_ // 2
    (n, p, q, k), w, left, s = (case.y, case.x[2], case.pad[1][0], case.w[2])
    if op == "conv2d_dgrad":
        p, q, w, k, left = *case.x[1:3], case.y[2], case.x[3], s - 1 - left
    right = q + s - 2 - left - (w - 1)
    pitch = max(w + max(left, right), q)
    strips = -(-p // ((positions - q) // pitch + 1))
    length = -(-p // strips)
    tiles = -(-n * strips // 2) * case.groups * -(-k // case.groups // columns)
    facts = {
        "odd": strips > 1 and strips % 2 == 1,
        "even": strips % 2 == 0,
        "shorter": p % length != 0,
        "missing": n * strips % 2 == 1,
        "wraps": min(left, right) > 0,
        "several": tiles > 132,
        "two images in a tile": n > 1 and strips % 2 == 1,
    }
    return {what for what, true in facts.items() if true}


FPROP, DGRAD = "512x96 384x96 384x128 256x128", "896x48 384x128 384x96"
LOWER = "384x96 384x128 256x128"  # all but the one of the largest strips
X, ROW = (2, 13, 13, 64), ((1, 0), (0, 1))  # padding that keeps a row's width
LISTS = [
    # Strides, single pixels, and what of a window lies before the image's begin.
    ("conv2d", X, (64, 3, 3, 64), {}, FPROP),
    ("conv2d", X, (64, 3, 3, 64), {"stride": 2}, ""),
    ("conv2d", X, (64, 3, 3, 64), {"stride": (1, 2)}, ""),
    ("conv2d", X, (64, 3, 3, 64), {"stride": (2, 1)}, ""),
    ("conv2d", X, (64, 1, 1, 64), {}, ""),
    ("conv2d", X, (64, 1, 2, 64), {}, FPROP),
    ("conv2d", X, (64, 2, 1, 64), {}, FPROP),
    ("conv2d_dgrad", X, (64, 3, 3, 64), {}, DGRAD),
    ("conv2d_dgrad", X, (64, 3, 3, 64), {"stride": 2}, ""),
    ("conv2d_dgrad", X, (64, 3, 3, 64), {"pad": 2}, DGRAD),
    ("conv2d_dgrad", X, (64, 3, 3, 64), {"pad": ((3, 0), (0, 0))}, ""),
    ("conv2d_dgrad", X, (64, 3, 3, 64), {"pad": ((0, 0), (3, 0))}, ""),
    ("conv2d_dgrad", X, (64, 3, 3, 64), {"pad": ((0, 3), (0, 3))}, DGRAD),
    # Rows as wide as a strip, where it fits into shared memory, and as a map's box: 256 with the zeros.
    ("conv2d", (1, 3, 128, 8), (16, 2, 2, 8), {"pad": ROW}, LOWER),
    ("conv2d", (1, 3, 129, 8), (16, 2, 2, 8), {"pad": ROW}, "384x96 384x128"),
    ("conv2d_dgrad", (1, 3, 193, 64), (64, 2, 2, 64), {"pad": ROW}, "896x48"),
    ("conv2d_dgrad", (1, 3, 255, 64), (64, 1, 2, 64), {"pad": ((0, 0), (0, 1))}, "896x48"),
    ("conv2d_dgrad", (1, 3, 256, 64), (64, 1, 2, 64), {"pad": ((0, 0), (0, 1))}, ""),
    # Shared memory for the rows that windows reach, of steps of 128 bytes and of 96.
    ("conv2d", (1, 9, 30, 64), (64, 3, 3, 64), {"pad": 1}, LOWER),
    ("conv2d", (1, 9, 30, 64), (64, 5, 5, 64), {"pad": 2}, ""),
    ("conv2d", (1, 9, 30, 48), (64, 3, 3, 48), {"pad": 1}, FPROP),
    ("conv2d", (1, 9, 30, 48), (64, 5, 5, 48), {"pad": 2}, LOWER),
    ("conv2d_dgrad", (1, 9, 30, 64), (64, 7, 7, 64), {"pad": 3}, "896x48"),
    ("conv2d_dgrad", (1, 9, 30, 64), (64, 9, 9, 64), {"pad": 4}, ""),
    ("conv2d", (1, 300, 4, 8), (16, 20, 1, 8), {}, FPROP),
    ("conv2d", (1, 300, 4, 8), (16, 250, 1, 8), {}, ""),
    # Of groups whole steps.
    ("conv2d", (1, 9, 9, 128), (64, 3, 3, 64), {"groups": 2}, FPROP),
    ("conv2d", (1, 9, 9, 144), (64, 3, 3, 72), {"groups": 2}, {"bf16": "", "tf32": FPROP}),
    ("conv2d", (1, 9, 9, 80), (64, 3, 3, 40), {"groups": 2}, ""),
]


@pytest.mark.parametrize(("op", "x", "w", "options", "taken"), LISTS)
@pytest.mark.parametrize("precision", PRECISION.values())
def test_what_they_take(op, x, w, options, taken, precision):
    found = halo_rows(set(ops.kernels(op, x, w, precision=precision, device="emulator", **options)))
    names = (taken if isinstance(taken, str) else taken[precision]).split()
    suffix = "_bf16" if precision == "bf16" else ""
    assert found == {f"conv2d_{DIRECTIONS[op]}_wgmma_halo{name}{suffix}" for name in names}


@pytest.mark.parametrize("precision", PRECISION.values())
def test_alexnets_layers_have_them(precision):
    for case in alexnet_convs(128)[1:]:
        assert halo_rows(set(kernels("conv2d", case, precision=precision))), case
        assert halo_rows(set(kernels("conv2d_dgrad", case, precision=precision))), case


@pytest.mark.parametrize(("op", "case", "kernel"), rows([NAMED["five_steps"]]))
def test_the_reduction_is_not_cut_evenly(op, case, kernel):
    dev, dtype = devices.emulator(), dtype_of(kernel)
    with ops.on(dev):
        with pytest.raises(ValueError, match=f"{op}: .*{kernel} cannot cut their sums into 2 splits"):
            compute(op, case, dev, f"{kernel}/2", dtype, precision=PRECISION[dtype])
        run(op, case, dev, f"{kernel}/1")
