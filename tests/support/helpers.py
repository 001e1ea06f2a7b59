"""Comparisons that bite: they fail on NaN, and their tolerance follows from the arithmetic."""

from __future__ import annotations

import math

import numpy as np

EPS32 = float(np.finfo(np.float32).eps)


def tolerance(
    expected: np.ndarray, reduction: int, scale: float | None = None, c: float = 1.0, eps: float = EPS32
) -> float:
    """Error allowed of a sum of `reduction` terms: c * eps * sqrt(reduction) * scale.

    Roundings of a sum of n terms of random sign add up like a random walk: relative to the sum's own size,
    about eps * sqrt(n). `scale` is that size; default: the largest magnitude of the result.
    """
    if scale is None:
        scale = float(np.max(np.abs(expected)))
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale must be finite and not negative, got {scale}")
    return c * eps * math.sqrt(max(reduction, 1)) * scale


def assert_close(
    actual: np.ndarray,
    expected: np.ndarray,
    reduction: int,
    scale: float | None = None,
    c: float = 1.0,
    eps: float = EPS32,
) -> None:
    """Assert |actual - expected| <= c * eps * sqrt(reduction) * scale everywhere; NaN and infinity fail.

    Parameters
    ----------
    actual : array, result of the code under test
    expected : array of the same shape, computed in float64
    reduction : number of terms in each sum
    scale : magnitude of the sums; default: the largest one expected
    c : safety factor
    eps : spacing of the arithmetic under test; default: float32's
    """
    expected = np.asarray(expected)
    actual = np.asarray(actual)
    assert expected.dtype == np.float64, f"the reference must be float64, got {expected.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert np.isfinite(expected).all(), "the reference is not finite"
    limit = tolerance(expected, reduction, scale, c, eps)
    error = np.abs(actual.astype(np.float64) - expected)
    good = error <= limit  # false for NaN
    if good.all():
        return
    bad = int(good.size - np.count_nonzero(good))
    worst = np.unravel_index(int(np.argmax(np.where(np.isnan(error), np.inf, error))), error.shape)
    raise AssertionError(
        f"{bad} of {good.size} elements differ by more than {limit:.3g}; worst at {tuple(map(int, worst))}: "
        f"got {actual[worst]!r}, expected {expected[worst]!r}"
    )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays hold the same bytes (NaN equals the same NaN, 0 differs from -0)."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def filled_with_nan(dev, shape, dtype=np.float32):
    """An output array that shows whatever is not written."""
    return dev.asarray(np.full(shape, np.nan, dtype))


class Scratch:
    """A workspace as the plan has one: grows, is reused, and starts out full of NaN."""

    def __init__(self, dev):
        self.dev = dev
        self.requests: list[int] = []

    def get(self, nbytes: int):
        self.requests.append(nbytes)
        return self.dev.asarray(np.full(nbytes, 0xFF, np.uint8))
