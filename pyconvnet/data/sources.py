"""open_dataset: from what a user writes (a name, a path, arrays) to training and validation images."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from . import cifar
from .dataset import ArrayDataset, Dataset, split
from .digits import Digits
from .folder import ImageFolder, class_folders

NAMES = ("digits", "cifar10")
VALIDATION_NAMES = ("val", "validation", "valid", "test")


def open_dataset(
    spec: Any,
    *,
    validation: Any = None,
    seed: int = 0,
    size: int | tuple[int, int] = 256,
    channels: int = 3,
    on_error: str = "skip",
) -> tuple[Dataset, Dataset | None]:
    """Open training images, and validation images where there are any.

    Parameters
    ----------
    spec : Dataset, str, path or (x, y)
        - a `Dataset`;
        - "digits" (built in), "cifar10" (`cifar.default_folder()`, downloaded if need be);
        - a folder or archive with CIFAR-10 in an official form;
        - a folder with ``train`` and perhaps ``val`` (also ``validation``, ``valid``, ``test``) subfolders of
          classes, or a folder of classes;
        - an ``.npz`` file with arrays ``x``, ``y``, and perhaps ``x_validation``, ``y_validation``,
          ``classes``;
        - a pair of arrays.
    validation : None, False, float, or as `spec`
        None: what comes with the data (the held-out digits, CIFAR-10's test images, the ``val`` folder), else
        none. False: none. A number in (0, 1): that share of the training images, split by class with `seed`.
    seed : int
        Of the split.
    size, channels, on_error
        For image folders: see `ImageFolder`.

    Returns
    -------
    (train, validation or None)

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        What is missing or wrong, by name; validation images of another shape or other classes.
    """
    folder_options = {"size": size, "channels": channels, "on_error": on_error}
    train, own = _open(spec, folder_options)
    if validation is None:
        return train, own
    if validation is False:
        return train, None
    if isinstance(validation, (int, float, np.number)):
        return split(train, validation, seed)
    if isinstance(validation, (str, os.PathLike)) and isinstance(train, ImageFolder):
        path = Path(validation).expanduser()
        if path.is_dir() and not _has_train(path):
            chosen: Dataset = ImageFolder(path, classes=train.classes, **folder_options)
            return train, chosen
    first, second = _open(validation, folder_options)
    chosen = first if second is None else second  # of data with a split of its own, the held-out part
    _check_pair(train, chosen)
    return train, chosen


def _open(spec: Any, folder_options: dict[str, Any]) -> tuple[Dataset, Dataset | None]:
    if isinstance(spec, Dataset):
        return spec, None
    if isinstance(spec, (tuple, list)) and len(spec) == 2:
        return ArrayDataset(*spec), None
    if not isinstance(spec, (str, os.PathLike)):
        raise TypeError(f"data must be a Dataset, a name, a path or a pair (x, y), got {type(spec).__name__}")
    if spec == "digits":
        return Digits(train=True), Digits(train=False)
    if spec == "cifar10" and not Path(spec).exists():
        return cifar.Cifar10(download=True), cifar.Cifar10(train=False)
    path = Path(spec).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"data {str(spec)!r} is neither a file or folder nor one of {', '.join(NAMES)}"
        )
    if path.is_file() and path.suffix == ".npz":
        return _npz(path)
    if cifar.find(path) is not None:
        return cifar.Cifar10(path), cifar.Cifar10(path, train=False)
    if path.is_file():
        raise ValueError(f"data {str(spec)!r} is a file, but neither .npz nor a CIFAR-10 archive (.tar.gz)")
    if not _has_train(path):
        return ImageFolder(path, **folder_options), None
    train = ImageFolder(path / "train", **folder_options)
    for name in VALIDATION_NAMES:
        if (path / name).is_dir():
            return train, ImageFolder(path / name, classes=train.classes, **folder_options)
    return train, None


def _has_train(path: Path) -> bool:
    """True where `path` holds train/CLASS/, rather than a class that is called train."""
    return (path / "train").is_dir() and bool(class_folders(path / "train"))


def _npz(path: Path) -> tuple[Dataset, Dataset | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz file: {error}") from None
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"{path}: must hold arrays x and y, got {', '.join(arrays) or 'none'}")
    classes = [str(name) for name in arrays["classes"]] if "classes" in arrays else None
    try:
        train = ArrayDataset(arrays["x"], arrays["y"], classes, name=path.name)
        if "x_validation" not in arrays or "y_validation" not in arrays:
            return train, None
        held_out = ArrayDataset(
            arrays["x_validation"], arrays["y_validation"], train.classes, name=f"{path.name} (validation)"
        )
        held_out.class_names_given = train.class_names_given
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None
    _check_pair(train, held_out)
    return train, held_out


def _check_pair(train: Dataset, validation: Dataset) -> None:
    if validation.image_shape != train.image_shape:
        raise ValueError(
            f"validation images must have the training images' shape {train.image_shape}, "
            f"got {validation.image_shape}"
        )
    if validation.dtype != train.dtype:
        raise ValueError(
            f"validation images must be {train.dtype} as the training images, got {validation.dtype}"
        )
    if (
        len(validation.classes) > len(train.classes)
        or validation.classes != train.classes[: len(validation.classes)]
    ):
        raise ValueError(
            f"validation images must have the training images' classes {train.classes[:5]}…, "
            f"got {validation.classes[:5]}…"
        )
