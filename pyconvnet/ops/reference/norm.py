"""Local response normalisation on the `cpu` device, across channels and across pixels, both directions.

Both are y = x * scale^-beta with scale = k + alpha * (sum of x^2 over a window); they differ only in the
window. With t = dy * y / scale the gradient is

    dx = dy * scale^-beta - 2 * alpha * beta * x * (sum of t over the windows that hold x),

and the windows that hold element i are the mirror image of the window of i: a window reaches `before` = size
// 2 elements back and `after` = size - 1 - size // 2 elements ahead, so its mirror image reaches `after` back
and `before` ahead.

Windowed sums add shifted copies of a zero-padded array, never differences of running sums, whose rounding
errors would grow along the row.

`lrn_max_pool2d` is the first with a maximum over windows of pixels behind it; a task takes its images through
both while they are in cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...common.threads import parallel, ranges, scratch
from . import pool
from .widen import BFLOAT16, widened

__all__ = [
    "lrn",
    "lrn_backward",
    "lrn_max_pool2d",
    "lrn_max_pool2d_backward",
    "lrn_spatial",
    "lrn_spatial_backward",
]

_TASK_BYTES = 1024 * 1024  # of x


def _power(scale: np.ndarray, beta: float, out: np.ndarray) -> None:
    """Compute out = scale^beta; the paper's 3/4 by two square roots, several times faster than by pow."""
    if beta == 0.75:
        np.sqrt(scale, out=out)
        out *= np.sqrt(out, out=scratch("norm.root", out.shape, out.dtype))
    elif beta == 0.5:
        np.sqrt(scale, out=out)
    elif beta == 1.0:
        out[...] = scale
    else:
        np.power(scale, out.dtype.type(beta), out=out)


def _reach(size: int, extent: int) -> tuple[int, int]:
    """Return how many elements of an axis a window reaches back and ahead."""
    before = size // 2
    return min(before, extent - 1), min(size - 1 - before, extent - 1)


def _with_exact_y(gradient: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Give the gradient a y made of x and scale in float32 where the one it is called with is bfloat16."""

    @functools.wraps(gradient)
    def wrapper(
        dy: np.ndarray, x: np.ndarray, y: np.ndarray, scale: np.ndarray, size: int, alpha: float, beta: float,
        *args: Any, out: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        if y.dtype == BFLOAT16:
            y = np.empty(y.shape, np.float32)
            _power(scale, beta, out=y)
            np.divide(x.astype(np.float32), y, out=y)
        return gradient(dy, x, y, scale, size, alpha, beta, *args, out=out)

    return wrapper


def _combine(dx, dy, x, sums, scale, alpha: float, beta: float) -> None:
    """Compute dx = dy * scale^-beta - 2 * alpha * beta * x * sums."""
    _power(scale, beta, out=dx)
    np.divide(dy, dx, out=dx)
    correction = scratch("norm.correction", dx.shape, dx.dtype)
    np.multiply(x, sums, out=correction)
    correction *= dx.dtype.type(2 * alpha * beta)
    dx -= correction


# ---------------------------------------------------------------- across channels


def _channel_sums(
    factors: tuple[np.ndarray, ...], before: int, after: int, divisor: np.ndarray | None = None
) -> np.ndarray:
    """Sum factors[0] * factors[1] / divisor over channels [i - before, i + after].

    Arrays are (rows, groups, channels).
    """
    rows, groups, channels = factors[0].shape
    dtype = factors[0].dtype
    padded = scratch("norm.padded", (rows, groups, before + channels + after), dtype)
    padded[..., :before] = 0
    padded[..., before + channels :] = 0
    inside = padded[..., before : before + channels]
    np.multiply(*factors, out=inside)
    if divisor is not None:
        inside /= divisor
    return _slide(padded, before + after, 1)[..., :channels]


def _slide(padded: np.ndarray, reach: int, step: int) -> np.ndarray:
    """Compute sums[..., i] = padded[..., i] + … + padded[..., i + reach * step], of the flattened array.

    One contiguous run over all rows; the last reach * step elements of a row, and what they hold, mean
    nothing.
    """
    sums = scratch("norm.sums", padded.shape, padded.dtype)
    source, target = padded.reshape(-1), sums.reshape(-1)
    length = source.size - reach * step
    if reach == 0:
        target[...] = source
        return sums
    np.add(source[:length], source[step : step + length], out=target[:length])
    for i in range(2, reach + 1):
        np.add(target[:length], source[i * step : i * step + length], out=target[:length])
    return sums


@widened
def lrn(
    x: np.ndarray,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int,
    *,
    out: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Compute y = x * scale^-beta, scale[i] = k + alpha * sum of x[j]^2 over channels j of i's window, group.

    Parameters
    ----------
    x : (..., C), float32 or float64
    out : (y, scale), both the shape and dtype of x
    """
    channels = x.shape[-1] // groups
    before, after = _reach(size, channels)
    x, y, scale = (array.reshape(-1, groups, channels) for array in (x, *out))

    def task(index: int) -> None:
        piece = slice(*pieces[index])
        sums = _channel_sums((x[piece], x[piece]), before, after)
        np.multiply(sums, x.dtype.type(alpha), out=scale[piece])
        scale[piece] += x.dtype.type(k)
        _power(scale[piece], beta, out=y[piece])
        np.divide(x[piece], y[piece], out=y[piece])

    pieces = ranges(x.shape[0], max(1, _TASK_BYTES // (groups * channels * x.itemsize)))
    parallel(task, len(pieces))
    return out


@_with_exact_y
@widened
def lrn_backward(
    dy: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    scale: np.ndarray,
    size: int,
    alpha: float,
    beta: float,
    groups: int,
    relu: bool = False,
    *,
    out: np.ndarray,
) -> np.ndarray:
    """Compute dx of :func:`lrn`; all arrays have the shape and dtype of x. Zero where x <= 0, with `relu`."""
    channels = x.shape[-1] // groups
    before, after = _reach(size, channels)
    dy, x, y, scale, dx = (array.reshape(-1, groups, channels) for array in (dy, x, y, scale, out))

    def task(index: int) -> None:
        piece = slice(*pieces[index])
        sums = _channel_sums((dy[piece], y[piece]), after, before, scale[piece])
        _combine(dx[piece], dy[piece], x[piece], sums, scale[piece], alpha, beta)
        if relu:
            np.copyto(dx[piece], 0, where=x[piece] <= 0)

    pieces = ranges(x.shape[0], max(1, _TASK_BYTES // (groups * channels * x.itemsize)))
    parallel(task, len(pieces))
    return out


# ---------------------------------------------------------------- across pixels


def _pixel_sums(
    factors: tuple[np.ndarray, ...],
    rows: tuple[int, int],
    cols: tuple[int, int],
    divisor: np.ndarray | None = None,
) -> np.ndarray:
    """Sum factors[0] * factors[1] / divisor over windows of pixels.

    Arrays are (N, H, W, C); `rows` and `cols` say how far a window reaches (before, after).
    """
    n, h, w, c = factors[0].shape
    dtype = factors[0].dtype
    values = scratch("norm.values", (n, rows[0] + h + rows[1], w, c), dtype)
    values[:, : rows[0]] = 0
    values[:, rows[0] + h :] = 0
    inside = values[:, rows[0] : rows[0] + h]
    np.multiply(*factors, out=inside)
    if divisor is not None:
        inside /= divisor
    padded = scratch("norm.padded", (n, h, cols[0] + w + cols[1], c), dtype)
    padded[:, :, : cols[0]] = 0
    padded[:, :, cols[0] + w :] = 0
    columns = padded[:, :, cols[0] : cols[0] + w]
    columns[...] = values[:, :h]
    for i in range(1, sum(rows) + 1):
        columns += values[:, i : i + h]
    return _slide(padded, sum(cols), c)[:, :, :w]


@widened
def lrn_spatial(
    x: np.ndarray, size: int, alpha: float, beta: float, k: float, *, out: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute y = x * scale^-beta, scale = k + alpha * sum of x^2 over size x size pixels of one channel.

    Parameters
    ----------
    x : (N, H, W, C), float32 or float64
    out : (y, scale), both the shape and dtype of x
    """
    y, scale = out
    n, h, w, c = x.shape
    rows, cols = _reach(size, h), _reach(size, w)

    def task(index: int) -> None:
        piece = slice(*pieces[index])
        sums = _pixel_sums((x[piece], x[piece]), rows, cols)
        np.multiply(sums, x.dtype.type(alpha), out=scale[piece])
        scale[piece] += x.dtype.type(k)
        _power(scale[piece], beta, out=y[piece])
        np.divide(x[piece], y[piece], out=y[piece])

    pieces = ranges(n, max(1, _TASK_BYTES // (h * w * c * x.itemsize)))
    parallel(task, len(pieces))
    return out


@_with_exact_y
@widened
def lrn_spatial_backward(
    dy: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    scale: np.ndarray,
    size: int,
    alpha: float,
    beta: float,
    *,
    out: np.ndarray,
) -> np.ndarray:
    """Compute dx of :func:`lrn_spatial`; all arrays have the shape and dtype of x."""
    n, h, w, c = x.shape
    rows, cols = _reach(size, h)[::-1], _reach(size, w)[::-1]

    def task(index: int) -> None:
        piece = slice(*pieces[index])
        sums = _pixel_sums((dy[piece], y[piece]), rows, cols, scale[piece])
        _combine(out[piece], dy[piece], x[piece], sums, scale[piece], alpha, beta)

    pieces = ranges(n, max(1, _TASK_BYTES // (h * w * c * x.itemsize)))
    parallel(task, len(pieces))
    return out


# ---------------------------------------------------------------- across channels, then a maximum


@widened
def lrn_max_pool2d(
    x: np.ndarray,
    lrn_size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int,
    size: pool.Pair,
    stride: pool.Pair,
    pad: pool.Padding,
    *,
    out: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the maximum over windows of pixels of :func:`lrn`, some images at a time.

    Parameters
    ----------
    x : (N, H, W, C), float32 or float64
    size, stride, pad : as in :mod:`.pool`
    out : (y, argmax), both (N, P, Q, C), as in :func:`.pool.max_pool2d`
    """
    y, argmax = out

    def task(index: int) -> None:
        a, b = pieces[index]
        maps = scratch("norm.maps", (2, *x[a:b].shape), x.dtype)
        normalised, _ = lrn(x[a:b], lrn_size, alpha, beta, k, groups, out=(maps[0], maps[1]))
        pool.max_pool2d(normalised, size, stride, pad, out=(y[a:b], argmax[a:b]))

    pieces = ranges(x.shape[0], max(1, _TASK_BYTES // x[:1].nbytes))
    parallel(task, len(pieces))
    return out


@widened
def lrn_max_pool2d_backward(
    dy: np.ndarray,
    argmax: np.ndarray,
    x: np.ndarray,
    lrn_size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int,
    size: pool.Pair,
    stride: pool.Pair,
    pad: pool.Padding,
    relu: bool = False,
    *,
    out: np.ndarray,
) -> np.ndarray:
    """Compute dx of :func:`lrn_max_pool2d` from x and the argmax; what :func:`lrn` made of x is made again.

    Zero where x <= 0, with `relu`.
    """

    def task(index: int) -> None:
        a, b = pieces[index]
        maps = scratch("norm.maps", (3, *x[a:b].shape), x.dtype)
        y, scale = lrn(x[a:b], lrn_size, alpha, beta, k, groups, out=(maps[0], maps[1]))
        g = pool.max_pool2d_backward(dy[a:b], argmax[a:b], y.shape, size, stride, pad, out=maps[2])
        lrn_backward(g, x[a:b], y, scale, lrn_size, alpha, beta, groups, relu, out=out[a:b])

    pieces = ranges(x.shape[0], max(1, _TASK_BYTES // x[:1].nbytes))
    parallel(task, len(pieces))
    return out
