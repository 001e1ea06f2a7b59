"""How an image becomes a network's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.checks import check_number, unmasked
from .network import Network


@dataclass
class Preprocessing:
    """How an image becomes the network's input: ``(pixels - mean) * scale`` of a crop.

    Attributes
    ----------
    image_shape : (H, W, C)
        Images as they come, before the crop.
    crop : (h, w) or None
        Extent the network sees; None: the whole image.
    mean : None, (C,) or (H, W, C) float32
        Subtracted at the source pixel, before the crop moves it.
    scale : float
        Factor on the difference.
    """

    image_shape: tuple[int, int, int]
    crop: tuple[int, int] | None = None
    mean: np.ndarray | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.image_shape = _extents("image_shape", self.image_shape, "(H, W, C)")
        h, w, c = self.image_shape
        if self.crop is not None:
            self.crop = _extents("crop", self.crop, "(h, w)")
            if not (self.crop[0] <= h and self.crop[1] <= w):
                raise ValueError(f"Preprocessing: crop must fit images of {h}x{w}, got {self.crop}")
        if self.mean is not None:
            self.mean = np.ascontiguousarray(unmasked("Preprocessing", "mean", self.mean), np.float32)
            if self.mean.shape not in ((c,), (h, w, c)):
                raise ValueError(
                    f"Preprocessing: mean must have shape {(c,)} or {(h, w, c)}, got {self.mean.shape}"
                )
        check_number("Preprocessing: scale", self.scale, "number")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of what the network sees."""
        return (*(self.crop or self.image_shape[:2]), self.image_shape[2])

    def to_dict(self) -> dict:
        """Describe it, ready for JSON, without the mean, which is stored as an array."""
        return {
            "image_shape": list(self.image_shape),
            "crop": self.crop and list(self.crop),
            "scale": float(self.scale),
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any], mean: np.ndarray | None) -> Preprocessing:
        """Rebuild it from :meth:`to_dict`."""
        return cls(description["image_shape"], description["crop"], mean, description["scale"])


def _extents(name: str, value: Any, form: str) -> tuple[int, ...]:
    """Return ``value`` as a tuple of as many positive integers as its form, "(h, w)" say, names."""
    if not isinstance(value, (tuple, list)) or len(value) != form.count(",") + 1:
        raise ValueError(f"Preprocessing: {name} must be {form}, got {value!r}")
    for extent in value:
        check_number(f"Preprocessing: every extent of {name}", extent, "positive int")
    return tuple(int(extent) for extent in value)


def check_parameters(owner: str, network: Network, parameters: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless ``parameters`` are exactly the network's, by name and shape."""
    wanted = network.parameters()
    _same_names(owner, network, wanted, parameters)
    for name, spec in wanted.items():
        if tuple(parameters[name].shape) != spec.shape:
            raise ValueError(
                f"{owner}: parameter {name} must have shape {spec.shape}, got {tuple(parameters[name].shape)}"
            )


def _same_names(owner: str, network: Network, wanted: Sequence[str] | Mapping, got: Mapping) -> None:
    missing = [name for name in wanted if name not in got]
    extra = [name for name in got if name not in wanted]
    if missing or extra:
        parts = [
            f"{word} {', '.join(names[:5])}"
            for word, names in (("lacks", missing), ("does not know", extra))
            if names
        ]
        raise ValueError(f"{owner}: parameters do not match network {network.name!r}: {' and '.join(parts)}")
