"""Response normalisation with a maximum behind it, on the `cpu` device by the compiled kernels of the two.

A task takes some images through both while they are in cache. The arguments are those of
:mod:`pyconvnet.ops.reference.norm`.
"""

from __future__ import annotations

import numpy as np

from ...common.threads import ranges, scratch
from ..reference.pool import Padding, Pair
from . import module, norm, pool

#: Elements of x that a task works on.
_TASK = 1 << 18

Step = tuple[int | float | bool, ...]


def _pieces(x: np.ndarray) -> list[Pair]:
    return ranges(x.shape[0], max(1, _TASK // x[0].size))


def _lrn(x: np.ndarray, y: np.ndarray, scale: np.ndarray, across: tuple[int, int], numbers: Step) -> None:
    geometry = norm.across_channels(x.shape, *across)
    module.ext().lrn(module.level(), geometry, *numbers, 0.0, 0, geometry[0], x, y, scale)


def _forward(
    x: np.ndarray, y: np.ndarray, argmax: np.ndarray, across: tuple[int, int], numbers: Step, windows: tuple
) -> None:
    pieces = _pieces(x)

    def task(i: int) -> None:
        some = slice(*pieces[i])
        maps = scratch("host.maps", (2, *x[some].shape), np.float32)
        _lrn(x[some], *maps, across, numbers)
        geometry = pool.geometry(maps[0].shape, y[some].shape, *windows)
        part = 0, geometry[0], 0, y.shape[1]
        module.ext().max_pool(module.level(), geometry, part, maps[0], y[some], argmax[some])

    module.each(task, len(pieces))


def _backward(
    dy: np.ndarray,
    argmax: np.ndarray,
    x: np.ndarray,
    dx: np.ndarray,
    across: tuple[int, int],
    numbers: Step,
    windows: tuple,
    relu: bool,
) -> None:
    pieces, (alpha, beta, _) = _pieces(x), numbers

    def task(i: int) -> None:
        some = slice(*pieces[i])
        y, scale, gradient = scratch("host.maps", (3, *x[some].shape), np.float32)
        _lrn(x[some], y, scale, across, numbers)
        geometry = pool.geometry(y.shape, dy[some].shape, *windows)
        part = 0, geometry[0], 0, y.shape[1]
        ext, level = module.ext(), module.level()
        ext.max_pool_backward(level, geometry, part, dy[some], argmax[some], None, gradient)
        geometry = norm.across_channels(y.shape, *across)
        how = alpha, beta, 0.0, 2 * alpha * beta, 0, geometry[0]
        ext.lrn_backward(level, geometry, *how, gradient, x[some], y, scale, relu, dx[some])

    module.each(task, len(pieces))


def lrn_max_pool2d(
    x: np.ndarray,
    lrn_size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int,
    size: Pair,
    stride: Pair,
    pad: Padding,
    *,
    out: tuple[np.ndarray, np.ndarray],
) -> module.Call | None:
    """Return what computes both, and its arguments; None where that is the reference's."""
    y, argmax = out
    if not (norm.suits(beta, x, y) and pool.small(size)):
        return None
    return _forward, (x, y, argmax, (lrn_size, groups), (alpha, beta, k), (size, stride, pad))


def lrn_max_pool2d_backward(
    dy: np.ndarray,
    argmax: np.ndarray,
    x: np.ndarray,
    lrn_size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int,
    size: Pair,
    stride: Pair,
    pad: Padding,
    relu: bool = False,
    *,
    out: np.ndarray,
) -> module.Call | None:
    """Return what computes the gradient, and its arguments; None where that is the reference's."""
    if not (norm.suits(beta, dy, x, out) and pool.small(size)):
        return None
    numbers, windows = (alpha, beta, k), (size, stride, pad)
    return _backward, (dy, argmax, x, out, (lrn_size, groups), numbers, windows, relu)
