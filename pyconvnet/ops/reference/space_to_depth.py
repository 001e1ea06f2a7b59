"""Space-to-depth on the `cpu` device: images and filters regrouped so that a stride becomes channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.checks import integer, padding, pair

__all__ = ["filters_from_depth", "filters_to_depth", "images_to_depth"]

MOST = 64  # pixels a block may be high and wide


@dataclass(frozen=True)
class Depth:
    """Which space-to-depth layout: that of a convolution.

    Parameters
    ----------
    size : int or (R, S), the filters
    stride : int, the same in both directions
    pad : int, (vertical, horizontal) or ((top, bottom), (left, right))
    """

    size: Any
    stride: int
    pad: Any = 0

    def shape(self, op: str, image: tuple[int, int, int], dtype: Any) -> tuple[int, int, int]:
        """Return (I, J, D) for images (H, W, C); ValueError where no filter fits."""
        size, side = pair(op, "depth.size", self.size, 1), block_side(op, self.stride)
        pad = padding(op, "depth.pad", self.pad)
        extents = []
        for extent, window, (before, after) in zip(image[:2], size, pad, strict=True):
            if extent + before + after < window:
                raise ValueError(
                    f"{op}: filters of {size[0]} x {size[1]} pixels do not fit images of {image[0]} x "
                    f"{image[1]} pixels with padding {pad}"
                )
            extents.append((extent + before + after - window) // side - (-window // side))
        return (*extents, channels(image[2], side, dtype))

    @property
    def corner(self) -> tuple[int, int]:
        """Padding above and to the left."""
        (top, _), (left, _) = padding("Depth", "pad", self.pad)
        return top, left


def channels(count: int, stride: int, dtype: Any) -> int:
    """Return the channels D of the space-to-depth layout of images with ``count`` channels."""
    per = 16 // max(2, min(4, np.dtype(dtype).itemsize))
    return -(-stride * stride * count // per) * per


def filters_shape(w_shape: tuple[int, ...], stride: int, dtype: Any) -> tuple[int, int, int, int]:
    """Return the shape (K, R', S', D) of filters (K, R, S, C) rearranged."""
    k, r, s, c = w_shape
    return k, -(-r // stride), -(-s // stride), channels(c, stride, dtype)


def block_side(op: str, stride: Any) -> int:
    return integer(op, "stride", stride, 1, MOST)


def images_to_depth(x: np.ndarray, side: int, pad: tuple[int, int], *, out: np.ndarray) -> np.ndarray:
    """Set out[n, i, j, (a t + b) C + c] = x[n, t i + a - top, t j + b - left, c], t = side; 0 outside x.

    Parameters
    ----------
    x : (N, H, W, C)
    side : t
    pad : (top, left)
    out : (N, I, J, D) with D >= t t C; channels left over become 0
    """
    n, height, width, channels = x.shape
    rows, cols = out.shape[1] * side, out.shape[2] * side
    padded = np.zeros((n, rows, cols, channels), x.dtype)
    top, left = pad
    h, w = max(0, min(height, rows - top)), max(0, min(width, cols - left))
    padded[:, top : top + h, left : left + w] = x[:, :h, :w]
    blocks = padded.reshape(n, out.shape[1], side, out.shape[2], side, channels).transpose(0, 1, 3, 2, 4, 5)
    _fill(out, blocks.reshape(*out.shape[:3], -1))
    return out


def filters_to_depth(w: np.ndarray, side: int, *, out: np.ndarray) -> np.ndarray:
    """Set out[k, r', s', (a t + b) C + c] = w[k, t r' + a, t s' + b, c], t = side; 0 beyond the filter.

    Parameters
    ----------
    w : (K, R, S, C)
    side : t
    out : (K, R', S', D) with R' t >= R, S' t >= S, D >= t t C
    """
    return images_to_depth(w, side, (0, 0), out=out)


def filters_from_depth(filters: np.ndarray, side: int, *, out: np.ndarray) -> np.ndarray:
    """Undo :func:`filters_to_depth`; what stands beyond the filter is dropped.

    Parameters
    ----------
    filters : (K, R', S', D)
    side : t
    out : (K, R, S, C)
    """
    count, r, s, channels = out.shape
    rows, cols = filters.shape[1:3]
    blocks = filters[..., : side * side * channels].reshape(count, rows, cols, side, side, channels)
    whole = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows * side, cols * side, channels)
    out[...] = whole[:, :r, :s]
    return out


def _fill(out: np.ndarray, values: np.ndarray) -> None:
    out[..., : values.shape[-1]] = values
    out[..., values.shape[-1] :] = 0
