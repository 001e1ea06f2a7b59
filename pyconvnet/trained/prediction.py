"""Predict the classes of images: files, folders of them, PIL images, arrays."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..common.checks import channels_first_hint, integer, unmasked
from ..common.devices import Device
from ..common.threads import parallel
from ..data import load_image
from ..data.dataset import reading_of
from ..data.folder import image_files, listed, say_left_out
from ..data.images import ENCODED, check_max_pixels, check_on_error
from ..data.matching import check_reading
from ..data.sources import given_options
from .evaluate import as_model, best_classes, log_probabilities, view_draws
from .model import Model

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
    top = min(integer("predict", "top", top, 1), model.network.classes)
    size = min(integer("predict", "batch_size", batch_size, 1), len(sources))
    check_on_error("predict", on_error)
    max_pixels = check_max_pixels("predict", max_pixels)
    shape = model.preprocessing.image_shape
    check_reading(reading_of(shape), given_options(size=image_size, channels=channels), "the model")
    draws = view_draws(model, views)
    with model.kept_plan(batch_size=size, **how) as plan:
        for start in range(0, len(sources), size):
            some = sources[start : start + size]
            read = _read_all(some, shape, on_error, max_pixels)
            good = [pixels for pixels in read if not isinstance(pixels, Exception)]
            rows = iter(np.exp(log_probabilities(plan, _stack(good), draws)) if good else ())
            for source, pixels in zip(some, read, strict=True):
                bad = isinstance(pixels, Exception)
                yield source, None if bad else best_classes(model, next(rows), top), pixels if bad else None


def image_sources(images: Any, image_shape: tuple[int, int, int]) -> tuple[bool, list[Any]]:
    """Return (True where one image was meant, the images one by one, folders replaced by their files)."""
    if isinstance(images, (str, os.PathLike)):
        files = _files(images)
        return files is None, [images] if files is None else files
    if isinstance(images, (Image.Image, *ENCODED)):
        return True, [images]
    if isinstance(images, np.ndarray):
        if images.ndim in (2, 3) and not (
            images.ndim == 3 and images.shape[1:] == image_shape[:2] and image_shape[2] == 1
        ):
            return True, [images]
        batch = images.ndim == 4 and images.shape[1:] != image_shape
        hint = channels_first_hint(images.shape) if batch else ""
        if images.ndim not in (3, 4) or hint:
            raise ValueError(
                f"predict: an array must have shape (H, W), (H, W, C) or (n, H, W, C), got {images.shape}"
                f"{hint}"
            )
        images = list(images)
    if not isinstance(images, Sequence) and not isinstance(images, Iterator):
        raise TypeError(f"predict: images must be paths, PIL images or arrays, got {type(images).__name__}")
    found: list[Any] = []
    for image in images:
        files = _files(image) if isinstance(image, (str, os.PathLike)) else None
        found += [image] if files is None else files
    if not found:
        raise ValueError("predict: images must not be empty")
    return False, found


def _files(path: Any) -> list[str] | None:
    """List the image files under a folder, sorted; None where `path` is none."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    left_out: Counter[str] = Counter()
    closed: dict[str, str] = {}  # subfolders that cannot be read: unreadable like files
    files = sorted([name for name, _, _ in image_files(folder, left_out, closed)] + list(closed))
    if not files:
        others = f" (but {listed(left_out)})" if left_out else ""
        raise ValueError(f"predict: {path} holds no images{others}")
    say_left_out("predict", path, left_out)
    return files


def _read_all(
    images: Sequence[Any], image_shape: tuple[int, int, int], on_error: str, max_pixels: int
) -> list[np.ndarray | Exception]:
    """Read several as :func:`_read`, files on the `cpu` device's threads; raise the first one's error."""
    read: list[Any] = [None] * len(images)
    wrong: dict[int, Exception] = {}

    def task(i: int) -> None:
        try:
            read[i] = _read(images[i], image_shape, on_error, max_pixels)
        except Exception as error:
            wrong[i] = error

    if all(isinstance(image, (str, os.PathLike, *ENCODED)) for image in images):
        with warnings.catch_warnings():  # which reading sets for all threads: the last one out puts it back
            parallel(task, len(images), blas=False)
    else:
        for i in range(len(images)):
            task(i)
    if wrong:
        raise wrong[min(wrong)]
    return read


def _read(
    image: Any, image_shape: tuple[int, int, int], on_error: str, max_pixels: int
) -> np.ndarray | Exception:
    """Return the pixels; with ``on_error="skip"`` the reason why they cannot be read."""
    height, width, channels = image_shape
    if isinstance(image, np.ndarray):
        image = np.asarray(unmasked("predict", "images", image))
        array = image[..., None] if image.ndim == 2 else image
        if array.shape == image_shape and array.dtype.kind == "f":
            if not np.isfinite(array).all():
                raise ValueError("predict: images must be finite, got NaN or infinity")
            return array.astype(np.float32)
        if array.ndim != 3 or array.dtype != np.uint8 or 0 in array.shape:
            raise ValueError(
                f"predict: an array must be uint8 (H, W, C), or float of the model's shape {image_shape}, "
                f"got {image.dtype} {image.shape}{channels_first_hint(image.shape)}"
            )
        if array.shape == image_shape:
            return array
        if array.shape[2] not in (1, 3):
            raise ValueError(
                f"predict: an array must have 1 or 3 channels, got shape {image.shape}"
                f"{channels_first_hint(image.shape)}"
            )
        image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))
    if not isinstance(image, (str, os.PathLike, Image.Image, *ENCODED)):
        raise TypeError(f"predict: images must be paths, PIL images or arrays, got {type(image).__name__}")
    if channels not in (1, 3):
        raise ValueError(
            f"predict: the model takes images of {channels} channels: give arrays of shape {image_shape}"
        )
    try:
        return load_image(image, (height, width), channels, max_pixels=max_pixels)
    except (ValueError, OSError) as error:
        if on_error == "raise":
            raise
        return error


def _stack(pixels: list[np.ndarray]) -> np.ndarray:
    return np.stack([p.astype(np.float32) for p in pixels] if len({p.dtype for p in pixels}) > 1 else pixels)
