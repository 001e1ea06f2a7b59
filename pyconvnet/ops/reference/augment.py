"""Crop, mirror, colour and mean on the `cpu` device."""

from __future__ import annotations

import numpy as np

from ...common.threads import parallel, ranges, scratch
from .widen import widened

__all__ = ["augment"]


@widened
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
) -> np.ndarray:
    """Compute y[n,i,j,c] = (images[k, top + i, left + j', c] - mean[source pixel, c] + colour[n,c]) scale.

    j' = w - 1 - j where the image is mirrored, else j; k = indices[n], without indices n.

    Parameters
    ----------
    images : (N, H, W, C), uint8 or floating
    crop : (n, 2) int32, (top, left), inside the images; None: 0
    mirror : (n,) uint8 or None
    colour : (n, C) or None
    mean : None, (C,) or (H, W, C)
    indices : (n,) int32 in [0, N), or None where n = N
    out : (n, h, w, C) floating
    """
    count, height, width, channels = images.shape
    n, h, w, _ = out.shape
    # A line of pixels is one run of w C numbers: NumPy's inner loops are too short over three channels.
    source = images.reshape(count, height, width * channels)
    target = out.reshape(n, h, w * channels)
    if mean is not None and mean.ndim == 1:
        mean_line, mean_image = np.tile(mean, w).astype(out.dtype), None
    else:
        mean_line, mean_image = None, None if mean is None else mean.reshape(height, width * channels)
    backwards = (np.arange(w)[::-1, None] * channels + np.arange(channels)).reshape(-1)
    factor = out.dtype.type(scale)
    pieces = ranges(n, max(1, 64 * 1024 // target[0].size))

    def task(piece: int) -> None:
        for i in range(*pieces[piece]):
            top, left = (0, 0) if crop is None else (int(crop[i, 0]), int(crop[i, 1]) * channels)
            window = slice(top, top + h), slice(left, left + w * channels)
            y = target[i]
            mirrored = mirror is not None and mirror[i]
            centred = scratch("augment.centred", y.shape, y.dtype) if mirrored else y
            np.copyto(centred, source[i if indices is None else indices[i]][window])
            if mean_image is not None:
                centred -= mean_image[window]
            if mirrored:
                np.take(centred, backwards, axis=1, out=y, mode="clip")
            if mean_line is not None:
                y -= mean_line
            if colour is not None:
                y += np.tile(colour[i], w).astype(y.dtype)
            if factor != 1:
                y *= factor

    parallel(task, len(pieces))
    return out
