"""ImageFolder: a tree of image files, one folder per class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .files import ImageFiles, file_stats
from .pillow import suffixes


class ImageFolder(ImageFiles):
    """Images under ``folder/CLASS/…``; classes are the sorted names of the subfolders.

    Files are told by their suffix, which must be one that Pillow reads pictures from, and sorted by path;
    subfolders of a class are searched too; names that start with a dot are left out. What is left out is
    counted in `left_out` and said once, in a warning. Images are decoded, and unreadable files treated, as in
    `ImageFiles`; a subfolder that cannot be read is an unreadable file, too.

    Parameters
    ----------
    folder : path
    size, channels, on_error, max_pixels, decoder, fit
        See `ImageFiles`.
    classes : sequence of str, optional
        Class names in the order of the labels, e.g. those of the training set for a validation folder
        which lacks some; a subfolder that is not among them is refused. Default: the subfolders.

    Attributes
    ----------
    left_out : dict of str to int
        What is not read: suffix, "hidden" or "beside the class folders" -> how many.

    Raises
    ------
    FileNotFoundError
        The folder does not exist.
    NotADirectoryError
        `folder` is a file.
    ValueError
        No class folders, a class without images, an unknown class; with ``on_error="raise"``: a subfolder
        that cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int | tuple[int, int] = 256,
        *,
        channels: int = 3,
        on_error: str = "skip",
        classes: Iterable[str] | None = None,
        max_pixels: int | None = None,
        decoder: str | None = None,
        fit: str = "crop",
    ):
        self._set_options(size, channels, on_error, max_pixels, decoder, fit)
        self.folder = existing_folder("ImageFolder", folder)
        self.name = str(folder)
        left_out: Counter[str] = Counter()
        found = class_folders(self.folder, left_out)
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
        unreadable: dict[str, str] = {}
        for label, name in enumerate(self.classes):
            if name not in found:
                continue
            mine: Counter[str] = Counter()
            failed: dict[str, str] = {}
            members = sorted(image_files(self.folder / name, mine, None if on_error == "raise" else failed))
            if not members:
                reasons = [*failed.values()][:1] + ([f"left out: {listed(mine)}"] if mine else [])
                raise ValueError(
                    f"ImageFolder: class {name!r} in {folder} has no images (files with a suffix that Pillow "
                    f"reads, .jpg or .png say{''.join(f'; {reason}' for reason in reasons)}); "
                    "add some or remove the folder"
                )
            left_out += mine
            unreadable |= failed
            for path, size_, time in members:
                files.append(os.path.relpath(path, self.folder))
                stats.append((size_, time))
            labels += [label] * len(members)
        self.files = files
        self.labels = np.array(labels, np.int32)
        self._stats = np.array(stats, np.int64)
        self.left_out = dict(left_out)
        say_left_out("ImageFolder", folder, left_out, stacklevel=3)
        self.note_skipped({os.path.relpath(path, self.folder): why for path, why in unreadable.items()})


def existing_folder(where: str, folder: Any) -> Path:
    """Return `folder` as a Path, checked to exist and to be a folder."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"{where}: folder must be a path, got {folder!r}")
    path = Path(folder).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{where}: folder {folder} does not exist")
    if not path.is_dir():
        raise NotADirectoryError(f"{where}: {folder} is not a folder")
    return path


def class_folders(folder: Path, left_out: Counter[str] | None = None) -> list[str]:
    """Return the sorted names of subfolders that are not hidden; count what else there is in `left_out`."""
    found = []
    for entry in os.scandir(folder):
        if is_folder(entry) and not entry.name.startswith("."):
            found.append(entry.name)
        elif left_out is not None:
            left_out["hidden" if entry.name.startswith(".") else "beside the class folders"] += 1
    return sorted(found)


def image_files(
    folder: Path, left_out: Counter[str] | None = None, unreadable: dict[str, str] | None = None
) -> Iterator[tuple[str, int, int]]:
    """Yield (path, size, time) of the image files under `folder`; see `file_stats` for the latter two.

    Parameters
    ----------
    folder : Path
    left_out : Counter, optional
        Counts the other files by suffix.
    unreadable : dict, optional
        Takes the subfolders that cannot be read, and why: path -> reason. Without it they raise ValueError.
    """
    counts = Counter() if left_out is None else left_out
    above = os.stat(os.path.join(folder, os.pardir))
    yield from _walk(str(folder), ((above.st_dev, above.st_ino),), suffixes(), counts, unreadable)


def _walk(
    folder: str,
    above: tuple[tuple[int, int], ...],
    kinds: dict[str, str],
    left_out: Counter[str],
    unreadable: dict[str, str] | None,
) -> Iterator[tuple[str, int, int]]:
    try:
        info = os.stat(folder)
        place = (info.st_dev, info.st_ino)
        reason = "a symbolic link that leads back to a folder above it" if place in above else None
        entries = [] if reason else list(os.scandir(folder))
    except OSError as error:
        reason = error.strerror
    if reason:
        if unreadable is None:
            raise ValueError(f"{folder}: {reason}")
        unreadable[folder] = f"{folder}: {reason}"
        return
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif is_folder(entry):
            yield from _walk(entry.path, (*above, place), kinds, left_out, unreadable)
        elif suffix in kinds:  # links to nothing, too: an unreadable file
            yield (entry.path, *file_stats(entry.path, kinds))
        else:
            left_out[suffix or "without a suffix"] += 1


def is_folder(entry: os.DirEntry) -> bool:
    """Return True for a folder, or a link to one; False, too, where a link goes in circles."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def say_left_out(where: str, folder: str | Path, counts: Counter[str], stacklevel: int = 2) -> None:
    """Warn of the files in `folder` that are not read, if there are any."""
    if counts:
        why = "images are told by a suffix that Pillow reads"
        text = f"{where}: {folder}: left out: {listed(counts)} ({why})"
        warnings.warn(text, RuntimeWarning, stacklevel=stacklevel)


def listed(counts: Counter[str], most: int = 8) -> str:
    """Return counts as text, "3 .txt, 1 hidden", the most frequent first."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in order[most:])
    return ", ".join([f"{n} {what:.30}" for what, n in order[:most]] + ([f"{rest} others"] if rest else []))
