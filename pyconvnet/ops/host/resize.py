"""Images of bytes to another size by a compiled kernel, in the numbers of Pillow's bicubic filter.

Pillow (``Image.resize(size, BICUBIC, box=box)``) rounds weights to 22 bits behind the point, sums integers
and rounds rows to bytes before it weighs columns. So does the kernel, whence the same bits; only where
Pillow 13 takes the columns first are some pixels a few levels off. What the kernel saves are Pillow's pixels
of four bytes and the copies to and from them, and it uses vectors.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from . import module

#: left, top, right, bottom in pixels of the source
Box = tuple[float, float, float, float]

_SUPPORT = 2.0  # of the bicubic filter, in pixels of the smaller image
_PRECISION = 22


def resize(image: np.ndarray, size: tuple[int, int], box: Box, out: np.ndarray) -> bool:
    """Rescale `box` of an image to `size` by the bicubic filter (a = -0.5), widened where the image shrinks.

    Parameters
    ----------
    image : (h, w, C) uint8, contiguous, of 1 or 3 channels
    size : (height, width)
    box : (left, top, right, bottom)
        Within the image.
    out : (height, width, C) uint8, contiguous

    Returns
    -------
    bool
        False where there is no kernel: nothing was written.
    """
    level = module.level()
    if level is None:
        return False
    height, width, channels = image.shape
    left, top, right, bottom = map(float, np.float32(box))  # which is what Pillow makes of them
    spans_h, weights_h = _weights(height, top, bottom, size[0])
    spans_w, weights_w = _weights(width, left, right, size[1])
    extents = height, width, channels, *size, weights_h.shape[1], weights_w.shape[1]
    module.ext().resize(level, extents, image, spans_h, weights_h, spans_w, weights_w, out)
    return True


@functools.lru_cache(256)
def _weights(extent: int, first: float, last: float, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, count) of the pixels that each output reads, and their weights in 1 / 2^22."""
    scale = (last - first) / outputs
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    centre = first + (np.arange(outputs) + 0.5) * scale
    begin = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), extent)
    count = end - begin
    taps = np.arange(math.ceil(support) * 2 + 1)
    weights = _bicubic((taps + begin[:, None] - centre[:, None] + 0.5) * (1.0 / stretch))
    weights[taps >= count[:, None]] = 0.0
    total = np.cumsum(weights, axis=1)[:, -1:]  # summed in order, as Pillow does
    weights = np.divide(weights, total, out=weights, where=total != 0) * (1 << _PRECISION)
    whole = np.trunc(weights + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    return np.stack([begin, count], axis=1).astype(np.int32), whole


def _bicubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Evaluate the cubic convolution filter (Keys 1981)."""
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
