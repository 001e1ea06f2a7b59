"""A trained network with all it needs to see an image: parameters, preprocessing, class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .layers.base import check_number
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
            self.mean = np.ascontiguousarray(self.mean, np.float32)
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
        """JSON-ready description without the mean, which is stored as an array."""
        return {
            "image_shape": list(self.image_shape),
            "crop": self.crop and list(self.crop),
            "scale": float(self.scale),
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any], mean: np.ndarray | None) -> Preprocessing:
        """Inverse of :meth:`to_dict`."""
        return cls(description["image_shape"], description["crop"], mean, description["scale"])


def _extents(name: str, value: Any, form: str) -> tuple[int, ...]:
    """``value`` as a tuple of as many positive integers as its form, "(h, w)" say, names."""
    if not isinstance(value, (tuple, list)) or len(value) != form.count(",") + 1:
        raise ValueError(f"Preprocessing: {name} must be {form}, got {value!r}")
    for extent in value:
        check_number(f"Preprocessing: every extent of {name}", extent, "positive int")
    return tuple(int(extent) for extent in value)


@dataclass
class Model:
    """Network + parameters + preprocessing + class names.

    Attributes
    ----------
    network : Network
    parameters : dict of str to np.ndarray
        By full name (``conv1.weight``), whole and unsplit, float32.
    preprocessing : Preprocessing
    classes : list of str
        Names of the outputs, in order.
    info : dict
        JSON-ready notes on the training: epoch, step, validation error...
    """

    network: Network
    parameters: dict[str, np.ndarray]
    preprocessing: Preprocessing
    classes: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_parameters("Model", self.network, self.parameters)
        self.classes = [str(c) for c in self.classes]
        if len(self.classes) > self.network.classes:
            raise ValueError(
                f"Model: classes holds {len(self.classes)} names, "
                f"but network {self.network.name!r} has {self.network.classes} outputs"
            )
        if tuple(self.preprocessing.input_shape) != self.network.input_shape:
            raise ValueError(
                f"Model: preprocessing makes inputs of shape {self.preprocessing.input_shape}, "
                f"network {self.network.name!r} takes {self.network.input_shape}"
            )

    def __repr__(self) -> str:
        return f"Model({self.network!r}, {len(self.classes)} classes)"

    def plan(
        self,
        device: Any = None,
        batch_size: int = 128,
        *,
        train: bool = False,
        seed: int = 0,
        precision: str = "fp32",
    ):
        """The model ready to run on a device: a :class:`pyconvnet.plan.Plan` with its parameters and
        preprocessing.
        """
        from .plan import Plan

        plan = Plan(
            self.network, device, batch_size, train=train, seed=seed, initialise=False, precision=precision
        )
        plan.set_parameters(self.parameters)
        plan.set_preprocessing(self.preprocessing)
        return plan

    def save(self, path: str | Path) -> Path:
        """Write the model to a safetensors file."""
        from . import checkpoint

        return checkpoint.save(self, path)

    def class_name(self, index: int) -> str:
        """Name of an output, or its number where it has none."""
        return self.classes[index] if index < len(self.classes) else str(index)


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
