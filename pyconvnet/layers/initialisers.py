"""Initial values of parameters.

Numbers come from the counter-based generator Philox4x64-10 (NumPy's raw words, a stream NumPy promises never
to change), keyed by (seed, layer, position of the parameter in its layer), and are drawn on the host: one
seed gives the same bits on every device, and adding a layer at the end of a network leaves the others' values
alone.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

_CHUNK = 1 << 20  # draws at a time: bounds the memory of 37 million weights to a few megabytes


class Initialiser:
    """A rule that fills a parameter array. Subclasses are frozen dataclasses, so they compare and describe
    themselves.
    """

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int) -> None:
        """Overwrite ``out`` (any shape, C-contiguous float) with values that depend on (seed, layer,
        position) alone.
        """
        raise NotImplementedError

    def to_dict(self) -> dict:
        """Description from which :func:`from_dict` rebuilds the rule."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}


def _words(seed: int, layer: int, position: int, count: int):
    """Yield arrays of 64-bit words, ``count`` in all."""
    key = np.array([seed & (2**64 - 1), (layer & 0xFFFFFFFF) << 32 | (position & 0xFFFFFFFF)], np.uint64)
    generator = np.random.Philox(key=key)
    for start in range(0, count, _CHUNK):
        yield generator.random_raw(min(_CHUNK, count - start))


def _finite(owner: str, **values: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"{owner}: {name} must be finite, got {value!r}")


@dataclass(frozen=True)
class Constant(Initialiser):
    """Every element equal to ``value``."""

    value: float = 0.0

    def __post_init__(self) -> None:
        _finite("Constant", value=self.value)

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int) -> None:
        out[...] = self.value


@dataclass(frozen=True)
class Normal(Initialiser):
    """Zero-mean Gaussian of standard deviation ``std`` (the paper, section 5: 0.01). Box-Muller, two values a
    word.
    """

    std: float = 0.01

    def __post_init__(self) -> None:
        _finite("Normal", std=self.std)
        if self.std < 0:
            raise ValueError(f"Normal: std must not be negative, got {self.std!r}")

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int) -> None:
        flat = out.reshape(-1)
        at = 0
        for words in _words(seed, layer, position, (flat.size + 1) // 2):
            # u in (0, 1]: the logarithm of the radius never meets a zero
            u = ((words >> np.uint64(32)).astype(np.float64) + 1.0) * 2.0**-32
            angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0 * math.pi * 2.0**-32)
            radius = self.std * np.sqrt(-2.0 * np.log(u))
            pair = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
            part = flat[at : at + pair.size]
            part[...] = pair[: part.size]
            at += pair.size


@dataclass(frozen=True)
class Uniform(Initialiser):
    """Uniform in [low, high)."""

    low: float = -0.05
    high: float = 0.05

    def __post_init__(self) -> None:
        _finite("Uniform", low=self.low, high=self.high)
        if not self.low <= self.high:
            raise ValueError(f"Uniform: low must not exceed high, got low={self.low!r}, high={self.high!r}")

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int) -> None:
        flat = out.reshape(-1)
        at = 0
        for words in _words(seed, layer, position, flat.size):
            u = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
            flat[at : at + u.size] = self.low + (self.high - self.low) * u
            at += u.size


_KINDS = {kind.__name__: kind for kind in (Constant, Normal, Uniform)}


def from_dict(description: dict) -> Initialiser:
    """Rebuild an initialiser from its :meth:`Initialiser.to_dict`."""
    options = dict(description)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"initialiser: kind must be one of {sorted(_KINDS)}, got {kind!r}")
    try:
        return _KINDS[kind](**options)
    except TypeError as error:
        raise ValueError(f"initialiser {kind}: {error}") from None
