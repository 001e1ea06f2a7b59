"""Initial values of parameters.

Numbers come from the counter-based generator Philox4x64-10 (NumPy's raw words, a stream NumPy promises never
to change), keyed by (seed, layer, position of the parameter in its layer), and are drawn on the host: one
seed gives the same bits on every device, and adding a layer at the end of a network leaves the others' values
alone.

Rules that look at fans find them in the parameter's shape, (outputs, window ..., inputs / groups), which is
that of :class:`Conv2d`'s and :class:`Linear`'s weights and has to be that of any other layer's which names
such a rule: fan_in = inputs / groups * window is what an output sums over, fan_out = outputs / groups *
window what an input goes to (window: 1 where there is none).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..common.checks import one_of, real

_CHUNK = 1 << 20  # draws at a time: bounds the memory of 37 million weights to a few megabytes


class Initialiser:
    """A rule that fills a parameter array. Subclasses are frozen dataclasses, so they compare and describe
    themselves.
    """

    #: True where the rule looks at fans, so that the parameter must have two axes or more.
    needs_fans: ClassVar[bool] = False

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int, groups: int = 1) -> None:
        """Overwrite ``out`` (any shape, C-contiguous float) with values that depend on (seed, layer,
        position), the shape and the layer's ``groups`` alone.
        """
        raise NotImplementedError

    def to_dict(self) -> dict:
        """Describe the rule so that :func:`from_dict` can rebuild it."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}


def _words(seed: int, layer: int, position: int, count: int):
    """Yield arrays of 64-bit words, ``count`` in all."""
    key = np.array([seed & (2**64 - 1), (layer & 0xFFFFFFFF) << 32 | (position & 0xFFFFFFFF)], np.uint64)
    generator = np.random.Philox(key=key)
    for start in range(0, count, _CHUNK):
        yield generator.random_raw(min(_CHUNK, count - start))


@dataclass(frozen=True)
class Constant(Initialiser):
    """Every element equal to ``value``."""

    value: float = 0.0

    def __post_init__(self) -> None:
        real("Constant", "value", self.value)

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int, groups: int = 1) -> None:
        out[...] = self.value


@dataclass(frozen=True)
class Normal(Initialiser):
    """Zero-mean Gaussian of standard deviation ``std`` (the paper, section 5: 0.01). Box-Muller, two values a
    word.
    """

    std: float = 0.01

    def __post_init__(self) -> None:
        real("Normal", "std", self.std, minimum=0)

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int, groups: int = 1) -> None:
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
        if not real("Uniform", "low", self.low) <= real("Uniform", "high", self.high):
            raise ValueError(f"Uniform: low must not exceed high, got low={self.low!r}, high={self.high!r}")

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int, groups: int = 1) -> None:
        flat = out.reshape(-1)
        at = 0
        for words in _words(seed, layer, position, flat.size):
            u = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
            flat[at : at + u.size] = self.low + (self.high - self.low) * u
            at += u.size


def fans(shape: tuple[int, ...], groups: int = 1) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight of shape (outputs, window ..., inputs / groups).

    Raises
    ------
    ValueError
        Fewer than two axes, an empty one, or outputs that are no multiple of ``groups``.
    """
    if len(shape) < 2 or min(shape) < 1 or shape[0] % groups:
        raise ValueError(
            "fans need a shape (outputs, window ..., inputs / groups) with outputs a multiple of "
            f"groups={groups}, got {tuple(shape)}"
        )
    return math.prod(shape[1:]), math.prod(shape[:-1]) // groups


@dataclass(frozen=True)
class VarianceScaling(Initialiser):
    """Zero-mean values of variance ``scale / fan``, which keeps the size of signals from layer to layer.

    Scale 2 by ``fan_in`` is K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", 2015, for ReLU
    (as there, the Gaussian is not truncated); 1 by ``fan_avg`` X. Glorot, Y. Bengio, "Understanding the
    difficulty of training deep feedforward neural networks", 2010; 1 by ``fan_in`` Y. LeCun, L. Bottou, G.
    Orr, K.-R. Müller, "Efficient backprop", 1998. :func:`initialiser` knows them by name.

    Parameters
    ----------
    scale : float
    mode : "fan_in", "fan_out" or "fan_avg"
        Keeps the variance of outputs, of gradients, or weighs the two alike ((fan_in + fan_out) / 2).
    distribution : "normal" or "uniform"
        Uniform in [-b, b) with b = sqrt(3 scale / fan).
    """

    scale: float = 2.0
    mode: str = "fan_in"
    distribution: str = "normal"
    needs_fans: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real("VarianceScaling", "scale", self.scale, positive=True)
        one_of("VarianceScaling", "mode", self.mode, "fan_in", "fan_out", "fan_avg")
        one_of("VarianceScaling", "distribution", self.distribution, "normal", "uniform")

    def std(self, shape: tuple[int, ...], groups: int = 1) -> float:
        """Return the standard deviation of the values of a weight of that shape."""
        fan_in, fan_out = fans(shape, groups)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        return math.sqrt(self.scale / fan)

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int, groups: int = 1) -> None:
        std = self.std(out.shape, groups)
        bound = math.sqrt(3.0) * std
        rule = Normal(std) if self.distribution == "normal" else Uniform(-bound, bound)
        rule.fill(out, seed, layer, position)


@dataclass(frozen=True)
class Orthogonal(Initialiser):
    """Random orthogonal matrices, uniformly distributed, times ``gain``: A. Saxe, J. McClelland, S. Ganguli,
    "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2014.

    The weight as a matrix W of (outputs / groups, fan_in), one a group, has W W^T = gain^2 I, or where it has
    more rows than columns W^T W = gain^2 I. For ReLU a gain of sqrt(2) keeps the size of signals. LAPACK
    makes them, so that another machine's differ by roundings.
    """

    gain: float = 1.0
    needs_fans: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real("Orthogonal", "gain", self.gain)

    def fill(self, out: np.ndarray, seed: int, layer: int, position: int, groups: int = 1) -> None:
        fan_in, _ = fans(out.shape, groups)
        gaussian = np.empty((groups, out.shape[0] // groups, fan_in))
        Normal(1.0).fill(gaussian, seed, layer, position)
        for matrix, part in zip(gaussian, out.reshape(gaussian.shape), strict=True):
            wide = matrix.shape[0] < matrix.shape[1]
            q, r = np.linalg.qr(matrix.T if wide else matrix)
            q *= self.gain * np.copysign(1.0, np.diagonal(r))  # else not every rotation is as likely
            part[...] = q.T if wide else q


_KINDS = {kind.__name__: kind for kind in (Constant, Normal, Uniform, VarianceScaling, Orthogonal)}
_HE, _GLOROT, _LECUN = (2.0, "fan_in"), (1.0, "fan_avg"), (1.0, "fan_in")
#: name -> (class, options it stands for, options that may be given with it, or must where it stands for none)
_NAMES: dict[str, tuple[type[Initialiser], dict[str, Any], tuple[str, ...]]] = {
    "constant": (Constant, {}, ("value",)),
    "normal": (Normal, {}, ("std",)),
    "uniform": (Uniform, {}, ("low", "high")),
    "orthogonal": (Orthogonal, {"gain": 1.0}, ("gain",)),
} | {
    name + suffix: (
        VarianceScaling,
        {"scale": scale, "mode": mode, "distribution": suffix[1:] or "normal"},
        ("mode",),
    )
    for name, (scale, mode) in (("he", _HE), ("glorot", _GLOROT), ("lecun", _LECUN))
    for suffix in ("", "_normal", "_uniform")
}


def initialiser(spec: Any, owner: str = "init") -> Initialiser:
    """Make an initialiser.

    Parameters
    ----------
    spec : Initialiser, str or dict
        An initialiser, used as it is; what :meth:`Initialiser.to_dict` gave; or a name, perhaps with options:
        "he" (or "he_normal"), "he_uniform", "glorot", "glorot_uniform", "lecun", "lecun_uniform",
        "he:mode=fan_out", "orthogonal:gain=1.4", "normal:std=0.02", "uniform:low=-0.1,high=0.1",
        "constant:value=1".
    owner : str
        What the error messages call it.

    Raises
    ------
    ValueError, TypeError
        Anything else.
    """
    if isinstance(spec, Initialiser):
        return spec
    if isinstance(spec, Mapping):
        return from_dict(spec)
    if not isinstance(spec, str):
        raise TypeError(
            f'{owner} must be an initialiser such as Normal(0.01), or a name such as "he", got {spec!r}'
        )
    name, _, rest = spec.partition(":")
    if name not in _NAMES:
        raise ValueError(f"{owner} must be one of {', '.join(_NAMES)}, got {spec!r}")
    kind, options, known = _NAMES[name]
    options = dict(options)
    for item in filter(None, rest.split(",")):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in known:
            raise ValueError(f"{owner}: {name} takes {' and '.join(known)}, got {item!r} in {spec!r}")
        try:
            options[key] = value if key == "mode" else float(value)
        except ValueError:
            raise ValueError(f"{owner}: {key} must be a number, got {value!r} in {spec!r}") from None
    for key in known:
        if key not in options:
            raise TypeError(
                f"{owner}: {name} needs {' and '.join(known)}, as in '{name}:{key}=0.1', got {spec!r}"
            )
    return kind(**options)


def from_dict(description: Mapping[str, Any]) -> Initialiser:
    """Rebuild an initialiser from its :meth:`Initialiser.to_dict`."""
    options = dict(description)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"initialiser: kind must be one of {sorted(_KINDS)}, got {kind!r}")
    try:
        return _KINDS[kind](**options)
    except TypeError as error:
        raise ValueError(f"initialiser {kind}: {error}") from None
