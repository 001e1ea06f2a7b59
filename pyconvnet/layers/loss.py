"""Costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import ops
from .base import Layer, Shape, register


@register
@dataclass(frozen=True)
class SoftmaxCrossEntropy(Layer):
    """Multinomial logistic regression: mean over the batch of -log softmax(x)[label] (the paper, section
    3.5), in training times the label's class weight where the run has such.

    Parameters
    ----------
    weight : float
        Factor of this cost in the network's objective; scales its gradient (cuda-convnet's coeff).
    topk : int
        An example counts as a top-k error where its class is not among the k most probable ones.
    """

    weight: float = 1.0
    topk: int = 5
    only_ops: ClassVar[bool] = True
    is_cost: ClassVar[bool] = True
    weighs_classes: ClassVar[bool] = True
    stem: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        self._check_numbers(weight="number >= 0", topk="positive int")

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 1:
            raise ValueError(f"input must be a vector of class scores (K,), got shape {inputs[0]}")
        return ()

    def classes(self, *inputs: Shape) -> int:
        """Return the number of scores."""
        return inputs[0][0]

    def saved(self, dtype: np.dtype, *inputs: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        return {"gradient": (inputs[0], np.dtype(dtype))}

    def forward(self, ctx, xs, y, params, saved):
        """Put the loss into ``y``, running sums into ``ctx.metrics``, and the gradient of weight * loss into
        ``saved["gradient"]``.
        """
        ops.softmax_cross_entropy(
            xs[0],
            ctx.labels,
            class_weights=ctx.class_weights if ctx.train else None,
            topk=min(self.topk, xs[0].shape[1]),
            metrics=ctx.metrics,
            grad_scale=self.weight / ctx.total,
            out=(y, saved["gradient"]),
            workspace=ctx.workspace,
        )
