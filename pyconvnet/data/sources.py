"""open_dataset: from what a user writes (a name, a path, arrays) to training and validation images."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from . import cifar, map_style
from .dataset import ArrayDataset, Dataset, split
from .digits import Digits
from .files import ImageFiles, file_list, read_csv
from .folder import ImageFolder, class_folders
from .ilsvrc import is_ilsvrc, open_ilsvrc
from .matching import check_pair, check_reading
from .shards import TRAIN, VALIDATION, Shards, is_prepared, read_manifest

NAMES = ("digits", "cifar10")
LISTS = (".csv", ".tsv")
VALIDATION_NAMES = ("val", "validation", "valid", "test")


def open_dataset(
    spec: Any,
    *,
    validation: Any = None,
    seed: int = 0,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    on_error: str | None = None,
    max_pixels: int | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Open training images, and validation images where there are any.

    Parameters
    ----------
    spec : Dataset, str, path or (x, y)
        - a `Dataset`;
        - "digits" (built in), "cifar10" (`cifar.default_folder()`, downloaded if need be);
        - a folder or archive with CIFAR-10 in an official form;
        - a folder that `prepare` has filled;
        - a folder with ILSVRC-2012's archives, see :mod:`pyconvnet.data.ilsvrc`;
        - a folder with ``train`` and perhaps ``val`` (also ``validation``, ``valid``, ``test``) subfolders of
          classes, or a folder of classes;
        - an ``.npz`` file with arrays ``x``, ``y``, and perhaps ``x_validation``, ``y_validation``,
          ``classes``;
        - a pair of arrays;
        - a map-style dataset of PyTorch's kind, or a DataLoader of one, see `MapStyleDataset`;
        - a list of pairs (image file, label), or a pair (image files, labels), or a ``.csv`` or ``.tsv`` file
          with an image file and a label a line, see `ImageFiles` and `read_csv`.
    validation : None, False, float, or as `spec`
        None: what comes with the data (the held-out digits, CIFAR-10's test images, the ``val`` folder), else
        none. False: none. A number in (0, 1): that share of the training images, split by class with `seed`.
        Files are read as the training images are: their size, channels and whatever else `Dataset.reading`
        says. Labels become those of the training images' classes.
    seed : int
        Of the split.
    size, channels, on_error, max_pixels
        Of images read from files, see `ImageFiles`; default 256, 3, "skip", 100 million. Of other images,
        whose size is their own, nothing else can be asked.

    Returns
    -------
    (train, validation or None)

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        What is missing or wrong, by name; validation images of another shape or other classes.
    """
    reading = given_options(size=size, channels=channels, on_error=on_error, max_pixels=max_pixels)
    train, chosen = open_pair(spec, validation, seed, reading)
    check_reading(train.reading, reading, train.name)
    return train, chosen


def given_options(**options: Any) -> dict[str, Any]:
    """Return those options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def open_pair(
    spec: Any, validation: Any, seed: int, reading: dict[str, Any]
) -> tuple[Dataset, Dataset | None]:
    """Open training images, and validation images to go with them; `reading`: options of `ImageFiles`."""
    train, chosen = _open(spec, reading)
    if validation is False:
        return train, None
    if isinstance(validation, (int, float, np.number)):
        return split(train, validation, seed)
    if validation is not None:
        names = {"classes": train.classes} if train.class_names_given else {}
        first, second = _open(validation, {**train.reading, **names})
        chosen = first if second is None else second  # of data with a split of its own, the held-out part
    return train, None if chosen is None else check_pair(train, chosen)


def _open(spec: Any, reading: dict[str, Any]) -> tuple[Dataset, Dataset | None]:
    """Open the images of `spec`, and what it holds out."""
    if isinstance(spec, Dataset):
        return spec, None
    if (listed := file_list(spec)) is not None:
        return ImageFiles(*listed, **reading), None
    if isinstance(spec, (tuple, list)) and len(spec) == 2:
        return ArrayDataset(*spec), None
    if not isinstance(spec, (str, os.PathLike)) and (found := map_style.wrapped(spec)) is not None:
        return found, None
    if not isinstance(spec, (str, os.PathLike)):
        raise TypeError(
            "data must be a Dataset, a name, a path or a pair (x, y) of arrays, or a list of pairs "
            f"(image file, label), or a dataset of PyTorch's kind, got {type(spec).__name__}"
        )
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
    if path.is_file() and path.suffix.lower() in LISTS:
        return ImageFiles(*read_csv(path), folder=path.parent, name=str(path), **reading), None
    if is_prepared(path):
        held_out = VALIDATION in read_manifest(path)["sets"]
        return Shards(path, TRAIN), Shards(path, VALIDATION) if held_out else None
    if is_ilsvrc(path):
        return open_ilsvrc(path, reading)
    if cifar.find(path) is not None:
        return cifar.Cifar10(path), cifar.Cifar10(path, train=False)
    if path.is_file():
        raise ValueError(
            f"data {str(spec)!r} is a file, but neither .npz nor a CIFAR-10 archive (.tar.gz), nor a list of "
            f"image files with labels ({', '.join(LISTS)})"
        )
    if not _has_train(path):
        return ImageFolder(path, **reading), None
    train = ImageFolder(path / "train", **reading)
    for name in VALIDATION_NAMES:
        if (path / name).is_dir():
            return train, ImageFolder(path / name, **{**reading, "classes": train.classes})
    return train, None


def _has_train(path: Path) -> bool:
    """Return True where `path` holds train/CLASS/, rather than a class that is called train."""
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
    return train, held_out
