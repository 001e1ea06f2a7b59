"""Statistics of the training images: mean image, mean pixel, colour components (paper, section 4.1)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common.files import write_atomically
from .dataset import Dataset
from .loader import Loader

_BATCH = 256


@dataclass(frozen=True)
class Statistics:
    """What augmentation needs to know of the training images, in units of their pixels (0 to 255 for uint8).

    Attributes
    ----------
    mean_image : (H, W, C) float32
        Mean over the images at each pixel; what the paper subtracts.
    mean_pixel : (C,) float32
        Mean over all pixels of all images.
    eigenvalues : (C,) float64
        Of the C x C covariance of pixels over the whole set, largest first: variances along the principal
        axes.
    eigenvectors : (C, C) float64
        Columns are the axes, in the same order, unit length, the entry of largest magnitude positive.
    count : int
        Images seen.
    pixel_range : float
        255 for uint8 images, 1 for floats: the length that a "pixel in [0, 1]" is stretched to.
    """

    mean_image: np.ndarray
    mean_pixel: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    count: int
    pixel_range: float = 255.0


def statistics(
    dataset: Dataset,
    *,
    cache: str | Path | None = None,
    workers: int = 0,
    progress: bool = False,
    share: tuple[int, int] = (0, 1),
    add_up: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Statistics:
    """Compute `Statistics` in one pass over `dataset`, or take them from `Dataset.known_statistics`.

    Sums are kept in float64: exact for uint8 images up to 10^11 pixels, and shifted by the first batch's mean
    for floats, so that large offsets do not cancel.

    Parameters
    ----------
    dataset : Dataset
        The training images.
    cache : path, optional
        Folder that keeps the result under the dataset's fingerprint; a second call reads it from there.
    workers : int
        Worker processes that decode images.
    progress : bool
        Show a progress bar.
    share : (rank, size)
        Of several processes that each read a part, as in `Loader`.
    add_up : function
        Sums an array of float64 over those processes.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"statistics: dataset must be a pyconvnet.data.Dataset, got {type(dataset).__name__}")
    if (known := dataset.known_statistics()) is not None:
        return known
    path = None if cache is None else Path(cache) / f"statistics-{dataset.fingerprint()}.npz"
    if path is not None and (known := _load(path)) is not None:
        return known
    result = _compute(dataset, workers, progress, share, add_up)
    if path is not None:
        _save(path, result)
    return result


def _compute(
    dataset: Dataset,
    workers: int,
    progress: bool,
    share: tuple[int, int],
    add_up: Callable[[np.ndarray], np.ndarray],
) -> Statistics:
    height, width, channels = dataset.image_shape
    image_sum = np.zeros((height * width, channels))
    product_sum = np.zeros((channels, channels))
    shift = np.zeros(channels)
    bar = _bar(len(dataset), progress)
    batch_size = max(1, min(_BATCH, len(dataset), (1 << 26) // (height * width * channels) + 1))
    with Loader(dataset, batch_size, shuffle=False, workers=workers, share=share) as loader:
        for number, batch in enumerate(loader.epoch(0)):
            pixels = batch.images.reshape(len(batch.images), height * width, channels).astype(np.float64)
            if dataset.dtype.kind == "f" and number == 0:
                shift = add_up(pixels.sum(axis=(0, 1))) / (batch.total * height * width)
            pixels -= shift
            image_sum += pixels.sum(axis=0)
            flat = pixels.reshape(-1, channels)
            product_sum += flat.T @ flat
            bar.update(batch.total)
    bar.close()
    image_sum, product_sum = add_up(image_sum), add_up(product_sum)
    return from_sums(
        image_sum.reshape(dataset.image_shape),
        product_sum,
        len(dataset),
        shift,
        255.0 if dataset.dtype == np.uint8 else 1.0,
    )


def from_sums(
    image_sum: np.ndarray,
    product_sum: np.ndarray,
    count: int,
    shift: np.ndarray | float = 0.0,
    pixel_range: float = 255.0,
) -> Statistics:
    """Compute `Statistics` from sums over `count` images.

    Parameters
    ----------
    image_sum : (H, W, C) float64
        Of the images.
    product_sum : (C, C) float64
        Of the products of each pixel's channels, over all pixels.
    count : int
    shift : (C,)
        What had been subtracted from every pixel.
    pixel_range : float
    """
    total = count * image_sum.shape[0] * image_sum.shape[1]
    mean = image_sum.sum(axis=(0, 1)) / total
    covariance = product_sum / total - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    strongest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return Statistics(
        mean_image=(image_sum / count + shift).astype(np.float32),
        mean_pixel=(mean + shift).astype(np.float32),
        eigenvalues=values,
        eigenvectors=vectors * np.where(strongest < 0, -1.0, 1.0),
        count=count,
        pixel_range=pixel_range,
    )


def _bar(total: int, show: bool):
    from tqdm import tqdm

    return tqdm(total=total, desc="statistics", unit=" images", disable=None if show else True, leave=False)


def _save(path: Path, result: Statistics) -> None:
    data = io.BytesIO()
    np.savez(data, **vars(result))
    write_atomically(path, data.getvalue())


def _load(path: Path) -> Statistics | None:
    """Load the cached result; None where there is none or it is damaged (it is then computed afresh)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in Statistics.__dataclass_fields__}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    values["count"], values["pixel_range"] = int(values["count"]), float(values["pixel_range"])
    return Statistics(**values)
