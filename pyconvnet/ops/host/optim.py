"""Gradient descent on the `cpu` device by a compiled kernel.

The arguments are those of :mod:`pyconvnet.ops.reference.optim`.
"""

from __future__ import annotations

import numpy as np

from ...common.threads import ranges
from . import module

#: Elements that are worth a thread.
_TASK = 1 << 17


def _sgd_momentum(
    w: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    hyper: np.ndarray,
    ends: np.ndarray,
    lr_mult: np.ndarray,
    weight_decay: np.ndarray,
    step: np.ndarray | None,
    w_bf16: np.ndarray | None,
) -> None:
    kernel, level = module.ext().sgd, module.level()
    lr, momentum = hyper
    tasks, start = [], 0
    for end, factor, decay in zip(ends.tolist(), lr_mult, weight_decay, strict=True):
        if factor != 0 and end > start:
            rate = lr * factor
            numbers = float(momentum), float(decay * rate), float(rate)
            tasks += [(start + a, start + b, *numbers) for a, b in ranges(end - start, _TASK)]
        start = end

    def task(i: int) -> None:
        kernel(level, w.size, *tasks[i], g, w, v)
        if w_bf16 is not None:
            some = slice(*tasks[i][:2])
            w_bf16[some] = w[some]

    module.each(task, len(tasks))
    if step is not None:
        step += 1


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
) -> module.Call | None:
    """Return what takes a step, and its arguments; None where that is the reference's."""
    if not module.suits(w, v, g, hyper, lr_mult, weight_decay):
        return None
    return _sgd_momentum, (w, v, g, hyper, ends, lr_mult, weight_decay, step, w_bf16)
