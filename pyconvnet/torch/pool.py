"""Pooling on tensors (N, C, H, W)."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from ..common import checks
from ..ops.pool import Geometry
from . import operators
from .operators import NCHW, Memory, operator

_WINDOWS = "int[2] size, int[2] stride, int[4] pad, bool ceil_mode"


def geometry(op: str, x: torch.Tensor, size: Any, stride: Any, pad: Any, ceil_mode: bool) -> Geometry:
    """Return the windows of a call on x (N, C, H, W), checked."""
    shape = operators.last(operators.shape_of(op, "x", x, NCHW))
    return Geometry(op, shape, tuple(size), tuple(stride), operators.sides(pad), ceil_mode)


def windows(size: Any, stride: Any, pad: Any, ceil_mode: bool) -> tuple:
    """Return the options of an operator as the operations take them."""
    return tuple(size), tuple(stride), operators.sides(pad), ceil_mode


def checked_windows(op: str, size: Any, stride: Any, pad: Any, ceil_mode: Any) -> tuple:
    """Return the options of an operation as the operators take them."""
    pairs = operators.pair(op, "size", size), operators.pair(op, "stride", stride)
    return *pairs, operators.padding(op, "pad", pad), checks.flag(op, "ceil_mode", ceil_mode)


def empty_maxima(x: torch.Tensor, windows: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate the maxima of windows, and their places."""
    shape = operators.first(windows.y_shape)
    places = operators.torch_dtype(windows.argmax_dtype)
    return operators.empty_pixels(x, shape), operators.empty_pixels(x, shape, places)


# ---- maximum -----------------------------------------------------------------------------------------------


@operator(
    f"max_pool2d(Tensor x, {_WINDOWS}) -> (Tensor, Tensor)",
    lambda x, *options: empty_maxima(x, geometry("max_pool2d", x, *options)),
)
def _max_pool2d(memory: Memory, results: Any, x: Any, *options: Any) -> None:
    out = tuple(memory.pixels(name, tensor) for name, tensor in zip(("y", "argmax"), results, strict=True))
    ops.max_pool2d(memory.pixels("x", x), *windows(*options), out=out)


@operator(
    f"max_pool2d_backward(Tensor dy, Tensor argmax, SymInt[4] x_shape, {_WINDOWS}) -> Tensor",
    lambda dy, argmax, x_shape, *_: operators.empty_pixels(dy, x_shape),
)
def max_pool2d_backward(memory: Memory, dx: Any, dy: Any, argmax: Any, x_shape: Any, *options: Any) -> None:
    """Compute the gradient of :func:`max_pool2d`."""
    arrays = memory.pixels("dy", dy), memory.pixels("argmax", argmax)
    shape = operators.last(x_shape)
    ops.max_pool2d_backward(*arrays, shape, *windows(*options), out=memory.pixels("out", dx))


def _save_maxima(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, *ctx.options = inputs
    ctx.shape = x.shape
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


_max_pool2d.register_autograd(
    lambda ctx, dy, _: (
        max_pool2d_backward(dy, *ctx.saved_tensors, ctx.shape, *ctx.options),
        *[None] * 4,
    ),
    setup_context=_save_maxima,
)


def max_pool2d(
    x: torch.Tensor, size: Any = 3, stride: Any = 2, pad: Any = 0, ceil_mode: bool = False
) -> torch.Tensor:
    """Find the largest element of each window: :func:`pyconvnet.ops.max_pool2d`.

    The defaults are the paper's overlapping pooling (section 3.4).

    Parameters
    ----------
    x : tensor (N, C, H, W), float32 or bfloat16 (on the CPU also float64)
    size, stride, pad, ceil_mode :
        As in the operation.

    Returns
    -------
    y : tensor (N, C, P, Q), in channels_last memory

    Raises
    ------
    TypeError, ValueError
        As the operation; what it says of shapes is in its order, (N, H, W, C).
    """
    return _max_pool2d(x, *checked_windows("max_pool2d", size, stride, pad, ceil_mode))[0]


# ---- average -----------------------------------------------------------------------------------------------


@operator(
    f"avg_pool2d(Tensor x, {_WINDOWS}, bool count_include_pad) -> Tensor",
    lambda x, *options: operators.empty_pixels(
        x, operators.first(geometry("avg_pool2d", x, *options[:4]).y_shape)
    ),
)
def _avg_pool2d(memory: Memory, y: Any, x: Any, *options: Any) -> None:
    *given, counts = options
    ops.avg_pool2d(memory.pixels("x", x), *windows(*given), counts, out=memory.pixels("out", y))


@operator(
    f"avg_pool2d_backward(Tensor dy, SymInt[4] x_shape, {_WINDOWS}, bool count_include_pad) -> Tensor",
    lambda dy, x_shape, *_: operators.empty_pixels(dy, x_shape),
)
def avg_pool2d_backward(memory: Memory, dx: Any, dy: Any, x_shape: Any, *options: Any) -> None:
    """Compute the gradient of :func:`avg_pool2d`."""
    *given, counts = options
    how = *windows(*given), counts
    ops.avg_pool2d_backward(
        memory.pixels("dy", dy), operators.last(x_shape), *how, out=memory.pixels("out", dx)
    )


def _save_shape(ctx: Any, inputs: tuple, output: Any) -> None:
    x, *ctx.options = inputs
    ctx.shape = x.shape


_avg_pool2d.register_autograd(
    lambda ctx, dy: (avg_pool2d_backward(dy, ctx.shape, *ctx.options), *[None] * 5),
    setup_context=_save_shape,
)


def avg_pool2d(
    x: torch.Tensor,
    size: Any = 3,
    stride: Any = 2,
    pad: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> torch.Tensor:
    """Average each window: :func:`pyconvnet.ops.avg_pool2d`.

    Arguments, result and errors as for :func:`max_pool2d`, and

    count_include_pad : bool
        Whether pixels of the padding count; in PyTorch they do by default.
    """
    op = "avg_pool2d"
    options = checked_windows(op, size, stride, pad, ceil_mode)
    return _avg_pool2d(x, *options, checks.flag(op, "count_include_pad", count_include_pad))
