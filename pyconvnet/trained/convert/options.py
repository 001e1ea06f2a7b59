"""How images become a foreign network's input, as its file, the format's custom or the caller says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.checks import check_number, flag, pair
from ...network.preprocessing import Preprocessing
from . import description
from .draft import ConversionError, Draft, Value


@dataclass
class Options:
    """What the caller knows of a file that does not say it; see :func:`pyconvnet.load`."""

    mean: Any = None
    scale: float | Sequence[float] | None = None
    bgr: bool | None = None
    image_size: Any = None
    input_size: Any = None
    classes: Sequence[str] | str | Path | None = None

    def __post_init__(self) -> None:
        if self.bgr is not None:
            self.bgr = flag("load", "bgr", self.bgr)
        for name in ("image_size", "input_size"):
            if getattr(self, name) is not None:
                setattr(self, name, pair("load", name, getattr(self, name), 1))
        if self.scale is not None:
            numbers = self.scale if isinstance(self.scale, (list, tuple)) else [self.scale]
            for number in numbers:
                check_number("load: scale", number, "number >= 0")
                if number == 0:
                    raise ValueError("load: scale must not be zero")
        if isinstance(self.classes, (str, Path)):
            self.classes = Path(self.classes).read_text().splitlines()
        if self.classes is not None:
            self.classes = [str(name) for name in self.classes]

    @property
    def given(self) -> list[str]:
        """The names of those that are given."""
        return [name for name, value in vars(self).items() if value is not None]


@dataclass
class Custom:
    """What holds for a file unless the caller says otherwise: see :class:`Options`."""

    mean: Any = None  # numbers a channel or a mean image (H, W, C), channels in the network's order
    scale: float | Sequence[float] = 1.0
    bgr: bool = False
    image_size: tuple[int, int] | None = None


def finish(draft: Draft, output: Value, options: Options, custom: Custom, source: str) -> Any:
    """Make the model of a draft with the preprocessing that the options, else the custom, ask for.

    Factors by channel, and an order of blue, green, red, are folded into the first filters, so that the model
    takes ``(pixels - mean) * scale`` of RGB pixels from 0 to 255.
    """
    h, w, channels = draft.input_shape
    bgr = custom.bgr if options.bgr is None else options.bgr
    scale = custom.scale if options.scale is None else options.scale
    mean = custom.mean if options.mean is None else _mean(options.mean)
    image = options.image_size or custom.image_size or (h, w)
    if isinstance(mean, np.ndarray) and mean.ndim == 3 and options.image_size is None:
        image = mean.shape[:2]
    if mean is not None:
        mean = np.asarray(mean, np.float32)
        if mean.ndim == 1 and len(mean) == 1:
            mean = np.repeat(mean, channels)
        if mean.shape not in ((channels,), (*image, channels)):
            raise ConversionError(
                f"mean must have shape {(channels,)} or {(*image, channels)}, got {mean.shape}"
            )
    if bgr and channels != 3:
        raise ConversionError(f"bgr is for images of 3 channels, it takes {channels}")
    if bgr:
        draft.reverse_input()
        mean = None if mean is None else np.ascontiguousarray(mean[..., ::-1])
        if isinstance(scale, (list, tuple)):
            scale = scale[::-1]
    if isinstance(scale, (list, tuple)):
        if len(scale) != channels:
            raise ConversionError(f"scale must be {channels} numbers, one a channel, got {len(scale)}")
        factors = np.asarray(scale, np.float64)
        scale = float(factors.mean())
        draft.scale_input(factors / scale)
    crop = None if image == (h, w) else (h, w)
    preprocessing = Preprocessing((*image, channels), crop, mean, float(scale))
    how = description.recipe(preprocessing)
    return draft.finish(output, preprocessing, options.classes, source, how)


def _mean(value: Any) -> Any:
    """Return a mean as numbers or an image: as given, or from a file of Caffe's or NumPy's."""
    if isinstance(value, (str, Path)):
        path = Path(value)
        if path.suffix == ".npy":
            value = np.load(path, allow_pickle=False)
            return value if value.ndim < 3 else _image(value)
        from .caffe_messages import read_mean

        return read_mean(path)
    value = np.asarray(value)
    if value.dtype.kind not in "fiu" or value.ndim > 3:
        raise TypeError(f"load: mean must be numbers or a file, got {value.dtype} of shape {value.shape}")
    return np.atleast_1d(value)


def _image(value: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C): Caffe's own .npy files lie (C, H, W)."""
    return value.transpose(1, 2, 0) if value.shape[0] in (1, 3) and value.shape[2] not in (1, 3) else value
