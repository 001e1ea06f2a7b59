"""Convolution."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import ops
from ..common.checks import padding, pair
from .base import Context, Parameter, Shape, Slice, WeightLayer, extent, maps, register

#: Strides and channels of images up to which the rearranged convolution is no more than a little larger.
_STRIDES, _MOST_CHANNELS = (2, 3, 4), 4  # for which space-to-depth pays


@register
@dataclass(frozen=True)
class Conv2d(WeightLayer):
    """2-D convolution (cross-correlation), x (H, W, C) -> y (P, Q, filters), weights (filters, R, S, C /
    groups).

    Parameters
    ----------
    filters : int
        Output channels K.
    size : int or (R, S)
        Filter extent.
    stride : int or pair
    pad : int, (h, w) or ((top, bottom), (left, right))
        Zeros around the image.
    groups : int
        Channels and filters in ``groups`` towers that do not see each other.

    The output extent rounds down: ``P = (H + top + bottom - R) // stride + 1``.
    """

    filters: int
    size: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    pad: Any = 0
    groups: int = 1
    only_ops: ClassVar[bool] = True
    masks_input: ClassVar[bool] = True
    splits_backward: ClassVar[bool] = True
    stem: ClassVar[str] = "conv"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers(filters="positive int", groups="positive int")
        pair("Conv2d", "size", self.size, 1)
        pair("Conv2d", "stride", self.stride, 1)
        padding("Conv2d", "pad", self.pad)
        if self.filters % self.groups:
            raise ValueError(
                f"Conv2d: filters must be a multiple of groups={self.groups}, got {self.filters}"
            )

    def _weight(self, x: Shape) -> Shape:
        r, s = pair("Conv2d", "size", self.size, 1)
        return self.filters, r, s, x[2] // self.groups

    def output_shape(self, *inputs: Shape) -> Shape:
        h, w, c = maps(inputs[0])
        if c % self.groups:
            raise ValueError(f"input channels must be a multiple of groups={self.groups}, got {c}")
        (top, bottom), (left, right) = padding("Conv2d", "pad", self.pad)
        (r, s), (dh, dw) = pair("Conv2d", "size", self.size, 1), pair("Conv2d", "stride", self.stride, 1)
        p, q = extent(h, r, dh, top, bottom), extent(w, s, dw, left, right)
        if p < 1 or q < 1:
            raise ValueError(
                f"a {r}x{s} filter does not fit an input of shape {inputs[0]} with pad {self.pad}"
            )
        return p, q, self.filters

    def parameters(self, *inputs: Shape) -> list[Parameter]:
        return self._parameters(self._weight(inputs[0]), self.filters, self.groups)

    def multiply_adds(self, *inputs: Shape) -> int:
        p, q, k = self.output_shape(*inputs)
        _, r, s, c = self._weight(inputs[0])
        return p * q * k * r * s * c

    def slice(self, start: int, stop: int, *inputs: Shape) -> Slice:
        """Return filters [start, stop), which read their groups."""
        filters, channels = self.filters // self.groups, inputs[0][2] // self.groups
        first, last = start // filters, -(-stop // filters)
        layer = dataclasses.replace(self, filters=stop - start, groups=last - first)
        return Slice(layer, ((first * channels, last * channels),))

    def space_to_depth_layout(self, images: Shape) -> ops.space_to_depth.Depth | None:
        """Return that of a convolution with a stride on few channels."""
        stride, also = pair("Conv2d", "stride", self.stride, 1)
        if stride != also or stride not in _STRIDES or self.groups != 1 or images[2] > _MOST_CHANNELS:
            return None
        return ops.space_to_depth.Depth(
            pair("Conv2d", "size", self.size, 1), stride, padding("Conv2d", "pad", self.pad)
        )

    def _options(self, ctx: Context) -> dict:
        return {
            "stride": self.stride, "pad": self.pad, "groups": self.groups,
            "precision": ctx.precision, "workspace": ctx.workspace,
        }  # fmt: skip

    def _space_to_depth_options(self, ctx: Context, w_shape: Shape, images: Any, dtype: Any) -> dict:
        """Return the convolution's options for images in the space-to-depth layout and of dtype ``images``,
        with scratch of ``dtype`` for the rearranged filters.
        """
        stride, _ = pair("Conv2d", "stride", self.stride, 1)
        shape = ops.space_to_depth.filters_shape(w_shape, stride, images)
        return {
            "stride": stride, "filters": ctx.scratch("space_to_depth filters", shape, dtype),
            "precision": ctx.precision, "workspace": ctx.workspace,
        }  # fmt: skip

    def forward(self, ctx, xs, y, params, saved):
        w, b = params["weight"], params.get("bias")
        if ctx.depth:
            ops.space_to_depth.conv2d_depth(
                xs[0],
                w,
                b,
                activation=self.activation,
                out=y,
                **self._space_to_depth_options(ctx, w.shape, w.dtype, w.dtype),
            )
            return
        ops.conv2d(xs[0], w, b, activation=self.activation, out=y, **self._options(ctx))

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if self.activation == "relu" and not (ctx.masked or ctx.relu_by_readers):
            ops.relu_backward(dy, y, out=dy)
        if dxs[0] is not None:
            x = xs[0]
            mask = x if ctx.mask_input else None
            ops.conv2d_dgrad(dy, params["weight"], x.shape, mask=mask, out=dxs[0], **self._options(ctx))
        if grads:
            self._weight_gradient(ctx, dy, xs[0], grads["weight"], grads.get("bias"))

    def _weight_gradient(self, ctx: Context, dy: Any, x: Any, dw: Any, db: Any) -> None:
        if ctx.depth:
            options = self._space_to_depth_options(ctx, dw.shape, x.dtype, dw.dtype)
            ops.space_to_depth.conv2d_depth_wgrad(dy, x, dw.shape, bias_grad=db, out=dw, **options)
        else:
            ops.conv2d_wgrad(dy, x, dw.shape, bias_grad=db, out=dw, **self._options(ctx))
