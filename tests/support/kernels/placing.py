"""Arrays for kernel tests: copies on a device at any alignment, outputs that show what was not written."""

from __future__ import annotations

from typing import Any

import numpy as np


def place(device: Any, array: np.ndarray | None, misaligned: bool = False) -> Any:
    """A copy of the array on the device; `misaligned`: one element away from a multiple of 16 bytes."""
    if array is None:
        return None
    raw = device.empty((array.size + 16,), array.dtype)
    view = raw[int(misaligned) : int(misaligned) + array.size].reshape(array.shape)
    view[...] = device.asarray(array)
    return view


def blank(device: Any, shape: tuple[int, ...], dtype: Any = np.float32, misaligned: bool = False) -> Any:
    """An output that holds NaN (integers: the largest) everywhere."""
    dtype = np.dtype(dtype)
    value = np.iinfo(dtype).max if dtype.kind in "iu" else np.nan
    return place(device, np.full(shape, value, dtype), misaligned)


def kernels_of(device: Any, op: str, *shapes: Any) -> list[str | None]:
    """What to pass as ``kernel=`` to reach every row that applies; [None] on the cpu."""
    from pyconvnet import ops

    return [None] if device.kind == "cpu" else ops.kernels(op, *shapes, device=device)
