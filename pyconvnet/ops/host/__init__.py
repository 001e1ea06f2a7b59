"""Compiled kernels of the `cpu` device: what they do in place of :mod:`pyconvnet.ops.reference`.

``pyconvnet._host`` has them for float32; everything else, and a machine without the module, has the
reference. Each family's module here says which calls of its functions have a kernel. ``PYCONVNET_HOST`` says
which vector instructions they use: ``avx512``, ``avx2`` or ``generic`` (default: the first that the processor
has), or ``0`` for the reference everywhere; or it is the path of the module to use, a sanitized build say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import reference
from . import augment, conv, lrn_max_pool, module, norm, optim, pointwise, pool

_KERNELS: dict[Callable[..., Any], Callable[..., module.Call | None]] = {
    getattr(reference, function.__name__): function
    for function in (
        augment.augment,
        conv.conv2d,
        conv.conv2d_dgrad,
        conv.conv2d_wgrad,
        lrn_max_pool.lrn_max_pool2d,
        lrn_max_pool.lrn_max_pool2d_backward,
        norm.lrn,
        norm.lrn_backward,
        norm.lrn_spatial,
        norm.lrn_spatial_backward,
        optim.sgd_momentum,
        pointwise.bias_backward,
        pointwise.relu,
        pointwise.relu_backward,
        pool.avg_pool2d,
        pool.avg_pool2d_backward,
        pool.max_pool2d,
        pool.max_pool2d_backward,
    )
}


def call_for(
    function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> module.Call | None:
    """Return what does a reference function by a kernel, and its arguments; None: there is none.

    Parameters
    ----------
    function : callable
        Of :mod:`pyconvnet.ops.reference`, or any other.
    args, options :
        Its arguments, checked.
    """
    kernel = _KERNELS.get(function)
    if kernel is None or module.level() is None or (call := kernel(*args, **options)) is None:
        return None
    if all(value.flags.aligned for value in call[1] if isinstance(value, np.ndarray)):
        return call
    if "out" not in options:  # written in place
        return None
    out, db = options["out"], options.get("bias_grad")
    written = (*(out if isinstance(out, tuple) else (out,)), *(() if db is None else (db,)))
    return _on_copies, (call[0], written, *call[1])


def _on_copies(run: Callable[..., None], written: tuple[np.ndarray, ...], *args: Any) -> None:
    """Run a kernel on copies of arrays that do not start at a multiple of their elements' size."""
    copies = {id(a): a.copy() for a in args if isinstance(a, np.ndarray) and not a.flags.aligned}
    run(*(copies.get(id(value), value) for value in args))
    for array in written:
        if id(array) in copies:
            array[...] = copies[id(array)]
