"""Element by element: activations, dropout, sums; and concatenation of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import ops
from ..common.checks import one_of
from .base import Layer, Shape, Slice, register
from .linear import rows


@dataclass(frozen=True)
class _Activation(Layer):
    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def _ops(self):
        raise NotImplementedError

    def forward(self, ctx, xs, y, params, saved):
        self._ops()[0](xs[0], out=y)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if dxs[0] is not None:
            self._ops()[1](dy, y, out=dxs[0])


@register
@dataclass(frozen=True)
class ReLU(_Activation):
    """y = max(0, x) (the paper, section 3.1). Conv2d and Linear take it fused: ``activation="relu"``."""

    only_ops: ClassVar[bool] = True
    reads: ClassVar[str] = "same"
    stem: ClassVar[str] = "relu"

    @property
    def rectifies(self) -> bool:
        return True

    def _ops(self):
        return ops.relu, ops.relu_backward

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if not ctx.relu_by_readers:
            super().backward(ctx, dy, xs, y, params, saved, dxs, grads)
        elif dxs[0] is not None:
            ops.add(dy, dy, alpha=1.0, beta=0.0, out=dxs[0])


@register
@dataclass(frozen=True)
class Tanh(_Activation):
    """y = tanh(x)."""

    only_ops: ClassVar[bool] = True
    reads: ClassVar[str] = "same"
    stem: ClassVar[str] = "tanh"

    def _ops(self):
        return ops.tanh, ops.tanh_backward


@register
@dataclass(frozen=True)
class Logistic(_Activation):
    """y = 1 / (1 + exp(-x))."""

    only_ops: ClassVar[bool] = True
    reads: ClassVar[str] = "same"
    stem: ClassVar[str] = "logistic"

    def _ops(self):
        return ops.logistic, ops.logistic_backward


@register
@dataclass(frozen=True)
class Dropout(Layer):
    """Set each element to zero with probability ``p`` while training.

    Parameters
    ----------
    p : float
        Probability of zero, in [0, 1).
    mode : "paper" or "inverted"
        "paper" (section 4.2): training leaves the survivors as they are, testing multiplies everything by 1 -
        p. "inverted": training divides the survivors by 1 - p, testing changes nothing.

    The mask is a pure function of (seed, step, layer, element of the whole batch).
    """

    p: float = 0.5
    mode: str = "paper"
    only_ops: ClassVar[bool] = True
    reads: ClassVar[str] = "same"
    stem: ClassVar[str] = "dropout"

    def __post_init__(self) -> None:
        self._check_numbers(p="probability")
        one_of("Dropout", "mode", self.mode, "paper", "inverted")

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def saved(self, dtype: np.dtype, *inputs: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        return {"mask": (inputs[0], np.dtype(np.uint8))}

    @property
    def test_factor(self) -> float:
        """What everything is multiplied by when testing."""
        return 1.0 - self.p if self.mode == "paper" else 1.0

    @property
    def train_factor(self) -> float:
        """What the survivors are multiplied by when training."""
        return 1.0 if self.mode == "paper" else 1.0 / (1.0 - self.p)

    def forward(self, ctx, xs, y, params, saved):
        x = xs[0]
        if not ctx.train:
            ops.add(x, x, alpha=self.test_factor, beta=0.0, out=y)
            return
        # Rows of channels: so a slice of the channels, too, is a window of the whole batch's matrix.
        channels = x.shape[-1]
        window = None
        if ctx.window is not None:
            first, start, total = ctx.window
            window = (first * (x[0].size // channels), start, total)
        ops.dropout(
            x.reshape(-1, channels),
            self.p,
            ctx.seed,
            ctx.step,
            ctx.layer,
            scale=self.train_factor,
            window=window,
            out=(y.reshape(-1, channels), saved["mask"].reshape(-1, channels)),
        )

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if dxs[0] is not None:
            ops.dropout_backward(
                rows(dy), rows(saved["mask"]), self.p, scale=self.train_factor, out=rows(dxs[0])
            )


@register
@dataclass(frozen=True)
class Add(Layer):
    """Sum of two or more inputs of one shape."""

    only_ops: ClassVar[bool] = True
    arity: ClassVar[tuple[int, int | None]] = (2, None)
    reads: ClassVar[str] = "same"
    stem: ClassVar[str] = "add"

    def output_shape(self, *inputs: Shape) -> Shape:
        for shape in inputs[1:]:
            if shape != inputs[0]:
                raise ValueError(f"inputs must have one shape, got {', '.join(map(str, inputs))}")
        return inputs[0]

    def forward(self, ctx, xs, y, params, saved):
        ops.add(xs[0], xs[1], out=y)
        for x in xs[2:]:
            ops.add(y, x, out=y)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        for dx in dxs:
            if dx is not None:
                ops.add(dy, dy, alpha=1.0, beta=0.0, out=dx)


@register
@dataclass(frozen=True)
class Concat(Layer):
    """Inputs side by side along the channels: (H, W, C1), (H, W, C2), ... -> (H, W, C1 + C2 + ...)."""

    only_ops: ClassVar[bool] = True
    arity: ClassVar[tuple[int, int | None]] = (2, None)
    wants_every_dx: ClassVar[bool] = True
    stem: ClassVar[str] = "concat"

    def output_shape(self, *inputs: Shape) -> Shape:
        for shape in inputs[1:]:
            if shape[:-1] != inputs[0][:-1]:
                raise ValueError(
                    f"inputs must agree in all but the channels, got {', '.join(map(str, inputs))}"
                )
        return (*inputs[0][:-1], sum(shape[-1] for shape in inputs))

    def slice(self, start: int, stop: int, *inputs: Shape) -> Slice:
        """Return what lies there of each input."""
        spans, at = [], 0
        for shape in inputs:
            spans.append((min(max(start - at, 0), shape[-1]), min(max(stop - at, 0), shape[-1])))
            at += shape[-1]
        return Slice(self, tuple(spans))

    def forward(self, ctx, xs, y, params, saved):
        ops.concat(xs, out=y)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        ops.split(dy, [x.shape[-1] for x in xs], out=tuple(dxs))
