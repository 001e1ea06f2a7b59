"""Pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import ops
from ..common.checks import flag, padding, pair
from .base import Layer, Shape, extent, maps, register


@dataclass(frozen=True)
class _Pool2d(Layer):
    size: int | tuple[int, int] = 3
    stride: int | tuple[int, int] = 2
    pad: Any = 0
    ceil_mode: bool = False
    reads: ClassVar[str] = "same"
    masks_input: ClassVar[bool] = True
    stem: ClassVar[str] = "pool"

    def __post_init__(self) -> None:
        kind = type(self).__name__
        size = pair(kind, "size", self.size, 1)
        pair(kind, "stride", self.stride, 1)
        pads = padding(kind, "pad", self.pad)
        object.__setattr__(self, "ceil_mode", flag(kind, "ceil_mode", self.ceil_mode))
        for extent_, before_after in zip(size, pads, strict=True):
            if max(before_after) >= extent_:
                raise ValueError(
                    f"{kind}: pad must be smaller than size, got size={self.size}, pad={self.pad}"
                )

    def output_shape(self, *inputs: Shape) -> Shape:
        h, w, c = maps(inputs[0])
        (top, bottom), (left, right) = padding(type(self).__name__, "pad", self.pad)
        (r, s), (dh, dw) = (
            pair(type(self).__name__, "size", self.size, 1),
            pair(type(self).__name__, "stride", self.stride, 1),
        )
        p = extent(h, r, dh, top, bottom, self.ceil_mode)
        q = extent(w, s, dw, left, right, self.ceil_mode)
        if p < 1 or q < 1:
            raise ValueError(
                f"a {r}x{s} window does not fit an input of shape {inputs[0]} with pad {self.pad}"
            )
        return p, q, c


@register
@dataclass(frozen=True)
class MaxPool2d(_Pool2d):
    """Largest element of each window; windows may overlap (the paper, section 3.4: size 3, stride 2).

    Parameters
    ----------
    size, stride : int or pair
    pad : int, (h, w) or ((top, bottom), (left, right))
        Padding never wins.
    ceil_mode : bool
        Round the output extent up, as cuda-convnet and Caffe do: the last window may hang over the end.
    """

    only_ops: ClassVar[bool] = True

    def saved(self, dtype: np.dtype, *inputs: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        r, s = pair(type(self).__name__, "size", self.size, 1)
        return {"argmax": (self.output_shape(*inputs), np.dtype(np.uint8 if r * s <= 255 else np.int32))}

    def forward(self, ctx, xs, y, params, saved):
        ops.max_pool2d(xs[0], self.size, self.stride, self.pad, self.ceil_mode, out=(y, saved["argmax"]))

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if dxs[0] is not None:
            ops.max_pool2d_backward(
                dy,
                saved["argmax"],
                xs[0].shape,
                self.size,
                self.stride,
                self.pad,
                self.ceil_mode,
                mask=xs[0] if ctx.mask_input else None,
                out=dxs[0],
            )


@register
@dataclass(frozen=True)
class AvgPool2d(_Pool2d):
    """Mean of each window.

    Parameters
    ----------
    size, stride, pad, ceil_mode :
        As for :class:`MaxPool2d`.
    count_include_pad : bool
        Divide by the whole window's area; by default a window at the edge divides by the elements inside the
        image, as cuda-convnet does.
    """

    count_include_pad: bool = False
    only_ops: ClassVar[bool] = True

    def forward(self, ctx, xs, y, params, saved):
        ops.avg_pool2d(xs[0], self.size, self.stride, self.pad, self.ceil_mode, self.count_include_pad, out=y)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if dxs[0] is not None:
            ops.avg_pool2d_backward(
                dy,
                xs[0].shape,
                self.size,
                self.stride,
                self.pad,
                self.ceil_mode,
                self.count_include_pad,
                mask=xs[0] if ctx.mask_input else None,
                out=dxs[0],
            )
