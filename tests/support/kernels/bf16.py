"""What tests of bfloat16 share: the arrays, and the error one rounding of a float32 result may have."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from support.helpers import tolerance

BF16 = np.dtype(ml_dtypes.bfloat16)
ROUNDING = 2.0**-8  # half a unit in the last of 8 bits, relative to the smallest number that has it


def bf16(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32).astype(BF16)


def exact(array: np.ndarray) -> np.ndarray:
    """The numbers a bfloat16 array holds, in float64."""
    return array.astype(np.float64)


def assert_rounded(
    actual: np.ndarray, expected: np.ndarray, reduction: int, scale: float | None = None, c: float = 1.0
) -> None:
    """Assert that `actual`, bfloat16, is `expected`, float64, but for float32 arithmetic and one rounding.

    The error allowed of an element is half a unit in its last place and what :func:`helpers.tolerance` allows
    of a sum of `reduction` terms in float32.
    """
    assert actual.dtype == BF16, f"wanted bfloat16, got {actual.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert np.isfinite(expected).all(), "the reference is not finite"
    limit = ROUNDING * np.abs(expected) + 1.01 * tolerance(expected, reduction, scale, c)
    error = np.abs(exact(actual) - expected)
    good = error <= limit  # false for NaN
    if not good.all():
        worst = np.unravel_index(int(np.argmax(np.where(good, 0, 1))), good.shape)
        raise AssertionError(
            f"{good.size - np.count_nonzero(good)} of {good.size} elements beyond their rounding; "
            f"first at {tuple(map(int, worst))}: got {actual[worst]!r}, expected {expected[worst]!r}"
        )
