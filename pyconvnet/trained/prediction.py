"""Predict the classes of images: files, folders of them, PIL images, arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..common.checks import integer
from ..common.devices import Device
from ..data.dataset import reading_of
from ..data.images import check_max_pixels, check_on_error
from ..data.matching import check_reading
from ..data.sources import given_options
from .evaluate import as_model, best_classes
from .images import image_sources, read_all, stack
from .model import Model
from .probabilities import log_probabilities, view_draws

#: (class name, probability) of one image, most probable first; None: the image could not be read.
Guess = list[tuple[str, float]] | None


class Predictions(list):
    """What :func:`predict` returns for several images: the guesses of each, in order.

    Attributes
    ----------
    paths : list of str or None
        The file each is of; None for what was no file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str | None] = []


def predict(
    model_or_run: Any,
    images: Any,
    top: int = 5,
    *,
    views: int = 1,
    batch_size: int = 128,
    device: str | Device | Sequence[str | Device] | None = None,
    precision: str = "fp32",
    replicas: int = 1,
    hybrid: bool = False,
    on_error: str = "raise",
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    max_pixels: int | None = None,
) -> list:
    """Return the most probable classes of images.

    The model keeps what the call made ready on the device, so that the next call need not: see
    :meth:`pyconvnet.Model.release`. (A path given as the model is read each time.)

    Parameters
    ----------
    model_or_run : Model, Run or path
    images : one image or a sequence of them
        Paths, PIL images, encoded images as bytes, or arrays (H, W, C) or (H, W); an array (n, H, W, C) is n
        images; a folder is all images in it and its subfolders, sorted by path. Files, PIL images and uint8
        arrays are prepared as training images are (shorter side rescaled, centre cropped); float arrays must
        have the model's image shape and are taken as they are.
    top : int
        Classes per image, at most as many as there are.
    views : 1 or 10
        As in `evaluate`.
    batch_size : int
    device : str, Device, a list of them, or None
        Several share the network, as in `train`.
    precision : "fp32", "tf32", "fp32x3" or "bf16"
        As `train` takes it; whatever the model was trained in.
    replicas, hybrid
        How several devices are used, as in `train`.
    on_error : "raise" or "skip"
        Of an image that cannot be read: raise, or warn, naming it, and give None in its place.
    image_size, channels
        What images are prepared to, before the crop: the model's own, or an error.
    max_pixels : int, optional
        Largest image file decoded, see `data.load_image`; default 100 million.

    Returns
    -------
    list of (class name, probability), most probable first; for a sequence or a folder a list of such lists
        (:class:`Predictions`, whose ``paths`` name the files)

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        An image that cannot be read, by name; a folder without images; a shape that does not fit; a bad
        option.
    """
    model = as_model(model_or_run)
    single, sources = image_sources(images, model.preprocessing.image_shape)
    how = {"device": device, "precision": precision, "replicas": replicas, "hybrid": hybrid}
    how |= {"on_error": on_error, "image_size": image_size, "channels": channels, "max_pixels": max_pixels}
    results = Predictions()
    for source, guess, error in predict_each(model, sources, top, views, batch_size, **how):
        if error is not None:
            warnings.warn(f"skipped unreadable image {error}", RuntimeWarning, stacklevel=2)
        results.append(guess)
        results.paths.append(os.fspath(source) if isinstance(source, (str, os.PathLike)) else None)
    return results[0] if single else results


def predict_each(
    model: Model,
    sources: Sequence[Any],
    top: int,
    views: int,
    batch_size: int,
    *,
    on_error: str,
    image_size: Any,
    channels: Any,
    max_pixels: Any,
    **how: Any,
) -> Iterator[tuple[Any, Guess, Exception | None]]:
    """Yield (source, guess, None), or (source, None, what is wrong with it), one by one; see :func:`predict`.

    Parameters
    ----------
    sources : sequence
        What :func:`image_sources` makes of images.
    how : device, precision, replicas, hybrid
    """
    top = min(integer("predict", "top", top, 1), model.outputs)
    size = min(integer("predict", "batch_size", batch_size, 1), len(sources))
    check_on_error("predict", on_error)
    max_pixels = check_max_pixels("predict", max_pixels)
    shape = model.preprocessing.image_shape
    check_reading(reading_of(shape), given_options(size=image_size, channels=channels), "the model")
    draws = view_draws(model, views)
    with model.kept_plan(batch_size=size, **how) as plan:
        for start in range(0, len(sources), size):
            some = sources[start : start + size]
            read = read_all(some, shape, on_error, max_pixels)
            good = [pixels for pixels in read if not isinstance(pixels, Exception)]
            rows = iter(np.exp(log_probabilities(plan, stack(good), draws)) if good else ())
            for source, pixels in zip(some, read, strict=True):
                bad = isinstance(pixels, Exception)
                yield source, None if bad else best_classes(model, next(rows), top), pixels if bad else None
