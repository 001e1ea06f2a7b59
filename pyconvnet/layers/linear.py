"""Fully connected layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import ops
from .base import Context, Parameter, Shape, Slice, WeightLayer, register


def rows(x: Any) -> Any:
    """View an array (n, ...) as (n, features), features in the order of the axes (H, W, C for a map)."""
    return x.reshape(x.shape[0], -1)


@register
@dataclass(frozen=True)
class Linear(WeightLayer):
    """y = x weight^T + bias; x of any shape, flattened in the order (H, W, C); weights (outputs, features).

    Parameters
    ----------
    outputs : int
    """

    outputs: int
    only_ops: ClassVar[bool] = True
    masks_input: ClassVar[bool] = True
    splits_backward: ClassVar[bool] = True
    fully_connected: ClassVar[bool] = True
    stem: ClassVar[str] = "fc"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers(outputs="positive int")

    def output_shape(self, *inputs: Shape) -> Shape:
        return (self.outputs,)

    def parameters(self, *inputs: Shape) -> list[Parameter]:
        return self._parameters((self.outputs, math.prod(inputs[0])), self.outputs)

    def multiply_adds(self, *inputs: Shape) -> int:
        return self.outputs * math.prod(inputs[0])

    def slice(self, start: int, stop: int, *inputs: Shape) -> Slice:
        """Return outputs [start, stop), which read everything."""
        return Slice(dataclasses.replace(self, outputs=stop - start), ((0, inputs[0][-1]),))

    def _options(self, ctx: Context) -> dict:
        return {"precision": ctx.precision, "workspace": ctx.workspace}

    def product(self, ctx: Context, xs: Sequence, y: Any, params: Mapping) -> None:
        """Compute the product alone, without bias or activation."""
        ops.linear(rows(xs[0]), params["weight"], out=y, **self._options(ctx))

    def forward(self, ctx, xs, y, params, saved):
        b = params.get("bias")
        ops.linear(rows(xs[0]), params["weight"], b, activation=self.activation, out=y, **self._options(ctx))

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if self.activation == "relu" and not (ctx.masked or ctx.relu_by_readers):
            ops.relu_backward(dy, y, out=dy)
        self.product_backward(ctx, dy, xs, params, dxs, grads)

    def product_backward(
        self, ctx: Context, dy: Any, xs: Sequence, params: Mapping, dxs: Sequence, grads: Mapping
    ) -> None:
        """Go backward from the gradient of the product with its bias, before any activation."""
        x = rows(xs[0])
        if dxs[0] is not None:
            mask = x if ctx.mask_input else None
            ops.linear_dgrad(dy, params["weight"], mask=mask, out=rows(dxs[0]), **self._options(ctx))
        if grads:
            bias_grad = grads.get("bias")
            ops.linear_wgrad(dy, x, bias_grad=bias_grad, out=grads["weight"], **self._options(ctx))
