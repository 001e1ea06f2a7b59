"""Fully connected layers in NumPy, by BLAS: y = x @ w.T + b.

The products are cut into column blocks by shape alone and each block is one single-threaded BLAS call, so the
results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from ...common.threads import parallel, scratch
from .pointwise import relu_backward
from .widen import widened

__all__ = ["linear", "linear_dgrad", "linear_wgrad"]

# Multiply-adds a task should have at least: below, starting a thread costs more than it saves.
MIN_TASK = 1 << 21
# ... and the most tasks a product is cut into.
MAX_TASKS = 64


def _blocks(extent: int, work: int) -> list[tuple[int, int]]:
    """Cut `extent` columns of a product of `work` multiply-adds into blocks, each a multiple of 16 but the
    last."""
    tasks = max(1, min(MAX_TASKS, work // MIN_TASK))
    size = -(-extent // tasks)
    size = -(-size // 16) * 16
    return [(start, min(extent, start + size)) for start in range(0, extent, size)]


def _matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Compute out = a @ b over blocks of out's longer side."""
    m, n = out.shape
    work = m * n * a.shape[1]
    blocks = _blocks(max(m, n), work)

    def task(index: int) -> None:
        block = slice(*blocks[index])
        if n >= m:
            np.matmul(a, b[:, block], out=out[:, block])
        else:
            np.matmul(a[block], b, out=out[block])

    parallel(task, len(blocks))


@widened
def linear(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    activation: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Compute y[n,o] = activation(sum_i x[n,i] * w[o,i] + b[o]).

    Parameters
    ----------
    x : (N, I), float32 or float64
    w : (O, I)
    b : (O,), optional
    activation : None or "relu"
    out : (N, O), optional, written completely

    Returns
    -------
    y : (N, O), dtype of x
    """
    y = np.empty((x.shape[0], w.shape[0]), x.dtype) if out is None else out
    blocks = _blocks(w.shape[0], x.shape[0] * w.size)

    def task(index: int) -> None:
        block = slice(*blocks[index])
        part = y[:, block]
        if len(x) < len(w):
            # BLAS is up to twice as fast with the long matrix on the left, where it need not transpose it.
            transposed = scratch("linear", part.shape[::-1], x.dtype)
            part[...] = np.matmul(w[block], x.T, out=transposed).T
        else:
            np.matmul(x, w[block].T, out=part)
        if b is not None:
            part += b[block]
        if activation == "relu":
            np.maximum(part, 0, out=part)

    parallel(task, len(blocks))
    return y


@widened
def linear_dgrad(
    dy: np.ndarray, w: np.ndarray, *, mask: np.ndarray | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """Compute the gradient of `linear` for its input: dx[n,i] = sum_o dy[n,o] * w[o,i].

    Parameters
    ----------
    dy : (N, O), float32 or float64
    w : (O, I)
    mask : (N, I), optional
        The output of the ReLU that x is: dx goes back through it, see `relu_backward`.
    out : (N, I), optional, written completely

    Returns
    -------
    dx : (N, I), dtype of dy
    """
    dx = np.empty((dy.shape[0], w.shape[1]), dy.dtype) if out is None else out
    _matmul(dy, w, dx)
    return dx if mask is None else relu_backward(dx, mask, out=dx)


@widened
def linear_wgrad(dy: np.ndarray, x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """Compute the gradient of `linear` for its weights: dw[o,i] = sum_n dy[n,o] * x[n,i].

    Parameters
    ----------
    dy : (N, O), float32 or float64
    x : (N, I)
    out : (O, I), optional, written completely

    Returns
    -------
    dw : (O, I), dtype of dy
    """
    dw = np.empty((dy.shape[1], x.shape[1]), dy.dtype) if out is None else out
    _matmul(dy.T, x, dw)
    return dw
