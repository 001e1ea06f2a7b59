"""Activations, bias, sums, concatenation and dropout on the `cpu` device.

All functions fill `out` completely and return it; where the text says so it may be one of the inputs. Work is
cut into pieces that stay in a core's cache, so that a function of several passes costs the memory traffic of
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...common.philox import window_words
from ...common.threads import parallel, ranges, scratch
from .widen import widened

__all__ = [
    "add",
    "add_bias",
    "bias_backward",
    "bias_relu_dropout",
    "concat",
    "dropout",
    "dropout_backward",
    "dropout_threshold",
    "logistic",
    "logistic_backward",
    "relu",
    "relu_backward",
    "split",
    "tanh",
    "tanh_backward",
]

_PIECE = 128 * 1024  # elements a task works on: with fewer, calling NumPy costs more than going to memory
_BIAS_ROWS = 4096  # rows whose sum is taken in the dtype of dy; sums of those are float64


def _each_piece(task: Callable[..., None], *arrays: np.ndarray) -> None:
    """Call task(piece of every array) for pieces of the flattened arrays."""
    flat = [a.reshape(-1) for a in arrays]
    if flat[0].size <= _PIECE:  # one piece, and no BLAS in it
        task(*flat)
        return
    pieces = ranges(flat[0].size, _PIECE)
    parallel(lambda i: task(*(a[pieces[i][0] : pieces[i][1]] for a in flat)), len(pieces))


def _keep_bits(values: np.ndarray, selector: np.ndarray, out: np.ndarray) -> None:
    """Set out = values where the int8 selector is -1, and +0 where it is 0, even where NaN was."""
    integer = np.int32 if values.dtype == np.float32 else np.int64
    bits = scratch("pointwise.bits", values.shape, integer)
    np.copyto(bits, selector)  # sign-extended: all ones or all zeros
    np.bitwise_and(values.view(integer), bits, out=out.view(integer))


# ---- activations -------------------------------------------------------------------------------------------


@widened
def relu(x: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute y = max(x, 0); NaN stays NaN. `out` may be x."""
    _each_piece(lambda x, y: np.maximum(x, 0, out=y), x, out)
    return out


@widened
def relu_backward(dy: np.ndarray, y: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute dx = 0 where y <= 0, else dy. `out` may be dy."""

    def task(dy: np.ndarray, y: np.ndarray, dx: np.ndarray) -> None:
        selector = scratch("pointwise.selector", y.shape, np.int8)
        np.less_equal(y, 0, out=selector.view(np.bool_))
        np.subtract(selector, 1, out=selector)  # 1 -> 0, 0 -> -1
        _keep_bits(dy, selector, dx)

    _each_piece(task, dy, y, out)
    return out


@widened
def tanh(x: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute y = tanh(x). `out` may be x."""
    _each_piece(lambda x, y: np.tanh(x, out=y), x, out)
    return out


@widened
def tanh_backward(dy: np.ndarray, y: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute dx = dy (1 - y^2). `out` may be dy or y."""

    def task(dy: np.ndarray, y: np.ndarray, dx: np.ndarray) -> None:
        slope = scratch("pointwise.slope", y.shape, y.dtype)
        np.multiply(y, y, out=slope)
        np.subtract(1, slope, out=slope)
        np.multiply(dy, slope, out=dx)

    _each_piece(task, dy, y, out)
    return out


@widened
def logistic(x: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute y = 1 / (1 + exp(-x)). `out` may be x."""

    def task(x: np.ndarray, y: np.ndarray) -> None:
        np.negative(x, out=y)
        with np.errstate(over="ignore"):  # exp(-x) = inf gives 0, as it should
            np.exp(y, out=y)
        y += 1
        np.reciprocal(y, out=y)

    _each_piece(task, x, out)
    return out


@widened
def logistic_backward(dy: np.ndarray, y: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute dx = dy y (1 - y). `out` may be dy or y."""

    def task(dy: np.ndarray, y: np.ndarray, dx: np.ndarray) -> None:
        slope = scratch("pointwise.slope", y.shape, y.dtype)
        np.subtract(1, y, out=slope)
        slope *= y
        np.multiply(dy, slope, out=dx)

    _each_piece(task, dy, y, out)
    return out


# ---- sums --------------------------------------------------------------------------------------------------


@widened
def add(a: np.ndarray, b: np.ndarray, alpha: float, beta: float, *, out: np.ndarray) -> np.ndarray:
    """Compute y = alpha a + beta b; with beta = 0, b is not read. `out` may be a or b."""

    def task(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
        if beta == 0:
            np.multiply(a, y.dtype.type(alpha), out=y)
            return
        if beta != 1:
            scaled = scratch("pointwise.scaled", b.shape, b.dtype)
            b = np.multiply(b, y.dtype.type(beta), out=scaled)
        elif alpha != 1 and np.may_share_memory(b, y):
            b = np.positive(b, out=scratch("pointwise.scaled", b.shape, b.dtype))
        if alpha != 1:
            a = np.multiply(a, y.dtype.type(alpha), out=y)
        np.add(a, b, out=y)

    _each_piece(task, a, b, out)
    return out


def _row_pieces(rows: int, cols: int) -> list[tuple[int, int]]:
    return ranges(rows, max(1, _PIECE // cols))


@widened
def add_bias(x: np.ndarray, b: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute y[..., c] = x[..., c] + b[c]. `out` may be x."""
    cols = b.size
    source, target = x.reshape(-1, cols), out.reshape(-1, cols)
    rows = source.shape[0]
    # NumPy's inner loop runs over the last axis: a few channels are too short for it, so short rows are put
    # end to end.
    repeat = math.gcd(rows, 256) if cols < 64 else 1
    source, target = source.reshape(-1, cols * repeat), target.reshape(-1, cols * repeat)
    line = np.tile(b, repeat)
    pieces = _row_pieces(*source.shape)

    def task(i: int) -> None:
        start, stop = pieces[i]
        np.add(source[start:stop], line, out=target[start:stop])

    parallel(task, len(pieces))
    return out


@widened
def bias_backward(dy: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute db[c] = sum of dy[..., c] over all axes but the last; float64 between pieces of 4096 rows."""
    matrix = dy.reshape(-1, out.size)
    pieces = ranges(matrix.shape[0], _BIAS_ROWS)
    partial = np.empty((len(pieces), out.size), np.float64)
    ones = np.ones(min(matrix.shape[0], _BIAS_ROWS), dy.dtype)

    def task(i: int) -> None:
        start, stop = pieces[i]
        partial[i] = ones[: stop - start] @ matrix[start:stop]

    parallel(task, len(pieces))
    out[...] = partial.sum(axis=0)
    return out


# ---- channels side by side ---------------------------------------------------------------------------------


@widened
def concat(xs: Sequence[np.ndarray], *, out: np.ndarray) -> np.ndarray:
    """Lay the arrays side by side along the last axis."""
    return np.concatenate(xs, axis=-1, out=out)


@widened
def split(x: np.ndarray, sizes: Sequence[int], *, out: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Undo concat: x[..., first : first + size] for each of the sizes."""
    first = 0
    for size, y in zip(sizes, out, strict=True):
        np.copyto(y, x[..., first : first + size])
        first += size
    return tuple(out)


# ---- dropout -----------------------------------------------------------------------------------------------


def dropout_threshold(p: float) -> int:
    """Return the smallest integer kept of 0 … 2^24: u = k 2^-24 >= p exactly where k >= ceil(p 2^24)."""
    return math.ceil(p * 2.0**24)


@widened
def dropout(
    x: np.ndarray,
    p: float,
    seed: int,
    step: int | np.ndarray,
    layer: int,
    scale: float,
    window: tuple[int, int, int] | None,
    *,
    out: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Set mask = 1 where Philox's u(element) >= p, else 0; y = mask ? x scale : 0. `y` may be x.

    Parameters
    ----------
    x : (..., cols), seen as a matrix of rows times cols
    step : number, or an array of one
    window : (row0, col0, total_cols) of the matrix that x is a part of; None: x is the whole.
    out : (y, mask), of the shape of x; mask uint8
    """
    y, mask = out
    cols, step = x.shape[-1], int(np.asarray(step).reshape(-1)[0])
    source, target, flags = (a.reshape(-1, cols) for a in (x, y, mask))
    row0, col0, total_cols = window or (0, 0, cols)
    threshold = np.uint32(dropout_threshold(p) << 8) if p <= 1 - 2.0**-24 else None
    factor = x.dtype.type(scale)
    pieces = _row_pieces(*source.shape)

    def task(i: int) -> None:
        start, stop = pieces[i]
        words = window_words(seed, step, layer, stop - start, cols, (row0 + start, col0, total_cols))
        if threshold is None:  # 2^24 << 8 is beyond 32 bits: nothing is kept
            flags[start:stop] = 0
        else:
            np.greater_equal(words, threshold, out=flags[start:stop].view(np.bool_))
        _masked(source[start:stop], flags[start:stop], factor, target[start:stop])

    parallel(task, len(pieces))
    return y, mask


@widened
def bias_relu_dropout(
    x: np.ndarray,
    b: np.ndarray | None,
    p: float,
    seed: int,
    step: int | np.ndarray,
    layer: int,
    scale: float,
    window: tuple[int, int, int] | None,
    *,
    out: np.ndarray,
) -> np.ndarray:
    """Compute y = dropout(relu(x + b)), or of relu(x) for `b` None. `out` may be x; else as `dropout`."""
    if b is not None:
        x = add_bias(x, b, out=out)
    relu(x, out=out)
    return dropout(out, p, seed, step, layer, scale, window, out=(out, np.empty(out.shape, np.uint8)))[0]


@widened
def dropout_backward(dy: np.ndarray, mask: np.ndarray, scale: float, *, out: np.ndarray) -> np.ndarray:
    """Compute dx = mask ? dy scale : 0. `out` may be dy."""
    factor = dy.dtype.type(scale)
    _each_piece(lambda dy, mask, dx: _masked(dy, mask, factor, dx), dy, mask, out)
    return out


def _masked(values: np.ndarray, mask: np.ndarray, factor: np.floating, out: np.ndarray) -> None:
    """Compute out = mask ? values factor : 0."""
    selector = scratch("pointwise.selector", mask.shape, np.int8)
    np.not_equal(mask, 0, out=selector.view(np.bool_))
    np.negative(selector, out=selector)
    if factor != 1:
        values = np.multiply(values, factor, out=out)
    _keep_bits(values, selector, out)
