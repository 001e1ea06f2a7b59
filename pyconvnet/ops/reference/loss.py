"""Softmax and cross-entropy on the `cpu` device."""

from __future__ import annotations

import numpy as np

from ...common.threads import parallel, ranges, scratch
from .widen import widened

__all__ = ["softmax", "softmax_cross_entropy"]

_PIECE = 64 * 1024  # elements of the logits a task works on


def _exponentials(x: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute out = exp(x - max of its row); return the maxima and the sums, (rows, 1) each."""
    top = x.max(axis=1, keepdims=True)
    np.subtract(x, top, out=out)
    np.exp(out, out=out)
    return top, out.sum(axis=1, keepdims=True)


@widened
def softmax(x: np.ndarray, *, out: np.ndarray) -> np.ndarray:
    """Compute y[n, c] = exp(x[n, c]) / sum over c of exp(x[n, c]), (N, C). `out` may be x."""
    pieces = ranges(x.shape[0], max(1, _PIECE // x.shape[1]))

    def task(i: int) -> None:
        start, stop = pieces[i]
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, and meant to be
            _, total = _exponentials(x[start:stop], out[start:stop])
            np.divide(out[start:stop], total, out=out[start:stop])

    parallel(task, len(pieces))
    return out


@widened
def softmax_cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    class_weights: np.ndarray | None,
    topk: int,
    metrics: np.ndarray | None,
    grad_scale: float,
    *,
    out: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the loss and its gradient.

    loss = mean of -log softmax(logits)[label] weight[label]; dlogits = (softmax - onehot) grad_scale
    weight[label].

    `dlogits` may be logits.

    Parameters
    ----------
    logits : (N, C)
    labels : (N,) int32, all in 0 … C-1
    class_weights : (C,), or None for 1 each
    topk : an example is a top-k error where k or more classes come before its own (greater logit, or equal
        and of
        smaller index), or where a logit is NaN
    metrics : (4,) float64 or None; += [N, sum of losses, top-1 errors, top-k errors]
    out : (loss (), dlogits (N, C))
    """
    loss, dlogits = out
    n, classes = logits.shape
    losses = np.empty(n, np.float64)
    ranks = np.empty(n, np.int64)
    index = np.arange(classes, dtype=np.int32)
    weights = None if class_weights is None else class_weights[labels].astype(np.float64)
    factors = None if weights is None else (grad_scale * weights).astype(logits.dtype)
    pieces = ranges(n, max(1, _PIECE // classes))

    def task(i: int) -> None:
        start, stop = pieces[i]
        x, label, gradient = logits[start:stop], labels[start:stop, None], dlogits[start:stop]
        x_label = np.take_along_axis(x, label, axis=1)
        before = scratch("loss.before", x.shape, np.bool_)
        ties = scratch("loss.ties", x.shape, np.bool_)
        np.equal(x, x_label, out=ties)
        np.logical_and(ties, index < label, out=ties)
        np.greater(x, x_label, out=before)
        np.logical_or(before, ties, out=before)
        ranks[start:stop] = np.count_nonzero(before, axis=1)
        with np.errstate(
            invalid="ignore", over="ignore", divide="ignore"
        ):  # NaN and inf come out as they should
            top, total = _exponentials(x, gradient)
            losses[start:stop] = (np.log(total) - (x_label - top))[:, 0]
            np.multiply(gradient, 1 / total, out=gradient)
        ranks[start:stop][np.isnan(total[:, 0])] = np.iinfo(np.int64).max
        gradient[np.arange(stop - start), label[:, 0]] -= 1
        gradient *= gradient.dtype.type(grad_scale) if weights is None else factors[start:stop, None]

    parallel(task, len(pieces))
    if weights is not None:
        with np.errstate(invalid="ignore"):
            losses *= weights
    total = losses.sum()
    loss[...] = total / n
    if metrics is not None:
        metrics += [n, total, np.count_nonzero(ranks >= 1), np.count_nonzero(ranks >= topk)]
    return loss, dlogits
