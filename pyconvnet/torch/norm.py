"""Response normalisation across channels, with the paper's formula, on tensors (N, C, H, W)."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from . import operators
from .operators import NCHW, Memory, operator


def _empty(x: Any, size: int, alpha: float, beta: float, k: float, groups: int) -> Any:
    shape = operators.shape_of("lrn", "x", x, NCHW)
    return operators.empty_pixels(x, shape), operators.empty_pixels(x, shape, operators.master(x.dtype))


@operator("lrn(Tensor x, int size, float alpha, float beta, float k, int groups) -> (Tensor, Tensor)", _empty)
def _lrn(memory: Memory, results: Any, x: Any, *options: Any) -> None:
    out = tuple(memory.pixels(name, tensor) for name, tensor in zip(("y", "scale"), results, strict=True))
    ops.lrn(memory.pixels("x", x), *options, out=out)


@operator(
    "lrn_backward(Tensor dy, Tensor x, Tensor y, Tensor scale, int size, float alpha, float beta, int groups)"
    " -> Tensor",
    lambda dy, *_: operators.empty_pixels(dy, dy.shape),
)
def lrn_backward(memory: Memory, dx: Any, dy: Any, x: Any, y: Any, scale: Any, *options: Any) -> None:
    """Compute the gradient of :func:`lrn`."""
    named = {"dy": dy, "x": x, "y": y, "scale": scale}
    arrays = [memory.pixels(name, tensor) for name, tensor in named.items()]
    ops.lrn_backward(*arrays, *options, out=memory.pixels("out", dx))


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, size, alpha, beta, _, groups = inputs
    ctx.save_for_backward(x, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.options = size, alpha, beta, groups


_lrn.register_autograd(
    lambda ctx, dy, _: (lrn_backward(dy, *ctx.saved_tensors, *ctx.options), *[None] * 5),
    setup_context=_save,
)


def checked_normalisation(
    op: str, name: str, size: Any, alpha: Any, beta: Any, k: Any, groups: Any
) -> tuple[int, float, float, float, int]:
    """Return the options of an operation as the operators take them; `name`: what it calls the size."""
    size, groups = operators.integer(op, name, size, 1), operators.integer(op, "groups", groups, 1)
    alpha, beta, k = (operators.real(op, n, v) for n, v in (("alpha", alpha), ("beta", beta), ("k", k)))
    return size, alpha, beta, k, groups


def lrn(
    x: torch.Tensor,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    groups: int = 1,
) -> torch.Tensor:
    """Normalise responses across channels (the paper, section 3.3): :func:`pyconvnet.ops.lrn`.

    ``y[i] = x[i] / (k + alpha * sum of x[j]^2)^beta`` over the `size` channels j around i, inside i's group.
    ``torch.nn.functional.local_response_norm(x, size, a, beta, k)`` divides the sum by `size`: it is
    ``lrn(x, size, a / size, beta, k)``.

    Parameters
    ----------
    x : tensor (N, C, H, W), float32 or bfloat16 (on the CPU also float64)
    size, groups : int, at least 1
    alpha, beta : float, not negative
    k : float, positive

    Raises
    ------
    TypeError, ValueError
        As the operation.
    """
    return _lrn(x, *checked_normalisation("lrn", "size", size, alpha, beta, k, groups))[0]
