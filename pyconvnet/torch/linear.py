"""Fully connected layers on tensors."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from ..ops.conv import activation_code
from . import operators
from .operators import Memory, operator
from .pointwise import bias_backward, relu_backward


def _empty(x: Any, w: Any, b: Any, activation: Any, precision: Any) -> Any:
    rows, _ = operators.shape_of("linear", "x", x, "N, I")
    columns, _ = operators.shape_of("linear", "w", w, "O, I")
    return torch.empty((rows, columns), dtype=x.dtype, device=x.device)


@operator("linear(Tensor x, Tensor w, Tensor? b, str? activation, str? precision) -> Tensor", _empty)
def _linear(memory: Memory, y: Any, x: Any, w: Any, b: Any, activation: Any, precision: Any) -> None:
    arrays = (
        memory.plain("x", x),
        memory.plain("w", operators.beside(x, w)),
        memory.plain("b", operators.bias_beside(x, b)),
    )
    how = {"activation": activation, "precision": precision, "workspace": memory}
    ops.linear(*arrays, out=memory.plain("out", y), **how)


@operator(
    "linear_dgrad(Tensor dy, Tensor w, str? precision) -> Tensor",
    lambda dy, w, precision: torch.empty((dy.shape[0], w.shape[1]), dtype=dy.dtype, device=dy.device),
)
def linear_dgrad(memory: Memory, dx: Any, dy: Any, w: Any, precision: Any) -> None:
    """Compute the gradient of :func:`linear` for x."""
    arrays = memory.plain("dy", dy), memory.plain("w", operators.beside(dy, w))
    ops.linear_dgrad(*arrays, precision=precision, out=memory.plain("out", dx), workspace=memory)


def _empty_wgrad(dy: Any, x: Any, bias: bool, precision: Any) -> Any:
    how = {"dtype": operators.master(dy.dtype), "device": dy.device}
    shapes = [(dy.shape[1], x.shape[1]), (dy.shape[1],)]
    return [torch.empty(shape, **how) for shape in shapes[: 1 + bias]]


@operator("linear_wgrad(Tensor dy, Tensor x, bool bias, str? precision) -> Tensor[]", _empty_wgrad)
def linear_wgrad(memory: Memory, results: Any, dy: Any, x: Any, bias: bool, precision: Any) -> None:
    """Compute the gradients of :func:`linear` for w and, with `bias`, for b: [dw] or [dw, db]."""
    dw, db = results if bias else (*results, None)
    how = {"bias_grad": memory.plain("bias_grad", db), "precision": precision, "workspace": memory}
    ops.linear_wgrad(memory.plain("dy", dy), memory.plain("x", x), out=memory.plain("out", dw), **how)


def _save(ctx: Any, inputs: tuple, output: Any) -> None:
    x, w, b, activation, ctx.precision = inputs
    ctx.save_for_backward(x, w, b, output if activation else None)


def _backward(ctx: Any, dy: Any) -> tuple:
    x, w, b, y = ctx.saved_tensors
    if y is not None:
        dy = relu_backward(dy, y)
    needs_dx, needs_dw, needs_db = ctx.needs_input_grad[:3]
    dx = dw = db = None
    if needs_dx:
        dx = linear_dgrad(dy, w, ctx.precision)
    if needs_dw:
        dw, *found = linear_wgrad(dy, x, needs_db, ctx.precision)
        dw = dw.to(w.dtype)
        db = found[0].to(b.dtype) if found else None
    elif needs_db:
        db = bias_backward(dy).to(b.dtype)
    return dx, dw, db, None, None


_linear.register_autograd(_backward, setup_context=_save)


def linear(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    precision: str | None = None,
) -> torch.Tensor:
    """Compute a fully connected layer: :func:`pyconvnet.ops.linear`.

    Parameters
    ----------
    x : tensor (..., I), float32 or bfloat16 (on the CPU also float64)
    w : tensor (O, I), dtype of x, or float32 beside bfloat16, for which it is rounded
    b : tensor (O,), optional, of the dtype of w
    activation : None or "relu"
    precision : None, "fp32", "tf32", "fp32x3" or "bf16"

    Returns
    -------
    y : tensor (..., O), dtype of x

    Raises
    ------
    ValueError, TypeError
        As the operation.
    """
    activation_code("linear", activation)
    if x.dim() == 0:
        raise ValueError("linear: x must have at least 1 dimension (..., I), got shape ()")
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return _linear(rows, w, b, activation, precision).reshape(*x.shape[:-1], w.shape[0])
