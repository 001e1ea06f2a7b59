"""ImageFolder: a tree of image files, one folder per class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Dataset
from .images import EXTENSIONS, image_size, load_image

_UNCOMPRESSED = (".bmp", ".ppm", ".pgm", ".tif", ".tiff")


class ImageFolder(Dataset):
    """Images under ``folder/CLASS/…``; classes are the sorted names of the subfolders.

    Every image is decoded by Pillow on reading, its shorter side rescaled to `size`, and the central
    ``size`` x ``size`` patch kept (paper, section 2). Files are told by their extension and sorted by path;
    subfolders of a class are searched too; names that start with a dot are ignored.

    A file that turns out to be unreadable (truncated, damaged, no image) is, with ``on_error="skip"``,
    replaced by the next readable file of its class in sorted order, wrapping round: the batch keeps its size
    and its labels, and is the same whatever the number of workers. The file is named once in a warning and
    listed in `skipped`. `check` finds such files beforehand.

    Parameters
    ----------
    folder : path
    size : int or (height, width)
    channels : 3 (RGB) or 1 (grey)
    on_error : "skip" or "raise"
        What to do with an unreadable file: replace it as above, or raise ValueError naming it.
    classes : sequence of str, optional
        Class names in the order of the labels, e.g. those of the training set for a validation folder
        which lacks some; a subfolder that is not among them is refused. Default: the subfolders.

    Raises
    ------
    FileNotFoundError
        The folder does not exist.
    NotADirectoryError
        `folder` is a file.
    ValueError
        No class folders, a class without images, an unknown class.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int | tuple[int, int] = 256,
        *,
        channels: int = 3,
        on_error: str = "skip",
        classes: Iterable[str] | None = None,
    ):
        height, width = image_size("ImageFolder", size)
        if channels not in (1, 3):
            raise ValueError(f"ImageFolder: channels must be 1 or 3, got {channels!r}")
        if on_error not in ("skip", "raise"):
            raise ValueError(f'ImageFolder: on_error must be "skip" or "raise", got {on_error!r}')
        self.folder = existing_folder("ImageFolder", folder)
        self.on_error = on_error
        self.image_shape = (height, width, int(channels))
        self.name = str(folder)
        found = class_folders(self.folder)
        if not found:
            raise ValueError(
                f"ImageFolder: {folder} has no class folders (images go to {folder}/CLASS/NAME.jpg)"
            )
        self.classes = found if classes is None else list(classes)
        unknown = [c for c in found if c not in self.classes]
        if unknown:
            raise ValueError(
                f"ImageFolder: {folder} has the folder {unknown[0]!r}, "
                f"which is not one of the {len(self.classes)} classes"
            )
        files: list[str] = []
        labels: list[int] = []
        stats: list[tuple[int, int]] = []
        for label, name in enumerate(self.classes):
            if name not in found:
                continue
            members = sorted(image_files(self.folder / name))
            if not members:
                raise ValueError(
                    f"ImageFolder: class {name!r} in {folder} has no images ({', '.join(EXTENSIONS)}); "
                    "add some or remove the folder"
                )
            for path, size_, mtime in members:
                files.append(os.path.relpath(path, self.folder))
                stats.append((size_, mtime))
            labels += [label] * len(members)
        self.files = files
        self.labels = np.array(labels, np.int32)
        self._stats = np.array(stats, np.int64)
        self._skipped: dict[str, str] = {}

    @property
    def reading(self) -> dict[str, Any]:
        return {**super().reading, "on_error": self.on_error}

    @property
    def skipped(self) -> dict[str, str]:
        return self._skipped

    def note_skipped(self, skipped: dict[str, str]) -> None:
        for path, reason in skipped.items():
            if path not in self._skipped:
                self._skipped[path] = reason
                warnings.warn(f"skipped unreadable image {reason}", RuntimeWarning, stacklevel=2)

    def path(self, index: int) -> Path:
        """The file that holds image `index`."""
        return self.folder / self.files[index]

    def check(self) -> dict[str, str]:
        """Decode every file; return the unreadable ones (path -> reason), then also in `skipped`."""
        bad = {}
        for index in range(len(self)):
            try:
                load_image(self.path(index), self.image_shape[:2], self.image_shape[2])
            except (ValueError, OSError) as error:
                bad[self.files[index]] = str(error)
        self._skipped.update(bad)
        return bad

    def _read(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), *self.image_shape), np.uint8)
        for row, index in zip(out, indices, strict=True):
            row[...] = self._decode(int(index))
        return out

    def _decode(self, index: int) -> np.ndarray:
        height, width, channels = self.image_shape
        if self.on_error == "raise":
            return load_image(self.path(index), (height, width), channels)
        # Files of a class are neighbours: [first, last) is this class.
        label = self.labels[index]
        first, last = np.searchsorted(self.labels, [label, label + 1])
        for offset in range(last - first):
            candidate = int(first + (index - first + offset) % (last - first))
            if self.files[candidate] in self._skipped:
                continue
            try:
                return load_image(self.path(candidate), (height, width), channels)
            except (ValueError, OSError) as error:
                self.note_skipped({self.files[candidate]: str(error)})
        raise ValueError(
            f"ImageFolder: no image of class {self.classes[label]!r} in {self.folder} is readable"
        )

    def _identity(self) -> Iterable[bytes]:
        # Sizes stand for the contents: reading 140 GB to name a cache file would not do. Where every picture
        # of a format has the same size the date counts too; elsewhere it does not, so that a copied folder is
        # the same.
        yield "\0".join(self.files).encode("utf-8", "surrogateescape")
        fixed = np.array([name.lower().endswith(_UNCOMPRESSED) for name in self.files])
        yield np.where(fixed[:, None] | [True, False], self._stats, 0).tobytes()


def existing_folder(where: str, folder: Any) -> Path:
    """`folder` as a Path that exists and is a folder."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"{where}: folder must be a path, got {folder!r}")
    path = Path(folder).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{where}: folder {folder} does not exist")
    if not path.is_dir():
        raise NotADirectoryError(f"{where}: {folder} is not a folder")
    return path


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the subfolders, without hidden ones."""
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
    )


def image_files(folder: Path) -> Iterable[tuple[str, int, int]]:
    """(path, size in bytes, modification time in ns) of the image files under `folder`."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from image_files(Path(entry.path))
        elif entry.name.lower().endswith(EXTENSIONS):
            info = entry.stat()
            yield entry.path, info.st_size, info.st_mtime_ns
