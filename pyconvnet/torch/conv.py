"""Convolution on tensors (N, C, H, W)."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from ..ops.conv import Geometry, activation_code
from . import operators
from .operators import KCRS, NCHW, Memory, operator
from .pointwise import bias_backward, relu_backward


def _geometry(op: str, x_shape: Any, w_shape: Any, stride: Any, pad: Any, groups: int) -> Geometry:
    if groups > 0 and w_shape[1] * groups != x_shape[1]:
        raise ValueError(
            f"{op}: w must have shape ({KCRS}) with C={x_shape[1]} like x and groups={groups}, got "
            f"{tuple(w_shape)} for x ({NCHW}) of shape {tuple(x_shape)}"
        )
    shapes = operators.last(x_shape), operators.last(w_shape)
    return Geometry(op, *shapes, tuple(stride), operators.sides(pad), groups)


def _how(stride: Any, pad: Any, groups: int, precision: str | None) -> dict[str, Any]:
    return {"stride": tuple(stride), "pad": operators.sides(pad), "groups": groups, "precision": precision}


# ---- forward -----------------------------------------------------------------------------------------------


def _empty(
    x: Any, w: Any, b: Any, stride: Any, pad: Any, groups: int, activation: Any, precision: Any
) -> Any:
    op = "conv2d"
    shapes = operators.shape_of(op, "x", x, NCHW), operators.shape_of(op, "w", w, KCRS)
    return operators.empty_pixels(x, operators.first(_geometry(op, *shapes, stride, pad, groups).y_shape))


@operator(
    "conv2d(Tensor x, Tensor w, Tensor? b, int[2] stride, int[4] pad, int groups, str? activation, "
    "str? precision) -> Tensor",
    _empty,
)
def _conv2d(
    memory: Memory, y: Any, x: Any, w: Any, b: Any, stride: Any, pad: Any, groups: Any, activation: Any,
    precision: Any,
) -> None:  # fmt: skip
    arrays = (
        memory.pixels("x", x),
        memory.pixels("w", operators.beside(x, w)),
        memory.plain("b", operators.bias_beside(x, b)),
    )
    how = _how(stride, pad, groups, precision) | {"activation": activation, "workspace": memory}
    ops.conv2d(*arrays, out=memory.pixels("out", y), **how)


# ---- gradients ---------------------------------------------------------------------------------------------


def _empty_dgrad(dy: Any, w: Any, x_shape: Any, stride: Any, pad: Any, groups: int, precision: Any) -> Any:
    return operators.empty_pixels(dy, x_shape)


@operator(
    "conv2d_dgrad(Tensor dy, Tensor w, SymInt[4] x_shape, int[2] stride, int[4] pad, int groups, "
    "str? precision) -> Tensor",
    _empty_dgrad,
)
def conv2d_dgrad(
    memory: Memory, dx: Any, dy: Any, w: Any, x_shape: Any, stride: Any, pad: Any, groups: Any, precision: Any
) -> None:
    """Compute the gradient of :func:`conv2d` for x."""
    how = _how(stride, pad, groups, precision) | {"workspace": memory}
    arrays = memory.pixels("dy", dy), memory.pixels("w", operators.beside(dy, w))
    ops.conv2d_dgrad(*arrays, operators.last(x_shape), out=memory.pixels("out", dx), **how)


def _empty_wgrad(
    dy: Any, x: Any, w_shape: Any, stride: Any, pad: Any, groups: int, bias: bool, precision: Any
) -> Any:
    dtype = operators.master(dy.dtype)
    dw = operators.empty_pixels(dy, w_shape, dtype)
    return [dw, torch.empty(w_shape[0], dtype=dtype, device=dy.device)] if bias else [dw]


@operator(
    "conv2d_wgrad(Tensor dy, Tensor x, SymInt[4] w_shape, int[2] stride, int[4] pad, int groups, bool bias, "
    "str? precision) -> Tensor[]",
    _empty_wgrad,
)
def conv2d_wgrad(
    memory: Memory, results: Any, dy: Any, x: Any, w_shape: Any, stride: Any, pad: Any, groups: Any,
    bias: Any, precision: Any,
) -> None:  # fmt: skip
    """Compute the gradients of :func:`conv2d` for w and, with `bias`, for b: [dw] or [dw, db]."""
    dw, db = results if bias else (*results, None)
    how = _how(stride, pad, groups, precision) | {"workspace": memory}
    arrays = memory.pixels("dy", dy), memory.pixels("x", x)
    how |= {"bias_grad": memory.plain("bias_grad", db), "out": memory.pixels("out", dw)}
    ops.conv2d_wgrad(*arrays, operators.last(w_shape), **how)


def _save(ctx: Any, inputs: tuple, output: Any) -> None:
    x, w, b, stride, pad, groups, activation, precision = inputs
    ctx.save_for_backward(x, w, b, output if activation else None)
    ctx.how = stride, pad, groups
    ctx.precision = precision


def _backward(ctx: Any, dy: Any) -> tuple:
    x, w, b, y = ctx.saved_tensors
    if y is not None:
        dy = relu_backward(dy, y)
    needs_dx, needs_dw, needs_db = ctx.needs_input_grad[:3]
    dx = dw = db = None
    if needs_dx:
        dx = conv2d_dgrad(dy, w, x.shape, *ctx.how, ctx.precision)
    if needs_dw:
        dw, *found = conv2d_wgrad(dy, x, w.shape, *ctx.how, needs_db, ctx.precision)
        dw = dw.to(w.dtype)
        db = found[0].to(b.dtype) if found else None
    elif needs_db:
        db = bias_backward(dy).to(b.dtype)
    return dx, dw, db, *[None] * 5


_conv2d.register_autograd(_backward, setup_context=_save)


def conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    stride: Any = 1,
    pad: Any = 0,
    groups: int = 1,
    activation: str | None = None,
    precision: str | None = None,
) -> torch.Tensor:
    """Convolve, add a bias, apply an activation: :func:`pyconvnet.ops.conv2d` (which see for the options).

    Parameters
    ----------
    x : tensor (N, C, H, W), float32 or bfloat16 (on the CPU also float64)
    w : tensor (K, C/groups, R, S), dtype of x, or float32 beside bfloat16, for which it is rounded
    b : tensor (K,), optional, of the dtype of w
    stride, pad, groups, precision :
        As in the operation; pad also ((top, bottom), (left, right)).
    activation : None or "relu"

    Returns
    -------
    y : tensor (N, K, P, Q), dtype of x, in channels_last memory

    Raises
    ------
    ValueError, TypeError
        As the operation; what it says of shapes is in its order, (N, H, W, C) and (K, R, S, C/groups).
    """
    op = "conv2d"
    activation_code(op, activation)
    groups = operators.integer(op, "groups", groups, 1)
    how = operators.pair(op, "stride", stride), operators.padding(op, "pad", pad), groups
    return _conv2d(x, w, b, *how, activation, precision)
