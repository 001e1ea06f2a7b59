"""ReLU and bias gradients on the `cpu` device by compiled kernels.

The arguments are those of :mod:`pyconvnet.ops.reference.pointwise`.
"""

from __future__ import annotations

import numpy as np

from ...common.threads import ranges
from . import module

#: Elements that are worth a thread.
_TASK = 1 << 18
#: Rows whose sum is taken in float32; sums of those are float64.
_ROWS = 4096


def _run(name: str, parts: list[tuple[int, int]], *arrays: np.ndarray) -> None:
    kernel, level, size = getattr(module.ext(), name), module.level(), arrays[0].size
    module.each(lambda i: kernel(level, size, *parts[i], *arrays), len(parts))


def relu(x: np.ndarray, *, out: np.ndarray) -> module.Call | None:
    """Return what computes it, and its arguments; None where that is the reference's."""
    return (_run, ("relu", ranges(x.size, _TASK), x, out)) if module.suits(x, out) else None


def relu_backward(dy: np.ndarray, y: np.ndarray, *, out: np.ndarray) -> module.Call | None:
    """Return what computes the gradient, and its arguments; None where that is the reference's."""
    call = _run, ("relu_backward", ranges(dy.size, _TASK), dy, y, out)
    return call if module.suits(dy, y, out) else None


def _bias_backward(dy: np.ndarray, db: np.ndarray) -> None:
    kernel, level, rows = module.ext().column_sums, module.level(), dy.size // db.size
    parts = ranges(rows, _ROWS)
    sums = np.empty((len(parts), db.size), np.float32)
    module.each(lambda i: kernel(level, rows, db.size, *parts[i], dy, sums[i]), len(parts))
    db[...] = sums.sum(axis=0, dtype=np.float64)


def bias_backward(dy: np.ndarray, *, out: np.ndarray) -> module.Call | None:
    """Return what sums dy, and its arguments; None where that is the reference's."""
    return (_bias_backward, (dy, out)) if module.suits(dy, out) else None
