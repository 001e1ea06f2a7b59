"""Softmax, and softmax with cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from ..common.precision import accumulation_dtype
from . import core, reference
from .launch import HostCall, Launch, Prepared, as_int32
from .operation import operation


@operation()
def softmax(logits: Any, *, out: Any = None, kernel: str | None = None) -> Any:
    """Compute the classes' probabilities, ``y[n, c] = exp(logits[n, c]) / sum over c of exp(logits[n, c])``.

    The maximum of each row is subtracted first, so that no exponential overflows.

    Parameters
    ----------
    logits : array (N, C)
    out : array (N, C), optional; may be logits.
    kernel : str, optional
        Forces one of ``ops.kernels("softmax", logits.shape)``.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, not two dimensions, empty, not contiguous, `out` that does not fit.
    """
    op = "softmax"
    dev, inputs = core.arrays(op, logits=logits)
    logits = inputs["logits"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, logits=logits)
    shape = checks.check_rank(op, "logits", logits, "N, C")
    checks.check_contiguous(op, logits=logits)
    y = core.output(op, dev, inputs, out, shape, dtype, itself=("logits",))
    if dev.ext is None:
        return Prepared(dev, y, HostCall(reference.softmax, logits, out=y))
    extent = dev.ext.LossShape(examples=shape[0], classes=shape[1])
    return Prepared(dev, y, Launch(op, dev, op, extent, (y, logits), kernel=kernel))


@operation(updated=("metrics",))
def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    *,
    class_weights: Any = None,
    topk: int = 5,
    metrics: Any = None,
    grad_scale: float | None = None,
    out: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> tuple[Any, Any]:
    """Compute the mean of ``-log softmax(logits[n])[labels[n]]`` (logistic regression), and its gradient.

    ``dlogits = (softmax(logits) - onehot(labels)) grad_scale``. With ``class_weights`` w, example n's loss
    and its row of dlogits are multiplied by ``w[labels[n]]``; the mean still divides by N, not by the sum of
    the weights, so that an example counts the same in whatever batch it comes.

    An example is a top-k error where at least k classes come before its own: those with a greater logit, and
    those with an equal one and a smaller index. A NaN among its logits makes it an error.

    Parameters
    ----------
    logits : array (N, C); in bfloat16 only logits and dlogits are, all between is float32
    labels : array (N,) of integers, each in 0 … C-1
        int32 is read as it is, other dtypes are converted to it on the device they are on.
    class_weights : array (C,) of the logits' dtype, float32 beside bfloat16; optional
        Factors of the classes, none negative.
    topk : k of the top-k errors, at least 1
    metrics : float64 array (4,), optional
        ``[N, sum of the (weighted) losses, top-1 errors, top-k errors]`` is added to it.
    grad_scale : number, optional; None: 1 / N, the gradient of the mean.
    out : (loss, dlogits), optional; arrays () and (N, C). dlogits may be logits.
    kernel : str, optional
        Forces one of ``ops.kernels("softmax_cross_entropy", logits.shape)``.
    workspace : object with ``get(nbytes)``, optional
        Lends the kernel its scratch memory; otherwise it is allocated.

    Returns
    -------
    loss : array (), dtype of logits, but float32 where they are bfloat16
    dlogits : array (N, C)

    Raises
    ------
    TypeError, ValueError
        Wrong dtypes or shapes; not contiguous; `out` that does not fit; on the host, a label outside 0 … C-1
        and a class weight that is negative or not finite. On a CUDA device neither is read back: there such a
        label, be it beyond int32, makes the loss and its row of dlogits NaN and counts as an error, and such
        a weight is multiplied with.
    """
    op = "softmax_cross_entropy"
    topk = checks.integer(op, "topk", topk, minimum=1, maximum=2**31 - 1)
    named = {"logits": logits, "labels": labels, "class_weights": class_weights, "metrics": metrics}
    dev, inputs = core.arrays(op, ("class_weights", "metrics"), **named)
    logits, labels, class_weights, metrics = inputs.values()
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, logits=logits)
    n, classes = checks.check_rank(op, "logits", logits, "N, C")
    checks.check_shape(op, "labels", labels, (n,), "for the rows of logits")
    if class_weights is not None:
        checks.check_dtype(op, "class_weights", class_weights, accumulation_dtype(dtype))
        checks.check_shape(op, "class_weights", class_weights, (classes,), "for the classes of logits")
    checks.check_contiguous(op, logits=logits, labels=labels, class_weights=class_weights)
    classified, conversion = as_int32(op, dev, "labels", labels)
    content_checks = ()
    if dev.kind != "cuda":
        content_checks = (HostCall(_check_labels, op, labels, classes),)
        if class_weights is not None:
            content_checks += (HostCall(_check_weights, op, class_weights),)
    if metrics is not None:
        core.writable(op, "metrics", dev, metrics, (4,), np.float64)
    grad_scale = 1.0 / n if grad_scale is None else checks.real(op, "grad_scale", grad_scale)
    specs = ("loss", (), accumulation_dtype(dtype)), ("dlogits", (n, classes), dtype)
    itself = {"dlogits": ("logits",)}
    loss, dlogits = core.outputs(op, dev, inputs, out, *specs, itself=itself, updated=("metrics",))
    if dev.ext is None:
        args = (logits, classified, class_weights, topk, metrics, grad_scale)
        step = HostCall(reference.softmax_cross_entropy, *args, out=(loss, dlogits))
    else:
        extent = dev.ext.LossShape(examples=n, classes=classes)
        args = (loss, dlogits, metrics, logits, classified, class_weights, topk, grad_scale)
        how = {"with_workspace": True, "kernel": kernel, "workspace": workspace}
        step = Launch(op, dev, op, extent, args, **how)
    how = {"checks": content_checks, "scratch": (classified,)}
    return Prepared(dev, (loss, dlogits), *conversion, step, **how)


def _check_labels(op: str, labels: Any, classes: int) -> None:
    """Check that every label is a class; ValueError else."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"{op}: labels must be in 0 … {classes - 1}, got {labels[i]} at index {i}")


def _check_weights(op: str, class_weights: Any) -> None:
    if not (class_weights >= 0).all() & np.isfinite(class_weights).all():
        raise ValueError(f"{op}: class_weights must be finite and not negative, got {class_weights}")


@core.lists_kernels("softmax", "softmax_cross_entropy")
def _list_kernels(op: str, dev: Device, shape: tuple[int, ...]) -> Any:
    examples, classes = checks.shape_tuple(op, "shape", shape, "N, C")
    return dev.ext.LossShape(examples=examples, classes=classes)
