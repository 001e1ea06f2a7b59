"""The convolutions that the tests compute: arrays, results in float64, and the kernels that apply."""

from __future__ import annotations

import functools
import re
import zlib

import numpy as np
import pytest
from support.helpers import filled_with_nan
from support.kernels.conv_shapes import RAGGED_CONVS, Conv, reduced_convs
from support.kernels.tiles import TILES

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops.reference import conv as reference

PLAIN = devices.emulator().ext.flavour() == "plain"
TINY = reduced_convs(tiny=True)
ALEXNET = reduced_convs() if PLAIN else TINY
CASES = [*ALEXNET, *RAGGED_CONVS]
# How the names begin of shapes that between them reach every row, whole and split reductions, groups,
# strides, padding and ragged tiles: what the default run takes of the tensor cores' grids, which are the
# largest, and sanitized builds, some 30 times slower, of all.
REPRESENTATIVE = (
    "conv2_tiny", "first_overhang", "odd_extent", "rectangular", "stride_skips_taps",
    "padding_only_strided", "many_groups", "wide_filters", "many_channels", "odd_everything",
    "fast_in_odd_out", "grouped", "eight",
)  # fmt: skip
DIRECTIONS = {"conv2d": "fprop", "conv2d_dgrad": "dgrad", "conv2d_wgrad": "wgrad"}
# Shapes that between them reach every kernel, for the tests that look at something else than shapes.
FEW = [
    case
    for case in CASES
    if case.name in ("first_overhang", "rectangular", "many_pixels", "odd_everything", "many_channels")
]


def kernels(op: str, case: Conv, **options) -> list[str]:
    """The kernels that apply to a case, preferred ones first."""
    return ops.kernels(op, case.x, case.w, device="emulator", **case.options, **options)


def table(op: str, dtype=np.float32) -> set[str]:
    """The kernels of arrays of a type: the generic ones and the first layer's are of both."""
    names = getattr(devices.emulator().ext, f"conv2d_{DIRECTIONS[op]}_table")()
    if np.dtype(dtype) == np.float32:
        return {name for name in names if not name.endswith("_bf16")}
    return {name for name in names if name.endswith(("_bf16", "_generic", "_first_layer"))}


def halo_rows(names: set[str]) -> set[str]:
    """Those of conv/hopper/halo.h, which have shapes of their own and cut no reduction evenly."""
    return {name for name in names if "_halo" in name}


def shape_of(case: Conv, precision: str):
    """The kernels' shape struct of a case."""
    (n, h, w, c), (k, r, s, _), (_, p, q, _) = case.x, case.w, case.y
    return devices.emulator().ext.Conv2dShape(
        n=n, h=h, w=w, c=c, k=k, r=r, s=s, p=p, q=q, stride_h=case.stride[0], stride_w=case.stride[1],
        pad_h=case.pad[0][0], pad_w=case.pad[1][0], groups=case.groups,
        precision=("fp32", "tf32", "fp32x3", "bf16").index(precision), capability=90,
    )  # fmt: skip


def listed(op: str, shape) -> dict[str, int]:
    """{kernel: bytes of workspace} of a shape, splits included."""
    return dict(getattr(devices.emulator().ext, f"conv2d_{DIRECTIONS[op]}_kernels")(shape))


def shared(op: str, shape) -> dict[str, tuple[int, int]]:
    """{kernel: (tiles, blocks that share them)} of a shape; (0, 0): none."""
    return dict(getattr(devices.emulator().ext, f"conv2d_{DIRECTIONS[op]}_shared")(shape))


def tile_of(kernel: str) -> tuple[int, int, int]:
    """Rows, columns and elements of a step of a kernel's tile."""
    (line,) = (tile.line for tile in TILES if tile.stem == kernel)
    return tuple(map(int, re.findall(r"Tile<(\d+), (\d+), (\d+)", line)[0]))


def shared_bytes(op: str, shape, kernel: str) -> int:
    """Scratch memory of the parts of a kernel's shared tiles: share and tile number them (stream_k.h)."""
    tiles, shares = shared(op, shape)[kernel]
    rows_, columns, _ = tile_of(kernel)
    return 4 * rows_ * columns * (tiles + shares - 1) if tiles else 0


def cuts(op: str, case: Conv, kernel: str, pieces: int, precision: str) -> bool:
    """Whether a kernel takes a case with the reduction in so many pieces."""
    return kernel in listed(op, shape_of(case, precision).cut(pieces))


def reached(op: str, cases: list[Conv], precision: str) -> tuple[set[str], set[str]]:
    """The kernels that some case reaches with the reduction cut into pieces, and whole: with more scratch
    memory than they want without pieces, and as much.
    """
    cut, whole = set(), set()
    for case in cases:
        shape = shape_of(case, precision)
        least = listed(op, shape.cut(1))
        for name, nbytes in listed(op, shape).items():
            (cut if nbytes > least[name] else whole).add(name)
    return cut, whole


def rows(op: str, cases: list[Conv]) -> list:
    """One test for each case and each kernel that applies to it."""
    found = [
        pytest.param(case, kernel, id=f"{case}-{kernel.removeprefix('conv2d_')}")
        for case in cases
        for kernel in kernels(op, case)
    ]
    return found if PLAIN else representative(found)


def slow(parameters: list, unless=lambda *values: False) -> list:
    """The same parameters of tests that take --slow, but those whose values are to be run always."""
    marks = ([] if unless(*p.values) else [pytest.mark.slow] for p in parameters)
    return [pytest.param(*p.values, id=p.id, marks=m) for p, m in zip(parameters, marks, strict=True)]


def is_representative(case: Conv, kernel: str) -> bool:
    """Whether a shape is among those that show all a kernel does; only weight gradients sum over pixels."""
    return case.name.startswith(REPRESENTATIVE) or ("wgrad" in kernel and case.name == "many_pixels")


def representative(parameters: list, elsewhere: str = "") -> list:
    """The same parameters, op, ..., case, kernel, ..., of which representative shapes run by default.

    In sanitized builds but for the operation `elsewhere`, which another test there launches alike.
    """

    def always(*values):
        at = next(i for i, value in enumerate(values) if isinstance(value, Conv))
        return is_representative(*values[at : at + 2]) and (PLAIN or values[0] != elsewhere)

    return slow(parameters, always)


def once_each(parameters: list) -> list:
    """The same parameters, of which each kernel's first by default: shapes do not matter, or all alike."""
    seen = set()

    def first(op, case, kernel, *options):
        new = (kernel, *options) not in seen
        seen.add((kernel, *options))
        return new

    return slow(parameters, first)


class Problem:
    """Arrays of a case, and the three results of exactly those numbers in float64."""

    def __init__(self, case: Conv, dtype=np.float32):
        rng = np.random.default_rng(zlib.crc32(case.name.encode()))
        self.x, self.w, self.dy = (
            rng.standard_normal(shape).astype(dtype) for shape in (case.x, case.w, case.y)
        )
        self.b = rng.standard_normal(case.w[0]).astype(np.float32)
        x, w, b, dy = (a.astype(np.float64) for a in (self.x, self.w, self.b, self.dy))
        self.y = reference.conv2d(x, w, b, **case.options)
        self.dx = reference.conv2d_dgrad(dy, w, case.x, **case.options)
        self.dw = reference.conv2d_wgrad(dy, x, case.w, **case.options)
        n, p, q, k = case.y
        self.terms = {
            "conv2d": case.w[1] * case.w[2] * case.w[3] + 1,
            "conv2d_dgrad": case.w[1] * case.w[2] * k // case.groups,
            "conv2d_wgrad": n * p * q,
        }

    def expected(self, op: str) -> np.ndarray:
        return {"conv2d": self.y, "conv2d_dgrad": self.dx, "conv2d_wgrad": self.dw}[op]


problem = functools.lru_cache(maxsize=4)(Problem)


def compute(op: str, case: Conv, dev, kernel=None, dtype=np.float32, **options) -> np.ndarray:
    """One direction on a device, into an output full of NaN."""
    p = problem(case, dtype)
    x, w, b, dy = (dev.asarray(a) for a in (p.x, p.w, p.b, p.dy))
    out = filled_with_nan(dev, p.expected(op).shape, np.float32 if op == "conv2d_wgrad" else dtype)
    options = {"kernel": kernel, "out": out, **case.options, **options}
    if op == "conv2d":
        result = ops.conv2d(x, w, b, **options)
    elif op == "conv2d_dgrad":
        result = ops.conv2d_dgrad(dy, w, case.x, **options)
    else:
        result = ops.conv2d_wgrad(dy, x, case.w, **options)
    assert result is out
    return dev.to_numpy(result)
