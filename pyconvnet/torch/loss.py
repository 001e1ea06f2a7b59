"""Softmax with cross-entropy on tensors."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from . import operators
from .operators import Memory, operator


def _empty(logits: Any, labels: Any, class_weights: Any) -> Any:
    shape = operators.shape_of("softmax_cross_entropy", "logits", logits, "N, C")
    loss = torch.empty((), dtype=operators.master(logits.dtype), device=logits.device)
    return loss, torch.empty(shape, dtype=logits.dtype, device=logits.device)


@operator(
    "softmax_cross_entropy(Tensor logits, Tensor labels, Tensor? class_weights) -> (Tensor, Tensor)", _empty
)
def _softmax_cross_entropy(
    memory: Memory, results: Any, logits: Any, labels: Any, class_weights: Any
) -> None:
    if memory.device.type == "cuda" and labels.dtype == torch.int64:
        # Here, so that it is PyTorch's memory; what is no class stays none.
        labels = labels.clamp(-1, logits.shape[1]).to(torch.int32)
    arrays = memory.plain("logits", logits), memory.plain("labels", labels)
    out = tuple(memory.plain(name, tensor) for name, tensor in zip(("loss", "dlogits"), results, strict=True))
    weights = memory.plain("class_weights", class_weights)
    ops.softmax_cross_entropy(*arrays, class_weights=weights, out=out, workspace=memory)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, dloss: Any, _: Any) -> tuple:
    (dlogits,) = ctx.saved_tensors
    return (dlogits * dloss).to(dlogits.dtype), None, None


_softmax_cross_entropy.register_autograd(_backward, setup_context=_save)


def softmax_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the mean of ``-log softmax(logits[n])[labels[n]]``.

    It is :func:`pyconvnet.ops.softmax_cross_entropy`.

    Parameters
    ----------
    logits : tensor (N, C), float32 or bfloat16 (on the CPU also float64)
    labels : tensor (N,) of integers, each in 0 … C-1
    class_weights : tensor (C,) of the logits' dtype, float32 beside bfloat16; optional
        Factors of the classes. The mean divides by N, not, as ``torch.nn.CrossEntropyLoss`` does, by the sum
        of the weights (:class:`CrossEntropyLoss` does). They have no gradient.

    Returns
    -------
    loss : tensor (), dtype of logits, but float32 where they are bfloat16

    Raises
    ------
    TypeError, ValueError
        As the operation: on the CPU also of a label that is no class.
    """
    return _softmax_cross_entropy(logits, labels, class_weights)[0]
