"""Layers that stand for two: what a plan makes of neighbours whose kernels can work in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import ops
from .base import Layer, Parameter, Shape
from .linear import Linear
from .norm import LRN
from .pointwise import Dropout
from .pool import MaxPool2d


@dataclass(frozen=True)
class LRNMaxPool2d(Layer):
    """``pool`` of ``norm`` of x, without ever writing the normalised map.

    Forward keeps argmax alone; backward computes the normalisation again from x, which is less than to read
    it. Not a layer to build networks from: it is not part of their description.
    """

    norm: LRN
    pool: MaxPool2d
    only_ops: ClassVar[bool] = True
    masks_input: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        return self.pool.output_shape(self.norm.output_shape(*inputs))

    def saved(self, dtype: np.dtype, *inputs: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        return self.pool.saved(dtype, self.norm.output_shape(*inputs))

    def _options(self) -> dict[str, Any]:
        norm, pool = self.norm, self.pool
        return {
            **{"lrn_size": norm.size, "alpha": norm.alpha, "beta": norm.beta, "k": norm.k},
            **{"groups": norm.groups, "size": pool.size, "stride": pool.stride, "pad": pool.pad},
            "ceil_mode": pool.ceil_mode,
        }

    def forward(self, ctx, xs, y, params, saved):
        ops.lrn_max_pool2d(xs[0], **self._options(), out=(y, saved["argmax"]))

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if dxs[0] is not None:
            ops.lrn_max_pool2d_backward(
                dy, saved["argmax"], xs[0], **self._options(), relu=ctx.mask_input, out=dxs[0]
            )


@dataclass(frozen=True)
class LinearReLUDropout(Layer):
    """``dropout`` of ``linear`` of x, a layer with ReLU: one pass after the product does all but that.

    Nothing is kept for backward: where the output is positive, the ReLU was active and the element kept. Not
    a layer to build networks from: it is not part of their description.
    """

    linear: Linear
    dropout: Dropout
    only_ops: ClassVar[bool] = True
    masks_input: ClassVar[bool] = True
    splits_backward: ClassVar[bool] = True

    @property
    def rectifies(self) -> bool:
        return True

    def output_shape(self, *inputs: Shape) -> Shape:
        return self.linear.output_shape(*inputs)

    def parameters(self, *inputs: Shape) -> list[Parameter]:
        return self.linear.parameters(*inputs)

    def forward(self, ctx, xs, y, params, saved):
        dropout = self.dropout
        if not ctx.train:
            self.linear.forward(ctx, xs, y, params, saved)
            if dropout.test_factor != 1:
                ops.add(y, y, alpha=dropout.test_factor, beta=0.0, out=y)
            return
        self.linear.product(ctx, xs, y, params)
        ops.bias_relu_dropout(
            y,
            params.get("bias"),
            dropout.p,
            ctx.seed,
            ctx.step,
            ctx.layer,
            scale=dropout.train_factor,
            window=ctx.window,
            out=y,
        )

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if not ctx.masked:
            if not ctx.relu_by_readers:
                ops.relu_backward(dy, y, out=dy)
            if self.dropout.train_factor != 1:
                ops.add(dy, dy, alpha=self.dropout.train_factor, beta=0.0, out=dy)
        self.linear.product_backward(ctx, dy, xs, params, dxs, grads)


def joined(first: Layer, second: Layer, train: bool) -> Layer | None:
    """Find the layer that does the work of two neighbours, if there is one; while training with ``train``.

    Only for these very classes: one derived from them computes something of its own.
    """
    kinds = type(first), type(second)
    if kinds == (LRN, MaxPool2d):
        return LRNMaxPool2d(first, second)
    if train and kinds == (Linear, Dropout) and first.activation == "relu":
        return LinearReLUDropout(first, second)
    return None
