"""Crops of images on the `cpu` device by a compiled kernel.

The arguments are those of :mod:`pyconvnet.ops.reference.augment`.
"""

from __future__ import annotations

import numpy as np

from ...common.threads import ranges
from . import module

#: Elements that are worth a thread.
_TASK = 1 << 16


def _augment(
    images: np.ndarray,
    crop: np.ndarray | None,
    mirror: np.ndarray | None,
    colour: np.ndarray | None,
    mean: np.ndarray | None,
    scale: float,
    indices: np.ndarray | None,
    out: np.ndarray,
) -> None:
    kernel, level, channels = module.ext().augment, module.level(), out.shape[3]
    extents = *images.shape, *out.shape[:3], 0 if mean is None else mean.size // channels
    parts = ranges(len(out), max(1, _TASK // out[0].size))
    rest = images.dtype == np.uint8, images, indices, crop, mirror, colour, mean, scale, out
    module.each(lambda i: kernel(level, extents, *parts[i], *rest), len(parts))


def augment(
    images: np.ndarray,
    crop: np.ndarray | None,
    mirror: np.ndarray | None,
    colour: np.ndarray | None,
    mean: np.ndarray | None,
    scale: float,
    indices: np.ndarray | None = None,
    *,
    out: np.ndarray,
) -> module.Call | None:
    """Return what crops, and its arguments; None where that is the reference's."""
    pixels = images.dtype == np.uint8 and images.flags.c_contiguous
    if not (pixels or module.suits(images)) or not module.suits(colour, mean, out):
        return None
    return _augment, (images, crop, mirror, colour, mean, scale, indices, out)
