"""Response normalisation on the `cpu` device by compiled kernels.

The arguments are those of :mod:`pyconvnet.ops.reference.norm`.
"""

from __future__ import annotations

import numpy as np

from ...common.threads import ranges
from . import module

#: Elements that are worth a thread.
_TASK = 1 << 17
_BETAS = (0.75, 0.5, 1.0)

Norm = tuple[tuple[int, ...], float, float, float, float]


def _reach(size: int, extent: int) -> tuple[int, int]:
    return min(size // 2, extent - 1), min(size - 1 - size // 2, extent - 1)


def across_channels(shape: tuple[int, ...], size: int, groups: int) -> tuple[int, ...]:
    """Return the geometry: a group's channels are the columns of an image of one row."""
    channels = shape[-1] // groups
    return np.prod(shape, dtype=int).item() // channels, 1, channels, 1, 0, 0, *_reach(size, channels)


def suits(beta: float, *arrays: np.ndarray) -> bool:
    """Tell whether kernels take that power, and those arrays."""
    return beta in _BETAS and module.suits(*arrays)


def _across_pixels(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    return *shape, *_reach(size, shape[1]), *_reach(size, shape[2])


def _run(name: str, norm: Norm, *rest: np.ndarray | bool) -> None:
    kernel, level, (images, *image) = getattr(module.ext(), name), module.level(), norm[0]
    parts = ranges(images, max(1, _TASK // (image[0] * image[1] * image[2])))
    module.each(lambda i: kernel(level, *norm, *parts[i], *rest), len(parts))


def _forward(
    geometry: tuple[int, ...],
    alpha: float,
    beta: float,
    k: float,
    x: np.ndarray,
    out: tuple[np.ndarray, np.ndarray],
) -> module.Call | None:
    if not suits(beta, x, *out):
        return None
    return _run, ("lrn", (geometry, alpha, beta, k, 0.0), x, *out)


def _backward(
    geometry: tuple[int, ...],
    alpha: float,
    beta: float,
    arrays: tuple[np.ndarray, ...],
    relu: bool,
    out: np.ndarray,
) -> module.Call | None:
    if not suits(beta, *arrays, out):
        return None
    return _run, ("lrn_backward", (geometry, alpha, beta, 0.0, 2 * alpha * beta), *arrays, relu, out)


def lrn(
    x: np.ndarray,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int,
    *,
    out: tuple[np.ndarray, np.ndarray],
) -> module.Call | None:
    """Return what normalises, and its arguments; None where that is the reference's."""
    return _forward(across_channels(x.shape, size, groups), alpha, beta, k, x, out)


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
) -> module.Call | None:
    """Return what computes the gradient, and its arguments; None where that is the reference's."""
    return _backward(across_channels(x.shape, size, groups), alpha, beta, (dy, x, y, scale), relu, out)


def lrn_spatial(
    x: np.ndarray, size: int, alpha: float, beta: float, k: float, *, out: tuple[np.ndarray, np.ndarray]
) -> module.Call | None:
    """Return what normalises, and its arguments; None where that is the reference's."""
    return _forward(_across_pixels(x.shape, size), alpha, beta, k, x, out)


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
) -> module.Call | None:
    """Return what computes the gradient, and its arguments; None where that is the reference's."""
    return _backward(_across_pixels(x.shape, size), alpha, beta, (dy, x, y, scale), False, out)
