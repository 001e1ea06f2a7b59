"""Convolution in NumPy, by BLAS: the `cpu` device, and the oracle of the convolution kernels.

All three directions are the same two steps, taken over cache-sized pieces of the output so that the gathered
patches never leave the cache and memory stays bounded:

1. *gather*: copy the filter-sized patch of every output pixel into one row of a matrix (im2col). Because C is
   the innermost axis, a filter row of a patch is S*C contiguous numbers.
2. *multiply*: one matrix product of that matrix with the filters (fprop, dgrad) or with `dy` (wgrad).

Where padding would make up much of the work (a quarter of it with a 5x5 filter on 8x8 pixels), a piece
holds only pixels that see the same part of the filter inside the image, and nothing is multiplied by zeros.
Sums run in an order fixed by the shapes alone, so the results do not depend on the number of threads.
For tiny arrays the same products are found once and then repeated (`products.py`): `conv2d.tiny` and so on.

Letters: x (N, H, W, C), w (K, R, S, C/groups), y (N, P, Q, K); `stride` (vertical, horizontal); `pad`
((top, bottom), (left, right)); P = (H + top + bottom - R) // stride + 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from ...common.threads import parallel, scratch
from .pieces import Pair, Piece, Window, contiguous, cut, patches_of
from .pointwise import bias_backward, relu_backward
from .products import MOST_ELEMENTS, Product, Products, small
from .widen import widened

__all__ = ["conv2d", "conv2d_dgrad", "conv2d_wgrad"]

Padding = tuple[Pair, Pair]
Correlations = Iterator[tuple[np.ndarray, np.ndarray, Window, np.ndarray]]

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


def _pieces(x: np.ndarray, outputs: tuple[int, int, int], window: Window) -> tuple[Piece, ...]:
    """Cut the output (N, P, Q) into pieces, the most work first."""
    return cut(x.shape[1:3], x.shape[3] * x.itemsize, outputs, window, _limits())


def _limits() -> tuple[int, int, int, float]:
    """Return what the cut depends on beside the extents: an argument, since the answer is remembered."""
    return PATCH_BYTES, TASKS, MIN_PATCHES, WASTE


# ---- products ----------------------------------------------------------------------------------------------


def _divisor(extent: int, limit: int, least: int) -> int:
    """Return the largest divisor of `extent` in [least, limit], or `extent` itself where there is none."""
    return next((size for size in range(min(extent, limit), least - 1, -1) if extent % size == 0), extent)


def _matrix(filters: np.ndarray) -> np.ndarray:
    """View filters (R, S, C, K) as (R*S*C, K), in the order they have in memory: with K first or last."""
    k = filters.shape[3]
    if filters.strides[3] == filters.itemsize:
        return contiguous("filters", filters).reshape(-1, k)
    return contiguous("filters", filters.transpose(3, 0, 1, 2)).reshape(k, -1).T


def _rows_unpacked(filters: np.ndarray) -> int:
    """Return how many rows at a time BLAS multiplies without packing the filters; 0: all, with packing."""
    return UNPACKED // filters.size // 16 * 16


def _times_filters(patches: np.ndarray, filters: np.ndarray, out: np.ndarray) -> None:
    """Compute out = patches @ filters, in blocks of rows that BLAS need not pack."""
    block = _rows_unpacked(filters)
    whole = len(patches) // block * block if block else 0
    if whole:
        np.matmul(
            patches[:whole].reshape(-1, block, patches.shape[1]),
            filters,
            out=out[:whole].reshape(-1, block, out.shape[1]),
        )
    if whole < len(patches):
        np.matmul(patches[whole:], filters, out=out[whole:])


def _outer_blocks(rows: int, length: int, k: int) -> Pair:
    """Return how many patches, and how much of each, BLAS multiplies with k gradients without packing."""
    block = _divisor(rows, WGRAD_ROWS, 64)
    return block, _divisor(length, UNPACKED // (k * block), 16)


def _add_outer_products(patches: np.ndarray, gradients: np.ndarray, total: np.ndarray) -> None:
    """Compute total += patches.T @ gradients, in blocks that BLAS need not pack; total (R, S, C, K)."""
    (rows, length), k = patches.shape, total.shape[3]
    block, part = _outer_blocks(rows, length, k)
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
    window: Window,
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
            _times_filters(patches_of(x, piece, window), _matrix(piece.of_filters(filters)), result)
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


# ---- the three directions ----------------------------------------------------------------------------------


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
    window = Window((r, s), tuple(stride), (top, left))
    for g, correlation in enumerate(_correlations(x, w, out, window, groups)):
        _correlate(*correlation, None if b is None else _group(b, g, groups, 0), activation)
    return out


def _correlations(x: np.ndarray, w: np.ndarray, out: np.ndarray, window: Window, groups: int) -> Correlations:
    """Yield what `conv2d` has to correlate: the arguments of `_correlate`, group by group."""
    for g in range(groups):
        filters = _filters_last(_group(w, g, groups, 0))
        yield _group(x, g, groups, 3), filters, window, _group(out, g, groups, 3)


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
    window = Window(w.shape[1:3], tuple(stride), (pad[0][0], pad[1][0]))
    for correlation in _phases(dy, w, dx, window, groups):
        _correlate(*correlation)
    return dx if mask is None else relu_backward(dx, mask, out=dx)


def _phases(dy: np.ndarray, w: np.ndarray, dx: np.ndarray, window: Window, groups: int) -> Correlations:
    """Yield what `conv2d_dgrad` has to correlate, by phases; the filters last until the next is asked for."""
    _, stride, (top, left) = window
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
            seen = Window(taps, (1, 1), (taps[0] - 1 - first_h, taps[1] - 1 - first_w))
            for g in range(groups):
                w_group = _group(w_phase, g, groups, 0)
                swapped = w_group.transpose(1, 2, 0, 3)  # (R, S, K, C)
                filters = scratch("swapped", swapped.shape, w.dtype)
                filters[...] = swapped
                yield _group(dy, g, groups, 3), filters, seen, _group(dx_phase, g, groups, 3)


@widened
def conv2d_wgrad(
    dy: np.ndarray,
    x: np.ndarray,
    w_shape: tuple[int, int, int, int],
    *,
    stride: Pair = (1, 1),
    pad: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
    bias_grad: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the gradient of `conv2d` for its filters and, where asked for, for its bias.

    dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] * x[n, p*stride+r-top, ..., c].

    The sum over pieces runs in `TASKS` partial sums, each in order, which are then added in order.

    Parameters
    ----------
    dy : (N, P, Q, K), float32 or float64
    x : (N, H, W, C)
    w_shape : (K, R, S, C/groups)
    bias_grad : (K,), optional, written completely
    out : (K, R, S, C/groups), optional, written completely

    Returns
    -------
    dw : (K, R, S, C/groups), dtype of dy
    """
    dw = np.empty(w_shape, dy.dtype) if out is None else out
    _, r, s, c = w_shape
    window = Window((r, s), tuple(stride), (pad[0][0], pad[1][0]))
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
                gradients = contiguous("gradients", piece.of_output(dy)).reshape(-1, sums.shape[-1])
                _add_outer_products(patches_of(x, piece, window), gradients, piece.of_filters(sums[lane]))

        parallel(task, lanes)
        total = sums[lanes]
        total[...] = 0
        for lane in range(lanes):
            total += sums[lane]
        dw_group[...] = total.transpose(3, 0, 1, 2)
    if bias_grad is not None:
        bias_backward(dy, out=bias_grad)
    return dw


# ---- the same on tiny arrays -------------------------------------------------------------------------------

#: Types of the numbers of elements, as large as the elements: what is cut depends on their size.
_NUMBERS = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}
#: A function of arrays alone, and the arrays.
Call = tuple[Callable[..., None], tuple[np.ndarray, ...]]


class _Kind:
    """The shapes and options of one direction, and how its products are found."""

    def __init__(
        self,
        direction: Callable[..., Iterator],
        arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
        stride: Pair,
        pad: Padding,
        groups: int,
    ):
        a, b, out = arrays
        self.direction, self.dtype, self.groups = direction, a.dtype, groups
        self.shapes = a.shape, b.shape, out.shape
        taps = (out if direction is _outer_products else b).shape[1:3]
        self.window = Window(taps, tuple(stride), (pad[0][0], pad[1][0]))
        known = a.dtype == b.dtype == out.dtype in _NUMBERS
        self.is_tiny = (
            known and max(a.size, b.size, out.size) <= MOST_ELEMENTS and _products(self) is not None
        )


@functools.lru_cache(maxsize=128)
def _products(kind: _Kind) -> Products | None:
    """Find the products of a kind of arguments; None where they are not tiny."""
    numbers = (
        np.arange(1, math.prod(shape) + 1, dtype=_NUMBERS[kind.dtype]).reshape(shape) for shape in kind.shapes
    )
    found, summed = kind.direction(*numbers, kind.window, kind.groups), kind.direction is _outer_products
    if not summed:
        found = _patches_times_filters(found)
    return small(found, kind.shapes[0], kind.shapes[2], kind.dtype, sums_of=kind.groups if summed else 0)


def _patches_times_filters(correlations: Correlations) -> Iterator[Product | None]:
    """Take apart what `_correlate` computes, on arrays of numbers; None: in several products."""
    for x, filters, window, out in correlations:
        for piece in _pieces(x, out.shape[:3], window):
            if piece.taps:
                patches, matrix = patches_of(x, piece, window), _matrix(piece.of_filters(filters))
                target = piece.of_output(out).reshape(len(patches), -1)
                whole = not 0 < _rows_unpacked(matrix) <= len(patches)
                yield Product(patches.copy(), matrix.copy(), target) if whole else None


def _outer_products(
    x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, groups: int
) -> Iterator[Product | None]:
    """Take apart `conv2d_wgrad` likewise; None where a lane has several products, too."""
    pieces = [piece for piece in _pieces(x, dy.shape[:3], window) if piece.taps]
    for g in range(groups):
        x_group, dy_group, total = _group(x, g, groups, 3), _group(dy, g, groups, 3), _group(dw, g, groups, 0)
        for piece in pieces:
            patches = patches_of(x_group, piece, window)
            gradients = piece.of_output(dy_group).reshape(len(patches), -1)
            target = piece.of_filters(total.transpose(1, 2, 3, 0)).reshape(patches.shape[1], -1)
            whole = _outer_blocks(*patches.shape, gradients.shape[1]) == patches.shape
            yield Product(patches.copy(), gradients, target) if whole and len(pieces) <= TASKS else None


def _tiny_conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: Pair,
    pad: Padding,
    groups: int,
    activation: str | None = None,
    out: np.ndarray,
) -> Call | None:
    """Return what `conv2d` does as a call of arrays alone; None unless all are tiny."""
    kind = _Kind(_correlations, (x, w, out), stride, pad, groups)
    if not kind.is_tiny:
        return None

    def run(x: np.ndarray, w: np.ndarray, out: np.ndarray, b: np.ndarray | None = None) -> None:
        _products(kind)(x, w, out)
        if b is not None:
            np.add(out, b, out)
        if activation == "relu":
            np.maximum(out, 0, out=out)

    return run, (x, w, out) if b is None else (x, w, out, b)


def _tiny_dgrad(
    dy: np.ndarray,
    w: np.ndarray,
    _x_shape: tuple[int, int, int, int],
    *,
    stride: Pair,
    pad: Padding,
    groups: int,
    mask: np.ndarray | None = None,
    out: np.ndarray,
) -> Call | None:
    """Return what `conv2d_dgrad` does as a call of arrays alone; None unless all are tiny."""
    kind = _Kind(_phases, (dy, w, out), stride, pad, groups)
    if not kind.is_tiny:
        return None

    def run(dy: np.ndarray, w: np.ndarray, dx: np.ndarray, mask: np.ndarray | None = None) -> None:
        _products(kind)(dy, w, dx)
        if mask is not None:
            relu_backward(dx, mask, out=dx)

    return run, (dy, w, out) if mask is None else (dy, w, out, mask)


def _tiny_wgrad(
    dy: np.ndarray,
    x: np.ndarray,
    _w_shape: tuple[int, int, int, int],
    *,
    stride: Pair,
    pad: Padding,
    groups: int,
    bias_grad: np.ndarray | None = None,
    out: np.ndarray,
) -> Call | None:
    """Return what `conv2d_wgrad` does as a call of arrays alone; None unless all are tiny."""
    kind = _Kind(_outer_products, (x, dy, out), stride, pad, groups)
    if not kind.is_tiny:
        return None

    def run(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: np.ndarray | None = None) -> None:
        _products(kind)(x, dy, dw)
        if db is not None:
            bias_backward(dy, out=db)

    return run, (x, dy, out) if bias_grad is None else (x, dy, out, bias_grad)


conv2d.tiny, conv2d_dgrad.tiny, conv2d_wgrad.tiny = _tiny_conv2d, _tiny_dgrad, _tiny_wgrad
