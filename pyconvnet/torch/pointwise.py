"""ReLU, dropout and gradients of biases on tensors of any shape.

A tensor of 4 dimensions is (N, C, H, W) and taken as it lies in channels_last memory; of others the last axis
holds the channels.
"""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from . import operators
from .operators import Memory, operator


@operator("relu(Tensor x) -> Tensor", operators.empty_like)
def _relu(memory: Memory, y: Any, x: Any) -> None:
    ops.relu(memory.elements("x", x), out=memory.elements("out", y))


@operator("relu_backward(Tensor dy, Tensor y) -> Tensor", lambda dy, y: operators.empty_like(dy))
def relu_backward(memory: Memory, dx: Any, dy: Any, y: Any) -> None:
    """Compute the gradient of :func:`relu`: dy where y is positive, else 0."""
    arrays = memory.elements("dy", dy), memory.elements("y", y)
    ops.relu_backward(*arrays, out=memory.elements("out", dx))


_relu.register_autograd(
    lambda ctx, dy: relu_backward(dy, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output),
)


def relu(x: torch.Tensor) -> torch.Tensor:
    """Apply a rectified linear unit, ``y = max(x, 0)``: :func:`pyconvnet.ops.relu`.

    Parameters
    ----------
    x : tensor, any shape, float32 or bfloat16 (on the CPU also float64)

    Raises
    ------
    TypeError, ValueError
        As the operation.
    """
    return _relu(x)


def _empty_bias(dy: Any) -> Any:
    return torch.empty(dy.shape[1], dtype=operators.master(dy.dtype), device=dy.device)


@operator("bias_backward(Tensor dy) -> Tensor", _empty_bias)
def bias_backward(memory: Memory, db: Any, dy: Any) -> None:
    """Sum dy (N, K, P, Q) or (N, O) over all axes but the second, in a fixed order."""
    ops.bias_backward(memory.elements("dy", dy), out=memory.plain("out", db), workspace=memory)


# ---- dropout -----------------------------------------------------------------------------------------------


def _empty_dropout(x: Any, p: float, seed: int, step: int, layer: int) -> Any:
    return operators.empty_like(x), operators.empty_like(x, torch.uint8)


@operator(
    "dropout(Tensor x, float p, SymInt seed, SymInt step, SymInt layer) -> (Tensor, Tensor)", _empty_dropout
)
def _dropout(memory: Memory, results: Any, x: Any, p: float, seed: int, step: int, layer: int) -> None:
    out = tuple(memory.elements(name, tensor) for name, tensor in zip(("y", "mask"), results, strict=True))
    ops.dropout(memory.elements("x", x), p, seed, step, layer, out=out)


@operator(
    "dropout_backward(Tensor dy, Tensor mask, float p) -> Tensor",
    lambda dy, mask, p: operators.empty_like(dy),
)
def dropout_backward(memory: Memory, dx: Any, dy: Any, mask: Any, p: float) -> None:
    """Compute the gradient of :func:`dropout`."""
    arrays = memory.elements("dy", dy), memory.elements("mask", mask)
    ops.dropout_backward(*arrays, p, out=memory.elements("out", dx))


def _save_mask(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.p = inputs[1]


_dropout.register_autograd(
    lambda ctx, dy, _: (dropout_backward(dy, *ctx.saved_tensors, ctx.p), *[None] * 4),
    setup_context=_save_mask,
)


def dropout(x: torch.Tensor, p: float = 0.5, seed: int = 0, step: int = 0, layer: int = 0) -> torch.Tensor:
    """Set each element to zero with probability p, scale the others: :func:`pyconvnet.ops.dropout`.

    The mask is a function of (seed, step, layer, element), the same on every device, and not of PyTorch's
    generators; elements are counted as they lie in memory, of 4 dimensions in channels_last order.

    Parameters
    ----------
    x : tensor, any shape, float32 or bfloat16 (on the CPU also float64)
    p : probability of zero, in [0, 1)
    seed : integer in [-2^63, 2^63)
    step, layer : integers in [0, 2^32)

    Raises
    ------
    TypeError, ValueError
        As the operation; a step that is not in its range.
    """
    op, limit = "dropout", 2**32 - 1
    seed = operators.integer(op, "seed", seed, -(2**63), 2**63 - 1)
    step, layer = (
        operators.integer(op, "step", step, 0, limit),
        operators.integer(op, "layer", layer, 0, limit),
    )
    return _dropout(x, operators.real(op, "p", p), seed, step, layer)[0]
