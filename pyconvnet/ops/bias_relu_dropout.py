"""Bias, ReLU and dropout in one pass: what follows a fully connected layer's product in training."""

from __future__ import annotations

from typing import Any

from ..common import checks
from ..common.precision import accumulation_dtype
from . import core, draws, reference
from .launch import HostCall, Launch, Prepared
from .operation import operation

_OP = "bias_relu_dropout"


@operation(varying="step")
def bias_relu_dropout(
    x: Any,
    b: Any = None,
    p: float = 0.5,
    seed: int = 0,
    step: Any = 0,
    layer: int = 0,
    *,
    scale: float | None = None,
    window: tuple[int, int, int] | None = None,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Compute ``y = dropout(relu(x + b))`` in one pass: :func:`add_bias`, :func:`relu`, :func:`dropout`.

    Which elements are kept is what :func:`dropout` says for the same arguments. No mask is returned: where
    y > 0, the element was kept and its ReLU active, so ``relu_backward(dy, y)`` times scale is the gradient
    with respect to x. float32 and float64 give the bits of the three functions, bfloat16 is rounded once.

    Parameters
    ----------
    x : array (..., C), float32 or bfloat16 (on the cpu also float64)
    b : array (C,), of the dtype of x, or float32 where that is bfloat16; optional
    p, seed, step, layer, scale, window :
        As for :func:`dropout`.
    out : array like x, optional; may be x.
    kernel : str, optional
        Forces one of ``ops.kernels("bias_relu_dropout", x.shape)``.

    Returns
    -------
    y : like x; NaN where x + b is and the element is kept

    Raises
    ------
    TypeError, ValueError
        As for :func:`dropout`; b of another length.
    """
    dev, inputs, draw = draws.check_draw(_OP, p, seed, step, layer, scale, ("b",), x=x, b=b)
    x, b = inputs["x"], inputs["b"]
    core.refuse_kernel_on_cpu(_OP, dev, kernel)
    dtype = core.check_float(_OP, dev, x=x)
    shape = checks.check_rank(_OP, "x", x, "..., C")
    if b is not None:
        checks.check_dtype(_OP, "b", b, accumulation_dtype(dtype))
        checks.check_shape(_OP, "b", b, shape[-1:], "for the last axis of x")
    checks.check_contiguous(_OP, x=x, b=b)
    window = draws.check_window(_OP, window, shape[-1])
    y = core.output(_OP, dev, inputs, out, shape, dtype, itself=("x",))
    if dev.ext is None:
        return Prepared(dev, y, HostCall(reference.bias_relu_dropout, x, b, *draw.host(window), out=y))
    extent, args = draws.masked_shape(dev, x, window), (y, x, b, *draw.kernel())
    return Prepared(dev, y, Launch(_OP, dev, _OP, extent, args, kernel=kernel))
