"""Convolution in NumPy, by BLAS: the `cpu` device, and the oracle of the convolution kernels.

All three directions are the same two steps, taken over cache-sized pieces of the output so that the gathered
patches never leave the cache and memory stays bounded:

1. *gather*: copy the filter-sized patch of every output pixel into one row of a matrix (im2col). Because C is
   the innermost axis, a filter row of a patch is S*C contiguous numbers.
2. *multiply*: one matrix product of that matrix with the filters (fprop, dgrad) or with `dy` (wgrad).

Where padding would make up much of the work (a quarter of it with a 5x5 filter on 8x8 pixels), a piece
holds only pixels that see the same part of the filter inside the image, and nothing is multiplied by zeros.
Sums run in an order fixed by the shapes alone, so the results do not depend on the number of threads.

Letters: x (N, H, W, C), w (K, R, S, C/groups), y (N, P, Q, K); `stride` (vertical, horizontal); `pad`
((top, bottom), (left, right)); P = (H + top + bottom - R) // stride + 1.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from ..common.threads import parallel, ranges, scratch, zero_outside
from .pointwise import relu_backward
from .widen import widened

__all__ = ["conv2d", "conv2d_dgrad", "conv2d_wgrad"]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# Bytes of gathered patches a task works on, at most: they should stay in a core's share of the cache.
PATCH_BYTES = 1 << 21
# Work for so many threads, if there is enough of it ...
TASKS = 16
# ... but so many patches at least, or BLAS would pack the filters more often than it uses them.
MIN_PATCHES = 256
# Multiplying by up to this share of zeros along an axis is cheaper than cutting the axis.
WASTE = 0.04
# OpenBLAS multiplies matrices of up to so many multiply-adds without packing them first (AVX-512 machines;
# elsewhere the cut costs a few per cent). With 32 or 64 filters packing is a fifth of the time: 115 instead
# of 92 GFLOP/s a core.
UNPACKED = 1_000_000
# wgrad multiplies so many patches at a time.
WGRAD_ROWS = 320


# ---- pieces ------------------------------------------------------------------------------------------------


class _Window(NamedTuple):
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


class _Piece(NamedTuple):
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


def _pieces(x: np.ndarray, outputs: tuple[int, int, int], window: _Window) -> tuple[_Piece, ...]:
    """Cut the output (N, P, Q) into pieces, the most work first."""
    limits = PATCH_BYTES, TASKS, MIN_PATCHES, WASTE  # arguments, since the answer is remembered
    return _cut(x.shape[1:3], x.shape[3] * x.itemsize, outputs, window, limits)


@functools.lru_cache(maxsize=1024)
def _cut(
    extent: Pair,
    pixel_bytes: int,
    outputs: tuple[int, int, int],
    window: _Window,
    limits: tuple[int, int, int, float],
) -> tuple[_Piece, ...]:
    images, rows, columns = outputs
    taps, stride, origin = window
    most_bytes, tasks, least, waste = limits
    pieces = []
    for row_run in _runs(extent[0], rows, taps[0], stride[0], origin[0], waste):
        for column_run in _runs(extent[1], columns, taps[1], stride[1], origin[1], waste):
            whole = _Piece(0, images, row_run, column_run)
            _, height, width = whole.shape
            most = most_bytes // max(1, whole.taps * pixel_bytes)
            patches = max(least, min(most, images * rows * columns // tasks))
            for n0, n1 in ranges(images, patches // (height * width)):
                for p0, p1 in ranges(height, patches // width):
                    part = row_run._replace(start=row_run.start + p0, stop=row_run.start + p1)
                    pieces.append(_Piece(n0, n1, part, column_run))
    return tuple(sorted(pieces, key=lambda piece: math.prod(piece.shape) * piece.taps, reverse=True))


def _overlap(start: int, size: int, extent: int) -> tuple[slice, slice]:
    """Find where [start, start + size) meets [0, extent): as a slice of the former and of the latter."""
    first = min(max(0, -start), size)
    last = max(first, min(size, extent - start))
    return slice(first, last), slice(start + first, start + last)


def _patches(x: np.ndarray, piece: _Piece, window: _Window) -> np.ndarray:
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


def _contiguous(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array itself, or a copy in this thread's scratch of that name."""
    if array.flags.c_contiguous:
        return array
    copy = scratch(name, array.shape, array.dtype)
    copy[...] = array
    return copy


# ---- products ----------------------------------------------------------------------------------------------


def _divisor(extent: int, limit: int, least: int) -> int:
    """Return the largest divisor of `extent` in [least, limit], or `extent` itself where there is none."""
    return next((size for size in range(min(extent, limit), least - 1, -1) if extent % size == 0), extent)


def _matrix(filters: np.ndarray) -> np.ndarray:
    """View filters (R, S, C, K) as (R*S*C, K), in the order they have in memory: with K first or last."""
    k = filters.shape[3]
    if filters.strides[3] == filters.itemsize:
        return _contiguous("filters", filters).reshape(-1, k)
    return _contiguous("filters", filters.transpose(3, 0, 1, 2)).reshape(k, -1).T


def _times_filters(patches: np.ndarray, filters: np.ndarray, out: np.ndarray) -> None:
    """Compute out = patches @ filters, in blocks of rows that BLAS need not pack."""
    block = UNPACKED // filters.size // 16 * 16
    whole = len(patches) // block * block if block else 0
    if whole:
        np.matmul(
            patches[:whole].reshape(-1, block, patches.shape[1]),
            filters,
            out=out[:whole].reshape(-1, block, out.shape[1]),
        )
    if whole < len(patches):
        np.matmul(patches[whole:], filters, out=out[whole:])


def _add_outer_products(patches: np.ndarray, gradients: np.ndarray, total: np.ndarray) -> None:
    """Compute total += patches.T @ gradients, in blocks that BLAS need not pack; total (R, S, C, K)."""
    (rows, length), k = patches.shape, total.shape[3]
    block = _divisor(rows, WGRAD_ROWS, 64)
    part = _divisor(length, UNPACKED // (k * block), 16)
    products = scratch("products", (rows // block, length // part, part, k), total.dtype)
    np.matmul(
        patches.reshape(rows // block, block, length // part, part).transpose(0, 2, 3, 1),
        gradients.reshape(rows // block, 1, block, k),
        out=products,
    )
    for product in products:
        total += product.reshape(total.shape)


def _correlate(
    x: np.ndarray,
    filters: np.ndarray,
    window: _Window,
    out: np.ndarray,
    bias: np.ndarray | None = None,
    activation: str | None = None,
) -> None:
    """Set `out`, any view: out[n, i, j] = activation(patch(x, n, i, j) @ filters (R, S, C, K) + bias)."""
    pieces = _pieces(x, out.shape[:3], window)
    k = out.shape[3]
    # NumPy's inner loops want more than K numbers: whole lines of pixels, where the output has them.
    has_lines = out.strides[2:] == (k * out.itemsize, out.itemsize)
    bias_line = None if bias is None else np.tile(bias, out.shape[2])
    # maximum() with an array is five times as fast as with a number.
    zero_line = np.zeros(out.shape[2] * k, x.dtype)

    def task(index: int) -> None:
        piece = pieces[index]
        images, rows, columns = piece.shape
        target = piece.of_output(out)
        in_place = target.flags.c_contiguous
        shape = images * rows * columns, k
        result = target.reshape(shape) if in_place else scratch("result", shape, x.dtype)
        if piece.taps:
            _times_filters(_patches(x, piece, window), _matrix(piece.of_filters(filters)), result)
        else:  # only padding
            result[...] = 0
        lines = result.reshape(images, rows, columns * k)
        finished = target.reshape(lines.shape) if has_lines else lines
        if bias is not None:
            np.add(lines, bias_line[: columns * k], out=lines if activation == "relu" else finished)
        if activation == "relu":
            np.maximum(lines, zero_line[: columns * k], out=finished)
        if not has_lines:
            target[...] = lines.reshape(target.shape)
        elif bias is None and activation is None and not in_place:
            finished[...] = lines

    parallel(task, len(pieces))


def _group(array: np.ndarray, group: int, groups: int, axis: int) -> np.ndarray:
    """Return the part of `array` along `axis` that belongs to a group: a view."""
    if groups == 1:
        return array
    size = array.shape[axis] // groups
    index = [slice(None)] * array.ndim
    index[axis] = slice(group * size, (group + 1) * size)
    return array[tuple(index)]


def _filters_last(w: np.ndarray) -> np.ndarray:
    """View filters (K, R, S, C) as (R, S, C, K).

    BLAS packs a transposed matrix a little slower, once per piece: small filters are worth transposing here.
    """
    filters = w.transpose(1, 2, 3, 0)
    return np.ascontiguousarray(filters) if filters.nbytes <= 1 << 18 else filters


@widened
def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: Pair = (1, 1),
    pad: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
    activation: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Compute y[n,p,q,k] = b[k] + sum_{r,s,c} x[n, p*stride_h+r-top, q*stride_w+s-left, c] * w[k,r,s,c].

    (Cross-correlation, as every network library means it.) Group g of `groups` maps channels
    [g*C/groups, (g+1)*C/groups) to filters [g*K/groups, (g+1)*K/groups).

    Parameters
    ----------
    x : (N, H, W, C), float32 or float64
    w : (K, R, S, C/groups)
    b : (K,), optional
    activation : None or "relu", applied to the sum
    out : (N, P, Q, K), optional, written completely

    Returns
    -------
    y : (N, P, Q, K), dtype of x
    """
    n, h, width, _ = x.shape
    k, r, s, _ = w.shape
    (top, bottom), (left, right) = pad
    if out is None:
        p, q = (h + top + bottom - r) // stride[0] + 1, (width + left + right - s) // stride[1] + 1
        out = np.empty((n, p, q, k), x.dtype)
    window = _Window((r, s), tuple(stride), (top, left))
    for g in range(groups):
        _correlate(
            _group(x, g, groups, 3),
            _filters_last(_group(w, g, groups, 0)),
            window,
            _group(out, g, groups, 3),
            None if b is None else _group(b, g, groups, 0),
            activation,
        )
    return out


@widened
def conv2d_dgrad(
    dy: np.ndarray,
    w: np.ndarray,
    x_shape: tuple[int, int, int, int],
    *,
    stride: Pair = (1, 1),
    pad: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
    mask: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the gradient of `conv2d` for its input.

    dx[n,h,w,c] = sum over p*stride+r-top = h, q*stride+s-left = w of dy*w.

    The pixels of dx fall into stride*stride phases. Those of one phase see the same subset of the filter's
    taps, one dy pixel a tap: each phase is a convolution of dy, of stride 1, with that subset flipped, and no
    product is ever taken with a zero that the stride put there.

    Parameters
    ----------
    dy : (N, P, Q, K), float32 or float64
    w : (K, R, S, C/groups)
    x_shape : (N, H, W, C)
    mask : (N, H, W, C), optional
        The output of the ReLU that x is: dx goes back through it, see `relu_backward`.
    out : (N, H, W, C), optional, written completely

    Returns
    -------
    dx : (N, H, W, C), dtype of dy
    """
    dx = np.empty(x_shape, dy.dtype) if out is None else out
    top, left = pad[0][0], pad[1][0]
    for phase_h in range(stride[0]):
        for phase_w in range(stride[1]):
            # dx row i*stride + phase - top gets dy row i - t times filter row phase + t*stride, t = 0, 1, ...
            first_h, first_w = -(-max(0, top - phase_h) // stride[0]), -(-max(0, left - phase_w) // stride[1])
            start_h, start_w = first_h * stride[0] + phase_h - top, first_w * stride[1] + phase_w - left
            dx_phase = dx[:, start_h :: stride[0], start_w :: stride[1]]
            w_phase = w[:, phase_h :: stride[0], phase_w :: stride[1]][:, ::-1, ::-1]
            if dx_phase.size == 0:
                continue
            taps = w_phase.shape[1:3]
            window = _Window(taps, (1, 1), (taps[0] - 1 - first_h, taps[1] - 1 - first_w))
            for g in range(groups):
                w_group = _group(w_phase, g, groups, 0)
                swapped = w_group.transpose(1, 2, 0, 3)  # (R, S, K, C)
                filters = scratch("swapped", swapped.shape, w.dtype)
                filters[...] = swapped
                _correlate(_group(dy, g, groups, 3), filters, window, _group(dx_phase, g, groups, 3))
    return dx if mask is None else relu_backward(dx, mask, out=dx)


@widened
def conv2d_wgrad(
    dy: np.ndarray,
    x: np.ndarray,
    w_shape: tuple[int, int, int, int],
    *,
    stride: Pair = (1, 1),
    pad: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the gradient of `conv2d` for its filters.

    dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] * x[n, p*stride+r-top, ..., c].

    The sum over pieces runs in `TASKS` partial sums, each in order, which are then added in order.

    Parameters
    ----------
    dy : (N, P, Q, K), float32 or float64
    x : (N, H, W, C)
    w_shape : (K, R, S, C/groups)
    out : (K, R, S, C/groups), optional, written completely

    Returns
    -------
    dw : (K, R, S, C/groups), dtype of dy
    """
    dw = np.empty(w_shape, dy.dtype) if out is None else out
    _, r, s, c = w_shape
    window = _Window((r, s), tuple(stride), (pad[0][0], pad[1][0]))
    pieces = [piece for piece in _pieces(x, dy.shape[:3], window) if piece.taps]
    lanes = min(TASKS, len(pieces))
    for g in range(groups):
        x_group, dy_group, dw_group = (
            _group(x, g, groups, 3),
            _group(dy, g, groups, 3),
            _group(dw, g, groups, 0),
        )
        k = dw_group.shape[0]
        sums = scratch("wgrad", (lanes + 1, r, s, c, k), dy.dtype)

        def task(
            lane: int, x: np.ndarray = x_group, dy: np.ndarray = dy_group, sums: np.ndarray = sums
        ) -> None:
            sums[lane] = 0
            for piece in pieces[lane::lanes]:
                gradients = _contiguous("gradients", piece.of_output(dy)).reshape(-1, sums.shape[-1])
                _add_outer_products(_patches(x, piece, window), gradients, piece.of_filters(sums[lane]))

        parallel(task, lanes)
        total = sums[lanes]
        total[...] = 0
        for lane in range(lanes):
            total += sums[lane]
        dw_group[...] = total.transpose(3, 0, 1, 2)
    return dw
