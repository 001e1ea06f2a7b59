"""Stochastic gradient descent with momentum on the `cpu` device."""

from __future__ import annotations

import numpy as np

from ...common.threads import parallel, scratch

__all__ = ["sgd_momentum"]

_PIECE = 32 * 1024  # elements a task works on: w, v, g and the scratch are 512 KiB


def sgd_momentum(
    w: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    hyper: np.ndarray,
    ends: np.ndarray,
    lr_mult: np.ndarray,
    weight_decay: np.ndarray,
    step: np.ndarray | None = None,
    w_bf16: np.ndarray | None = None,
) -> None:
    """Compute v <- momentum v - weight_decay[s] lr lr_mult[s] w - lr lr_mult[s] g; w <- w + v, in place.

    The rule of the paper, section 5.

    Parameters
    ----------
    w, v, g : (count,)
    hyper : (2,), [lr, momentum], in the dtype of w like everything but ends
    ends : (S,) int64, segment s is [ends[s-1], ends[s])
    lr_mult, weight_decay : (S,); a segment with lr_mult 0 is left untouched
    step : (1,) int64, optional; grows by one
    w_bf16 : (count,) bfloat16, optional; gets the updated elements of w, rounded
    """
    lr, momentum = hyper
    tasks = []
    start = 0
    for s, end in enumerate(ends.tolist()):
        if lr_mult[s] != 0:
            rate = lr * lr_mult[s]
            tasks += [
                (a, min(a + _PIECE, end), rate, weight_decay[s] * rate) for a in range(start, end, _PIECE)
            ]
        start = end

    def task(i: int) -> None:
        a, b, rate, decay = tasks[i]
        weight, velocity = w[a:b], v[a:b]
        term = scratch("optim.term", weight.shape, weight.dtype)
        velocity *= momentum
        if decay != 0:
            np.multiply(weight, decay, out=term)
            velocity -= term
        np.multiply(g[a:b], rate, out=term)
        velocity -= term
        weight += velocity
        if w_bf16 is not None:
            w_bf16[a:b] = weight

    parallel(task, len(tasks))
    if step is not None:
        step += 1
