"""The images a user passes to a trained model: files, folders of them, PIL images, arrays, one by one."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..common.checks import channels_first_hint, unmasked
from ..common.threads import parallel
from ..data import load_image
from ..data.folder import image_files, listed, say_left_out
from ..data.images import ENCODED


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


def read_all(
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


def stack(pixels: list[np.ndarray]) -> np.ndarray:
    """Lay images of one shape into one array: float32 where their types differ."""
    return np.stack([p.astype(np.float32) for p in pixels] if len({p.dtype for p in pixels}) > 1 else pixels)
