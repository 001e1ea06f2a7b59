"""What random masks are drawn from: the arguments of dropout, checked once for all that have it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..common import checks
from ..common.devices import Device
from . import core, reference
from .operation import Varying


class Draw(NamedTuple):
    """What a mask is drawn from, checked; the step is a number, or else in an array."""

    p: float
    seed: int
    step: int
    step_array: Any
    layer: int
    scale: float

    def host(self, window: tuple[int, int, int]) -> tuple:
        """Return the arguments of the reference."""
        step = self.step if self.step_array is None else self.step_array
        return self.p, self.seed, step, self.layer, self.scale, window

    def kernel(self) -> tuple:
        """Return the arguments of the kernels."""
        threshold = reference.dropout_threshold(self.p)
        return threshold, self.scale, self.seed, self.step, self.step_array, self.layer


def check_draw(
    op: str,
    p: Any,
    seed: Any,
    step: Any,
    layer: Any,
    scale: Any,
    optional: tuple[str, ...] = (),
    **named: Any,
) -> tuple[Device, dict[str, Any], Draw]:
    """Check what a call that draws random bits is given; return device, arrays and draw."""
    p = checks.real(op, "p", p, minimum=0.0, below=1.0)
    seed = checks.integer(op, "seed", seed) % 2**64
    layer = checks.integer(op, "layer", layer, minimum=0, maximum=2**32 - 1)
    scale = check_scale(op, p, scale)
    if isinstance(step, int | np.integer):
        step = step if isinstance(step, Varying) else checks.integer(op, "step", step) % 2**32
        return *core.arrays(op, optional, **named), Draw(p, seed, step, None, layer, scale)
    dev, inputs = core.arrays(op, optional, **named, step=step)
    step_array = inputs["step"]
    checks.check_dtype(op, "step", step_array, np.int64)
    if step_array.size != 1:
        raise ValueError(
            f"{op}: step must be an integer or have one element, got shape {tuple(step_array.shape)}"
        )
    return dev, inputs, Draw(p, seed, 0, step_array, layer, scale)


def check_scale(op: str, p: float, scale: float | None) -> float:
    """Check the factor of the elements kept; None: 1 / (1 - p). Return it."""
    return 1.0 / (1.0 - p) if scale is None else checks.real(op, "scale", scale)


def masked_shape(dev: Device, x: Any, window: tuple[int, int, int]) -> Any:
    """Make the kernels' shape struct of a matrix that a mask is drawn for."""
    (row0, col0, total_cols), cols = window, x.shape[-1]
    return dev.ext.DropoutShape(rows=x.size // cols, cols=cols, row0=row0, col0=col0, total_cols=total_cols)


def check_window(op: str, window: Any, cols: int) -> tuple[int, int, int]:
    """Check the window into a bigger matrix that x, of so many columns, is; None: all of it. Return it."""
    if window is None:
        return 0, 0, cols
    if not isinstance(window, list | tuple) or len(window) != 3:
        raise ValueError(f"{op}: window must be (row0, col0, total_cols), got {window!r}")
    row0, col0, total_cols = (
        checks.integer(op, f"window[{i}]", value, minimum=0) for i, value in enumerate(window)
    )
    if col0 + cols > total_cols:
        raise ValueError(
            f"{op}: window must hold the {cols} columns of x, got columns {col0} … of {total_cols}"
        )
    if row0 >= 2**31 or total_cols >= 2**31:
        raise ValueError(f"{op}: window must have entries below 2^31, got {tuple(window)}")
    return row0, col0, total_cols
