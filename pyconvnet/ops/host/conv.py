"""Convolutions on the `cpu` device by compiled kernels.

The arguments are those of :mod:`pyconvnet.ops.reference.conv`.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from ...common.threads import ranges, scratch
from ..reference.conv import Padding
from ..reference.pieces import Pair
from . import module

#: Multiply-adds that are worth a thread.
_TASK = 1 << 20
#: Images at once: a tile takes up to eight.
_IMAGES = 8
#: Sums over images that are made side by side, then added in order; their numbers altogether.
_LANES, _MOST_SUMS = 16, 1 << 24

#: Numbers of panels, and of sums, that are worth a thread.
_PACKED, _ADDED = 1 << 14, 1 << 17

Geometry = tuple[int, ...]


def _geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    stride: Pair,
    origin: Pair,
    groups: int,
) -> Geometry:
    (n, h, w, c), (k, r, s, _), (_, p, q, _) = x_shape, w_shape, y_shape
    return n, h, w, c, k, r, s, p, q, *stride, *origin, groups


def _parts(geometry: Geometry) -> list[tuple[int, int, int, int]]:
    """Cut the output into parts: some images, or some rows of one."""
    n, _, _, c, k, r, s, p, q, *_, groups = geometry
    tasks = max(1, n * p * q * k * r * s * (c // groups) // _TASK)
    images = ranges(n, max(1, min(_IMAGES, n // min(n, tasks))))
    rows = ranges(p, max(1, p * len(images) // min(tasks, 16))) if len(images) < min(tasks, 16) else [(0, p)]
    return [(*some, *of_them) for some in images for of_them in rows]


@functools.lru_cache(1024)
def _panels(
    geometry: Geometry, transposed: bool, lanes: int
) -> tuple[tuple[int], Geometry, list[tuple[int, int]]]:
    """Say how many numbers packed filters are, how they lie unpacked, and the parts they are packed in."""
    c, k, r, s, groups = geometry[3], geometry[4], geometry[5], geometry[6], geometry[-1]
    filters = geometry if not transposed else (*geometry[:3], k, c, *geometry[5:])
    parts = groups * -(-k // groups // (2 * lanes)), max(1, _PACKED // (2 * lanes * c // groups * r * s))
    return (c * r * s * -(-k // groups // lanes) * lanes,), filters, ranges(*parts)


def _correlate(
    x: np.ndarray,
    w: np.ndarray,
    out: np.ndarray,
    bias: np.ndarray | None,
    mask: np.ndarray | None,
    geometry: Geometry,
    transposed: bool,
    relu: bool,
    parts: list[tuple[int, int, int, int]],
) -> None:
    ext, level = module.ext(), module.level()
    shape, filters, pieces = _panels(geometry, transposed, module.levels()[level])
    panels = scratch("host.panels", shape, np.float32)
    module.each(lambda i: ext.pack(level, filters, transposed, *pieces[i], w, panels), len(pieces))

    def task(i: int) -> None:
        ext.correlate(level, geometry, parts[i], x, panels, bias, relu, mask, out)

    module.each(task, len(parts))


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: Pair,
    pad: Padding,
    groups: int,
    activation: str | None = None,
    out: np.ndarray,
) -> module.Call | None:
    """Return what convolves, and its arguments; None where that is the reference's."""
    if not module.suits(x, w, b, out):
        return None
    geometry = _geometry(x.shape, w.shape, out.shape, stride, (pad[0][0], pad[1][0]), groups)
    return _correlate, (x, w, out, b, None, geometry, False, activation == "relu", _parts(geometry))


def conv2d_dgrad(
    dy: np.ndarray,
    w: np.ndarray,
    x_shape: tuple[int, int, int, int],
    *,
    stride: Pair,
    pad: Padding,
    groups: int,
    mask: np.ndarray | None = None,
    out: np.ndarray,
) -> module.Call | None:
    """Return what computes the gradient for the input, of stride 1 a convolution; None: the reference."""
    if stride != (1, 1) or not module.suits(dy, w, mask, out):
        return None
    (_, r, s, c), k = w.shape, dy.shape[3]
    filters = c * groups, r, s, k // groups
    geometry = _geometry(dy.shape, filters, out.shape, stride, (r - 1 - pad[0][0], s - 1 - pad[1][0]), groups)
    return _correlate, (dy, w, out, None, mask, geometry, True, False, _parts(geometry))


def _wgrad(
    dy: np.ndarray,
    x: np.ndarray,
    dw: np.ndarray,
    db: np.ndarray | None,
    geometry: Geometry,
    images: list[Pair],
) -> None:
    ext, level = module.ext(), module.level()
    lanes = module.levels()[level]
    c, k, r, s, groups = geometry[3], geometry[4], geometry[5], geometry[6], geometry[-1]
    sums = scratch("host.sums", (len(images), c * r * s * -(-k // groups // lanes) * lanes), np.float32)
    bias = None if db is None else scratch("host.bias", (len(images), k), np.float32)

    def task(i: int) -> None:
        ext.wgrad(level, geometry, *images[i], dy, x, sums[i], None if bias is None else bias[i])

    module.each(task, len(images))
    rows = ranges(c * r * s, max(1, _ADDED // (len(images) * k)))
    module.each(lambda i: ext.wgrad_sum(level, geometry, len(images), *rows[i], sums, dw), len(rows))
    if bias is not None:
        db[...] = bias.sum(axis=0, dtype=np.float64)


def conv2d_wgrad(
    dy: np.ndarray,
    x: np.ndarray,
    w_shape: tuple[int, int, int, int],
    *,
    stride: Pair,
    pad: Padding,
    groups: int,
    bias_grad: np.ndarray | None = None,
    out: np.ndarray,
) -> module.Call | None:
    """Return what computes the gradients for filters and bias; None where that is the reference's."""
    if not module.suits(dy, x, bias_grad, out):
        return None
    geometry = _geometry(x.shape, w_shape, dy.shape, stride, (pad[0][0], pad[1][0]), groups)
    work = math.prod(dy.shape) * math.prod(w_shape[1:])
    lanes = max(1, min(_LANES, x.shape[0], work // _TASK, max(4, _MOST_SUMS // math.prod(w_shape))))
    images = ranges(x.shape[0], -(-x.shape[0] // lanes))
    return _wgrad, (dy, x, out, bias_grad, geometry, images)
