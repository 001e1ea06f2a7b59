"""Layers that stand for two: what a plan makes of neighbours whose kernels can work in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from .base import Context, Layer, Shape
from .norm import LRN
from .pool import MaxPool2d


@dataclass(frozen=True)
class LRNMaxPool2d(Layer):
    """``pool`` of ``norm`` of x, without ever writing the normalised map.

    Forward keeps argmax alone; backward computes the normalisation again from x, which is less than to read
    it. Not a layer to build networks from: it is not part of their description.
    """

    norm: LRN
    pool: MaxPool2d

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

    def forward(self, ctx: Context, xs: Sequence, y: Any, params: Mapping, saved: Mapping) -> None:
        ops.lrn_max_pool2d(xs[0], **self._options(), out=(y, saved["argmax"]))

    def backward(
        self,
        ctx: Context,
        dy: Any,
        xs: Sequence,
        y: Any,
        params: Mapping,
        saved: Mapping,
        dxs: Sequence,
        grads: Mapping,
    ) -> None:
        if dxs[0] is not None:
            ops.lrn_max_pool2d_backward(dy, saved["argmax"], xs[0], **self._options(), out=dxs[0])
