"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from ..common.precision import BFLOAT16
from . import core, reference
from .launch import HostCall, Launch, Prepared
from .operation import operation


@operation(updated=("w", "v", "step", "w_bf16"))
def sgd_momentum(
    w: Any,
    v: Any,
    g: Any,
    *,
    hyper: Any,
    ends: Any,
    lr_mult: Any,
    weight_decay: Any,
    step: Any = None,
    w_bf16: Any = None,
    kernel: str | None = None,
) -> None:
    """Take a step of the paper's rule (section 5) with all parameters of a network, in place.

    ``v <- momentum v - weight_decay[s] lr lr_mult[s] w - lr lr_mult[s] g``, then ``w <- w + v``, for the
    elements of segment s; a segment with ``lr_mult[s] == 0`` is frozen: not a bit of its w and v changes.

    Parameters
    ----------
    w, v, g : arrays (count,): parameters, velocities, gradients of the mean loss
    hyper : array (2,), ``[lr, momentum]``; the kernel reads it, so that it may change between replays of a
        captured graph
    ends : int64 array (S,); segment s is ``[ends[s-1], ends[s])`` with ``ends[-1]`` = 0 before the first
    lr_mult, weight_decay : arrays (S,)
    step : int64 array (1,), optional
        The count of updates on the device: grows by one, also where every segment is frozen.
    w_bf16 : bfloat16 array (count,), optional
        The copy of w that products in bfloat16 read. The same pass writes into it every element of w that it
        updates, rounded to nearest, ties to even; in frozen segments it stays as it is.
    kernel : str, optional
        Forces one of ``ops.kernels("sgd_momentum", count, S)``.

    All floating arrays but `w_bf16` have one dtype, float32 or, on ``cpu``, float64.

    Raises
    ------
    TypeError, ValueError
        Wrong dtypes or shapes; not contiguous; read-only; on the host, ends that fall or do not end at count.
        On a CUDA device ends are not read back: elements beyond the last one are left as they are.
    """
    op = "sgd_momentum"
    dev, inputs = core.arrays(
        op,
        ("step", "w_bf16"),
        w=w,
        v=v,
        g=g,
        hyper=hyper,
        ends=ends,
        lr_mult=lr_mult,
        weight_decay=weight_decay,
        step=step,
        w_bf16=w_bf16,
    )
    w, v, g, hyper, ends, lr_mult, weight_decay, step, w_bf16 = inputs.values()
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, w=w, v=v, g=g, hyper=hyper, lr_mult=lr_mult, weight_decay=weight_decay)
    if dtype == BFLOAT16:
        raise TypeError(f"{op}: w must be float32, got bfloat16, too coarse for small steps to add up")
    (count,) = checks.check_rank(op, "w", w, "count")
    checks.check_shape(op, "g", g, (count,), "like w")
    checks.check_shape(op, "hyper", hyper, (2,), "[lr, momentum]")
    checks.check_dtype(op, "ends", ends, np.int64)
    (segments,) = checks.check_rank(op, "ends", ends, "S")
    checks.check_shape(op, "lr_mult", lr_mult, (segments,), "like ends")
    checks.check_shape(op, "weight_decay", weight_decay, (segments,), "like ends")
    checks.check_contiguous(op, g=g, hyper=hyper, ends=ends, lr_mult=lr_mult, weight_decay=weight_decay)
    core.writable(op, "w", dev, w, (count,), dtype)
    core.writable(op, "v", dev, v, (count,), dtype)
    if step is not None:
        core.writable(op, "step", dev, step, (1,), np.int64)
    if w_bf16 is not None:
        core.writable(op, "w_bf16", dev, w_bf16, (count,), BFLOAT16)
    core.outputs(op, dev, inputs, None, updated=("w", "v", "step", "w_bf16"))
    if dev.ext is None:
        how = HostCall(reference.sgd_momentum, w, v, g, hyper, ends, lr_mult, weight_decay, step, w_bf16)
    else:
        extent = dev.ext.SgdShape(count=count, segments=segments)
        args = (w, v, w_bf16, step, g, hyper, ends, lr_mult, weight_decay)
        how = Launch(op, dev, op, extent, args, kernel=kernel)
    content_checks = () if dev.kind == "cuda" else (HostCall(_check_ends, op, ends, count),)
    return Prepared(dev, None, how, checks=content_checks)


def _check_ends(op: str, ends: Any, count: int) -> None:
    """Check that the segments follow each other and cover all elements; ValueError else."""
    if ends[0] < 0 or (ends[1:] < ends[:-1]).any():
        raise ValueError(f"{op}: ends must not fall, got {ends.tolist()}")
    if ends[-1] != count:
        raise ValueError(f"{op}: ends must end at the {count} elements of w, got {ends[-1]}")


@core.lists_kernels("sgd_momentum")
def _list_kernels(op: str, dev: Device, count: int, segments: int) -> Any:
    count = checks.integer(op, "count", count, minimum=1, maximum=checks.MAX_ELEMENTS)
    segments = checks.integer(op, "segments", segments, minimum=1, maximum=checks.MAX_ELEMENTS)
    return dev.ext.SgdShape(count=count, segments=segments)
