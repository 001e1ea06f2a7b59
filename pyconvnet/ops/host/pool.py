"""Pooling on the `cpu` device by compiled kernels.

The arguments are those of :mod:`pyconvnet.ops.reference.pool`.
"""

from __future__ import annotations

import math

import numpy as np

from ...common.threads import ranges
from ..reference.pool import Padding, Pair
from . import module

#: Elements that are worth a thread.
_TASK = 1 << 18


def geometry(
    x_shape: tuple[int, ...], y_shape: tuple[int, ...], size: Pair, stride: Pair, pad: Padding
) -> tuple[int, ...]:
    """List the extents as the module takes them."""
    return *x_shape, *size, *y_shape[1:3], *stride, pad[0][0], pad[1][0]


def small(size: Pair) -> bool:
    """Tell whether kernels take windows of that size: their positions fit a byte."""
    return math.prod(size) <= 255


def _parts(x_shape: tuple[int, ...], rows: int) -> list[tuple[int, int, int, int]]:
    """Cut an output of so many rows an image into some images each."""
    n, h, w, c = x_shape
    return [(*images, 0, rows) for images in ranges(n, max(1, _TASK // (h * w * c)))]


def _run(
    name: str,
    extents: tuple[int, ...],
    parts: list[tuple[int, ...]],
    *rest: np.ndarray | tuple[int, ...] | None,
) -> None:
    kernel, level = getattr(module.ext(), name), module.level()
    module.each(lambda i: kernel(level, extents, parts[i], *rest), len(parts))


def _counted(pad: Padding, count_include_pad: bool) -> tuple[int, ...]:
    return (*pad[0], *pad[1]) if count_include_pad else (0, 0, 0, 0)


def max_pool2d(
    x: np.ndarray, size: Pair, stride: Pair, pad: Padding, *, out: tuple[np.ndarray, np.ndarray]
) -> module.Call | None:
    """Return what finds the maxima, and its arguments; None where that is the reference's."""
    y, argmax = out
    if not (module.suits(x, y) and small(size)):
        return None
    parts = _parts(x.shape, y.shape[1])
    return _run, ("max_pool", geometry(x.shape, y.shape, size, stride, pad), parts, x, y, argmax)


def max_pool2d_backward(
    dy: np.ndarray,
    argmax: np.ndarray,
    x_shape: tuple[int, ...],
    size: Pair,
    stride: Pair,
    pad: Padding,
    *,
    mask: np.ndarray | None = None,
    out: np.ndarray,
) -> module.Call | None:
    """Return what computes the gradient, and its arguments; None where that is the reference's."""
    if not (module.suits(dy, mask, out) and small(size)):
        return None
    parts = _parts(x_shape, x_shape[1])
    return _run, (
        "max_pool_backward",
        geometry(x_shape, dy.shape, size, stride, pad),
        parts,
        dy,
        argmax,
        mask,
        out,
    )


def avg_pool2d(
    x: np.ndarray, size: Pair, stride: Pair, pad: Padding, count_include_pad: bool, *, out: np.ndarray
) -> module.Call | None:
    """Return what averages, and its arguments; None where that is the reference's."""
    if not (module.suits(x, out) and small(size)):
        return None
    extents, parts = geometry(x.shape, out.shape, size, stride, pad), _parts(x.shape, out.shape[1])
    return _run, ("avg_pool", extents, parts, _counted(pad, count_include_pad), x, out)


def avg_pool2d_backward(
    dy: np.ndarray,
    x_shape: tuple[int, ...],
    size: Pair,
    stride: Pair,
    pad: Padding,
    count_include_pad: bool,
    *,
    mask: np.ndarray | None = None,
    out: np.ndarray,
) -> module.Call | None:
    """Return what computes the gradient, and its arguments; None where that is the reference's."""
    if not (module.suits(dy, mask, out) and small(size)):
        return None
    extents, parts = geometry(x_shape, dy.shape, size, stride, pad), _parts(x_shape, x_shape[1])
    return _run, ("avg_pool_backward", extents, parts, _counted(pad, count_include_pad), dy, mask, out)
