"""The pieces of a convolution that one task computes each, and the patches of pixels that a piece sees."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from ...common.threads import ranges, scratch, zero_outside

Pair = tuple[int, int]


class Window(NamedTuple):
    """Which pixels of a source output (i, j) sees: tap (r, s) is pixel (i, j) * stride + (r, s) - origin.

    Unlike `pad`, `origin` may be negative and says nothing about the far edge: whatever lies outside is zero.
    """

    taps: Pair
    stride: Pair
    origin: Pair


class _Run(NamedTuple):
    """Along one axis: outputs [start, stop), of which exactly the taps [first, last) lie in the image."""

    start: int
    stop: int
    first: int
    last: int


class Piece(NamedTuple):
    """Images [n0, n1) and the runs of rows and columns that a task works on."""

    n0: int
    n1: int
    rows: _Run
    columns: _Run

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, rows, columns."""
        return self.n1 - self.n0, self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def taps(self) -> int:
        return (self.rows.last - self.rows.first) * (self.columns.last - self.columns.first)

    def of_output(self, array: np.ndarray) -> np.ndarray:
        """Return the piece's part of an array (N, P, Q, ...)."""
        return array[
            self.n0 : self.n1, self.rows.start : self.rows.stop, self.columns.start : self.columns.stop
        ]

    def of_filters(self, array: np.ndarray) -> np.ndarray:
        """Return the taps the piece sees, of an array (R, S, ...)."""
        return array[self.rows.first : self.rows.last, self.columns.first : self.columns.last]


def _runs(extent: int, outputs: int, taps: int, stride: int, origin: int, waste: float) -> list[_Run]:
    """Cut the outputs along one axis into runs that see the same taps, unless too few taps would be saved."""
    runs: list[_Run] = []
    for output in range(outputs):
        corner = output * stride - origin
        first, last = max(0, -corner), min(taps, extent - corner)
        if last <= first:
            first = last = 0
        if runs and runs[-1][2:] == (first, last):
            runs[-1] = runs[-1]._replace(stop=output + 1)
        else:
            runs.append(_Run(output, output + 1, first, last))
    seen = sum((run.stop - run.start) * (run.last - run.first) for run in runs)
    return runs if seen < (1 - waste) * outputs * taps else [_Run(0, outputs, 0, taps)]


@functools.lru_cache(maxsize=1024)
def cut(
    extent: Pair,
    pixel_bytes: int,
    outputs: tuple[int, int, int],
    window: Window,
    limits: tuple[int, int, int, float],
) -> tuple[Piece, ...]:
    """Cut the output (N, P, Q) of an image of `extent` into pieces, the most work first.

    `limits` are the constants PATCH_BYTES, TASKS, MIN_PATCHES and WASTE of `conv.py`.
    """
    images, rows, columns = outputs
    taps, stride, origin = window
    most_bytes, tasks, least, waste = limits
    pieces = []
    for row_run in _runs(extent[0], rows, taps[0], stride[0], origin[0], waste):
        for column_run in _runs(extent[1], columns, taps[1], stride[1], origin[1], waste):
            whole = Piece(0, images, row_run, column_run)
            _, height, width = whole.shape
            most = most_bytes // max(1, whole.taps * pixel_bytes)
            patches = max(least, min(most, images * rows * columns // tasks))
            for n0, n1 in ranges(images, patches // (height * width)):
                for p0, p1 in ranges(height, patches // width):
                    part = row_run._replace(start=row_run.start + p0, stop=row_run.start + p1)
                    pieces.append(Piece(n0, n1, part, column_run))
    return tuple(sorted(pieces, key=lambda piece: math.prod(piece.shape) * piece.taps, reverse=True))


def _overlap(start: int, size: int, extent: int) -> tuple[slice, slice]:
    """Find where [start, start + size) meets [0, extent): as a slice of the former and of the latter."""
    first = min(max(0, -start), size)
    last = max(first, min(size, extent - start))
    return slice(first, last), slice(start + first, start + last)


def patches_of(x: np.ndarray, piece: Piece, window: Window) -> np.ndarray:
    """Lay out the patches of a piece, one a row: (images * rows * columns, taps * C), in thread scratch."""
    (n0, n1, (p0, _, r0, r1), (q0, _, s0, s1)), stride = piece, window.stride
    images, rows, columns = piece.shape
    top, left = p0 * stride[0] + r0 - window.origin[0], q0 * stride[1] + s0 - window.origin[1]
    height, width = (rows - 1) * stride[0] + r1 - r0, (columns - 1) * stride[1] + s1 - s0
    inside_h, seen_h = _overlap(top, height, x.shape[1])
    inside_w, seen_w = _overlap(left, width, x.shape[2])
    seen = x[n0:n1, seen_h, seen_w]
    if x.flags.c_contiguous and seen.shape[1:3] == (height, width):
        if piece.taps == 1 and stride == (1, 1) and seen.flags.c_contiguous:
            return seen.reshape(-1, x.shape[3])  # a patch is a pixel
        memory, offset = x, n0 * x.strides[0] + top * x.strides[1] + left * x.strides[2]
    else:  # with some padding, or the channels of a group
        shape = images, height, width, x.shape[3]
        memory, offset = zero_outside("seen", shape, x.dtype, (inside_h, inside_w)), 0
        memory[:, inside_h, inside_w] = seen
    # One element of this type is a whole filter row of a patch, so NumPy moves it by memcpy: up to twice as
    # fast as copying numbers in an inner loop of only S*C steps.
    length = (s1 - s0) * x.shape[3]
    filter_row = np.dtype((np.void, length * x.itemsize))
    step_n, step_h, step_w, _ = memory.strides
    steps = step_n, step_h * stride[0], step_w * stride[1], step_h
    source = np.ndarray((images, rows, columns, r1 - r0), filter_row, memory, offset, steps)
    patches = scratch("patches", (images * rows * columns, (r1 - r0) * length), x.dtype)
    np.copyto(patches.view(filter_row).reshape(source.shape), source)
    return patches


def contiguous(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array itself, or a copy in this thread's scratch of that name."""
    if array.flags.c_contiguous:
        return array
    copy = scratch(name, array.shape, array.dtype)
    copy[...] = array
    return copy
