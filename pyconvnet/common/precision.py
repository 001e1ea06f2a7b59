"""The precisions a network can be run in.

``"fp32"``, ``"tf32"`` and ``"fp32x3"`` say how the products of convolutions and fully connected layers are
formed (see :mod:`pyconvnet.ops.conv`); every array is float32. ``"bf16"`` says how activations, their
gradients and the weights that those products read are kept: in bfloat16, which has float32's range and 8
significant bits. Each operation computes in float32 and rounds its result once. Parameters, their gradients,
momenta, biases, losses and the sums of response normalisation stay float32.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

PRECISIONS = ("fp32", "tf32", "fp32x3", "bf16")


def check_precision(what: str, precision: Any) -> str:
    """Raise ValueError unless ``precision`` is one; return it."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(
            f"{what}: precision must be {', '.join(map(repr, PRECISIONS[:-1]))} or {PRECISIONS[-1]!r}, "
            f"got {precision!r}"
        )
    return precision


def activation_dtype(what: str, precision: str, dtype: np.dtype) -> np.dtype:
    """Return the dtype of activations beside parameters of ``dtype``; ValueError where the two cannot be."""
    if precision != "bf16":
        return dtype
    if dtype != np.float32:
        raise ValueError(f"{what}: precision 'bf16' needs parameters of dtype float32, got {dtype.name}")
    return BFLOAT16


def accumulation_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype of sums and parameters beside arrays of `dtype`: float32 for bfloat16, else itself."""
    return np.dtype(np.float32) if dtype == BFLOAT16 else dtype
