"""The depth layout on the `cpu` device: images and filters regrouped so that a stride becomes channels."""

from __future__ import annotations

import numpy as np

__all__ = ["filters_from_depth", "filters_to_depth", "images_to_depth"]


def images_to_depth(x: np.ndarray, side: int, pad: tuple[int, int], *, out: np.ndarray) -> np.ndarray:
    """out[n, i, j, (a t + b) C + c] = x[n, t i + a - top, t j + b - left, c], t = side; 0 outside the image.

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
    """out[k, r', s', (a t + b) C + c] = w[k, t r' + a, t s' + b, c], t = side; 0 beyond the filter.

    Parameters
    ----------
    w : (K, R, S, C)
    side : t
    out : (K, R', S', D) with R' t >= R, S' t >= S, D >= t t C
    """
    return images_to_depth(w, side, (0, 0), out=out)


def filters_from_depth(filters: np.ndarray, side: int, *, out: np.ndarray) -> np.ndarray:
    """The inverse of :func:`filters_to_depth`; what stands beyond the filter is dropped.

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
