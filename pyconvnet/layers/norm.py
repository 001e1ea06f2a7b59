"""Local response normalisation, over neighbouring channels and over neighbouring pixels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import ops
from ..common.precision import accumulation_dtype
from .base import Layer, Shape, Slice, maps, register


@dataclass(frozen=True)
class _Norm(Layer):
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    stem: ClassVar[str] = "norm"

    def __post_init__(self) -> None:
        self._check_numbers(size="positive int", alpha="number >= 0", beta="number >= 0", k="number >= 0")
        if self.k == 0:
            raise ValueError(f"{type(self).__name__}: k must be greater than 0, got {self.k!r}")

    def output_shape(self, *inputs: Shape) -> Shape:
        return maps(inputs[0])

    def saved(self, dtype: np.dtype, *inputs: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        return {"scale": (inputs[0], accumulation_dtype(np.dtype(dtype)))}


@register
@dataclass(frozen=True)
class LRN(_Norm):
    """y_i = x_i / (k + alpha * sum_j x_j^2)^beta over ``size`` neighbouring channels j (the paper, section
    3.3).

    ``alpha`` multiplies the sum as printed, without division by the window. Windows stay inside one of
    ``groups`` towers.
    """

    groups: int = 1
    only_ops: ClassVar[bool] = True
    masks_input: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers(groups="positive int")

    def output_shape(self, *inputs: Shape) -> Shape:
        shape = maps(inputs[0])
        if shape[2] % self.groups:
            raise ValueError(f"input channels must be a multiple of groups={self.groups}, got {shape[2]}")
        return shape

    @property
    def reads(self) -> tuple[int, int]:
        """The window's channels before and after."""
        return self.size // 2, self.size - 1 - self.size // 2

    def slice(self, start: int, stop: int, *inputs: Shape) -> Slice:
        """Return whole groups, or of one group the slice and the neighbours that the window reaches."""
        group = inputs[0][2] // self.groups
        first, last = start // group, -(-stop // group)
        span = first * group, last * group
        if last - first == 1:
            before, after = self.reads
            span = max(span[0], start - before), min(span[1], stop + after)
        return Slice(dataclasses.replace(self, groups=last - first), (span,), span)

    def forward(self, ctx, xs, y, params, saved):
        ops.lrn(xs[0], self.size, self.alpha, self.beta, self.k, self.groups, out=(y, saved["scale"]))

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if dxs[0] is not None:
            ops.lrn_backward(
                dy,
                xs[0],
                y,
                saved["scale"],
                self.size,
                self.alpha,
                self.beta,
                self.groups,
                relu=ctx.mask_input,
                out=dxs[0],
            )


@register
@dataclass(frozen=True)
class SpatialLRN(_Norm):
    """y = x / (k + alpha * sum x^2)^beta over a ``size`` x ``size`` window of pixels in the same channel.

    cuda-convnet's ``rnorm``, whose files give ``scale`` = alpha * size^2 and where k is 1.
    """

    k: float = 1.0
    only_ops: ClassVar[bool] = True
    reads: ClassVar[str] = "same"

    def forward(self, ctx, xs, y, params, saved):
        ops.lrn_spatial(xs[0], self.size, self.alpha, self.beta, self.k, out=(y, saved["scale"]))

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if dxs[0] is not None:
            ops.lrn_spatial_backward(
                dy, xs[0], y, saved["scale"], self.size, self.alpha, self.beta, out=dxs[0]
            )
