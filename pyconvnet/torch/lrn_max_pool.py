"""Response normalisation and maximum over windows in one pass, on tensors (N, C, H, W)."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from . import operators
from .norm import checked_normalisation
from .operators import Memory, operator
from .pool import checked_windows, empty_maxima, geometry, windows

_OPTIONS = (
    "int lrn_size, float alpha, float beta, float k, int groups, "
    "int[2] size, int[2] stride, int[4] pad, bool ceil_mode"
)


def _how(lrn_size: int, alpha: float, beta: float, k: float, groups: int, *given: Any) -> dict[str, Any]:
    size, stride, pad, ceil_mode = windows(*given)
    return {
        "lrn_size": lrn_size, "alpha": alpha, "beta": beta, "k": k, "groups": groups,
        "size": size, "stride": stride, "pad": pad, "ceil_mode": ceil_mode,
    }  # fmt: skip


@operator(
    f"lrn_max_pool2d(Tensor x, {_OPTIONS}) -> (Tensor, Tensor)",
    lambda x, *options: empty_maxima(x, geometry("lrn_max_pool2d", x, *options[5:])),
)
def _lrn_max_pool2d(memory: Memory, results: Any, x: Any, *options: Any) -> None:
    out = tuple(memory.pixels(name, tensor) for name, tensor in zip(("y", "argmax"), results, strict=True))
    ops.lrn_max_pool2d(memory.pixels("x", x), **_how(*options), out=out)


@operator(
    f"lrn_max_pool2d_backward(Tensor dy, Tensor argmax, Tensor x, {_OPTIONS}) -> Tensor",
    lambda dy, argmax, x, *_: operators.empty_pixels(x, x.shape),
)
def lrn_max_pool2d_backward(memory: Memory, dx: Any, dy: Any, argmax: Any, x: Any, *options: Any) -> None:
    """Compute the gradient of :func:`lrn_max_pool2d`."""
    arrays = memory.pixels("dy", dy), memory.pixels("argmax", argmax), memory.pixels("x", x)
    ops.lrn_max_pool2d_backward(*arrays, **_how(*options), out=memory.pixels("out", dx))


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, *ctx.options = inputs
    ctx.save_for_backward(output[1], x)
    ctx.mark_non_differentiable(output[1])


_lrn_max_pool2d.register_autograd(
    lambda ctx, dy, _: (lrn_max_pool2d_backward(dy, *ctx.saved_tensors, *ctx.options), *[None] * 9),
    setup_context=_save,
)


def lrn_max_pool2d(
    x: torch.Tensor,
    *,
    lrn_size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    groups: int = 1,
    size: Any = 3,
    stride: Any = 2,
    pad: Any = 0,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """Normalise across channels and find the largest element of each window, in one pass over memory:
    :func:`pyconvnet.ops.lrn_max_pool2d`.

    Parameters
    ----------
    x : tensor (N, C, H, W), float32 or bfloat16 (on the CPU also float64)
    lrn_size, alpha, beta, k, groups :
        As `size` and the others of :func:`lrn`: the paper's formula.
    size, stride, pad, ceil_mode :
        As for :func:`max_pool2d`.

    Returns
    -------
    y : tensor (N, C, P, Q), in channels_last memory

    Raises
    ------
    TypeError, ValueError
        As the operation.
    """
    op = "lrn_max_pool2d"
    normalisation = checked_normalisation(op, "lrn_size", lrn_size, alpha, beta, k, groups)
    return _lrn_max_pool2d(x, *normalisation, *checked_windows(op, size, stride, pad, ceil_mode))[0]
