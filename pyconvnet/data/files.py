"""ImageFiles: a list of image files with a label each, decoded by Pillow."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Dataset, check_labels, class_names
from .images import MAX_PIXELS, check_channels, check_max_pixels, check_on_error, image_size, load_image
from .pillow import suffixes

# Formats whose files differ in size where their pictures differ.
_COMPRESSED = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "JPEG2000")


class ImageFiles(Dataset):
    """Image files with a label each.

    Every image is decoded by Pillow on reading, its shorter side rescaled to `size`, and the central
    ``size`` x ``size`` patch kept (paper, section 2).

    A file that turns out to be unreadable (missing, truncated, damaged, no image, too large) is, with
    ``on_error="skip"``, replaced by the next readable file of its class, wrapping round: the batch keeps its
    size and its labels, and is the same whatever the number of workers. The file is named once in a warning
    and listed in `skipped`. `check` finds such files beforehand.

    Parameters
    ----------
    files : sequence of paths
        Relative ones to `folder`.
    labels : sequence of int or of str, one per file
        Numbers in [0, number of classes), or class names.
    size : int or (height, width)
    channels : 3 (RGB) or 1 (grey)
    on_error : "skip" or "raise"
        What to do with an unreadable file: replace it as above, or raise ValueError naming it.
    classes : sequence of str, optional
        Class names in the order of the labels. Default: the names among `labels`, sorted; for labels that are
        numbers "0", "1", … up to the highest.
    max_pixels : int
        Largest image decoded, default 100 million; see `load_image`; a larger one is an unreadable file.
    folder : path, optional
        Default: the working directory.
    name : str

    Raises
    ------
    FileNotFoundError
        None of the files exists; with ``on_error="raise"``: one does not.
    TypeError, ValueError
        No files, as many labels as files wanted, a label out of range, an unknown class, a bad option.
    """

    def __init__(
        self,
        files: Iterable[str | os.PathLike],
        labels: Any,
        size: int | tuple[int, int] = 256,
        *,
        channels: int = 3,
        on_error: str = "skip",
        classes: Iterable[str] | None = None,
        max_pixels: int | None = None,
        folder: str | os.PathLike | None = None,
        name: str = "image files",
    ):
        self._set_options(size, channels, on_error, max_pixels)
        if isinstance(files, (str, bytes, os.PathLike)):
            raise TypeError(f"ImageFiles: files must be a sequence of paths, got the single {files!r}")
        self.files = [_path("ImageFiles: files", file) for file in files]
        if not self.files:
            raise ValueError("ImageFiles: files must not be empty")
        self.folder = Path("" if folder is None else folder).expanduser()
        self.name = name
        self.labels, self.classes, self.class_names_given = _named_labels(labels, classes, len(self.files))
        kinds = suffixes()
        self._stats = np.array([file_stats(self.path(i), kinds) for i in range(len(self.files))], np.int64)
        missing = np.flatnonzero(self._stats[:, 0] < 0)
        if len(missing) and (len(missing) == len(self.files) or on_error == "raise"):
            raise FileNotFoundError(
                f"ImageFiles: {len(missing)} of the {len(self.files)} files do not exist or cannot be "
                f"reached, the first is {self.path(missing[0])}"
            )

    def _set_options(self, size: Any, channels: Any, on_error: Any, max_pixels: Any) -> None:
        checked = check_options(type(self).__name__, size, channels, on_error, max_pixels)
        self.image_shape, self.on_error, self.max_pixels = checked
        self._skipped: dict[str, str] = {}

    @property
    def reading(self) -> dict[str, Any]:
        return {**super().reading, "on_error": self.on_error, "max_pixels": self.max_pixels}

    @property
    def skipped(self) -> dict[str, str]:
        return self._skipped

    def note_skipped(self, skipped: dict[str, str]) -> None:
        for path, reason in skipped.items():
            if path not in self._skipped:
                self._skipped[path] = reason
                warnings.warn(f"skipped unreadable image {reason}", RuntimeWarning, stacklevel=2)

    def image_name(self, index: int) -> str:
        return str(self.path(index))

    def path(self, index: int) -> Path:
        """Return the path of the file that holds image `index`."""
        return self.folder / self.files[index]

    def check(self) -> dict[str, str]:
        """Decode every file; return the unreadable ones (path -> reason), then also in `skipped`."""
        bad = {}
        for index in range(len(self)):
            try:
                self._load(index)
            except (ValueError, OSError) as error:
                bad[self.files[index]] = str(error)
        self._skipped.update(bad)
        return bad

    def _read(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), *self.image_shape), np.uint8)
        for row, index in zip(out, indices, strict=True):
            row[...] = self._load(int(index)) if self.on_error == "raise" else self._load_or_next(int(index))
        return out

    def _load(self, index: int) -> np.ndarray:
        height, width, channels = self.image_shape
        return load_image(self.path(index), (height, width), channels, max_pixels=self.max_pixels)

    def _load_or_next(self, index: int) -> np.ndarray:
        members: Sequence[int] = [index]  # of its class, from this one on; the others where it is unreadable
        for turn in range(len(self)):
            if turn == 1:
                same = np.flatnonzero(self.labels == self.labels[index])
                members = np.roll(same, -int(np.searchsorted(same, index)))
            if turn == len(members):
                break
            candidate = int(members[turn])
            try:  # also what is in `skipped`: Pillow's settings may have changed since
                return self._load(candidate)
            except (ValueError, OSError) as error:
                self.note_skipped({self.files[candidate]: str(error)})
        raise ValueError(
            f"{type(self).__name__}: no image of class {self.classes[self.labels[index]]!r} in {self.name} "
            "is readable"
        )

    def _identity(self) -> Iterable[bytes]:
        # Sizes stand for the contents: reading 140 GB to name a cache file would not do. Where every picture
        # of a format has the same size the date counts too; elsewhere it does not, so that a copied folder is
        # the same.
        yield "\0".join(self.files).encode("utf-8", "surrogateescape")
        yield self._stats.tobytes()
        if self.max_pixels != MAX_PIXELS:
            yield f"max_pixels {self.max_pixels}".encode()


def check_options(
    where: str, size: Any, channels: Any = 3, on_error: Any = "skip", max_pixels: Any = None
) -> tuple[tuple[int, int, int], str, int]:
    """Check and return image shape, `on_error` and `max_pixels`; an error names the one that is wrong."""
    height, width = image_size(where, size)
    shape = height, width, check_channels(where, channels)
    return shape, check_on_error(where, on_error), check_max_pixels(where, max_pixels)


def file_stats(path: str | os.PathLike, kinds: dict[str, str]) -> tuple[int, int]:
    """Return (size in bytes, modification time in ns) of a file as its dataset's identity has them.

    The time is 0 where the size tells enough; (-1, 0) stands for a file that cannot be reached.
    """
    try:
        info = os.stat(path)
    except OSError:
        return -1, 0
    compressed = kinds.get(os.path.splitext(path)[1].lower()) in _COMPRESSED
    return info.st_size, 0 if compressed else info.st_mtime_ns


def _path(where: str, value: Any) -> str:
    if not _is_path(value):
        raise TypeError(f"{where} must be paths, got {value!r}")
    return os.path.expanduser(os.fspath(value))


def _named_labels(
    labels: Any, classes: Iterable[str] | None, count: int
) -> tuple[np.ndarray, list[str], bool]:
    """Return (labels as int32, class names, whether names were given) of labels, numbers or names."""
    try:
        values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    except TypeError:
        raise TypeError(f"ImageFiles: labels must be a sequence, got {labels!r}") from None
    if not all(isinstance(value, str) for value in values):
        strange = [v for v in values if isinstance(v, bool) or not isinstance(v, (int, np.integer))]
        if strange:
            raise TypeError(f"ImageFiles: labels must be all integers or all class names, got {strange[0]!r}")
        names = None if classes is None else class_names("ImageFiles", classes, np.empty(0))
        numbers = check_labels("ImageFiles", np.asarray(values), count, None if names is None else len(names))
        return numbers, names or class_names("ImageFiles", None, numbers), names is not None
    if len(values) != count:
        raise ValueError(f"ImageFiles: labels must be {count}, one per file, got {len(values)}")
    names = sorted(set(values)) if classes is None else class_names("ImageFiles", classes, np.empty(0))
    number = {name: i for i, name in enumerate(names)}
    unknown = [value for value in values if value not in number]
    if unknown:
        raise ValueError(f"ImageFiles: the label {unknown[0]!r} is not one of the {len(names)} classes")
    return np.array([number[value] for value in values], np.int32), names, True


def file_list(spec: Any) -> tuple[list[Any], list[Any]] | None:
    """Return (files, labels) of what a user writes as a list of image files; None of something else.

    A sequence of pairs (path, label), or a pair (paths, labels). Two pairs (path, class name) could be
    either: a tuple that begins with a list or array is the latter.
    """
    if not isinstance(spec, (list, tuple)) or not spec:
        return None
    both = isinstance(spec, tuple) and len(spec) == 2 and _paths(spec[0])
    pairs = all(isinstance(v, (list, tuple)) and len(v) == 2 and _is_path(v[0]) for v in spec)
    if both and not (pairs and isinstance(spec[0], tuple)):
        return list(spec[0]), spec[1]
    return ([path for path, _ in spec], [label for _, label in spec]) if pairs else None


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _paths(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind == "U"
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_path, value))


def read_csv(path: Path) -> tuple[list[str], list[Any]]:
    """Read (files, labels) from a text file with a path and a label a line.

    The two are separated by a tab or semicolon where the first line has one, else by a comma. The first line
    is a header where its path neither exists nor has an image's suffix. Labels are numbers where all of them
    are digits, else class names.

    Raises
    ------
    ValueError
        A line without two entries, an empty entry, no lines, text that is not UTF-8; the message names the
        file and the line.
    """
    kinds = suffixes()
    files, labels = [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            separator = next((c for c in "\t;" if c in first), ",")
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
            begun = False
            for row in reader:
                row = [entry.strip() for entry in row]
                if not any(row):
                    continue
                if len(row) != 2 or not all(row):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: must be a path and a label, got {row!r:.80}"
                    )
                known = os.path.splitext(row[0])[1].lower() in kinds
                if not begun and not known and not (path.parent / row[0]).exists():
                    begun = True
                    continue
                begun = True
                files.append(row[0])
                labels.append(row[1])
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a list of path,label in UTF-8: {error}") from None
    if not files:
        raise ValueError(f"{path}: holds no line with a path and a label")
    if all(label.isascii() and label.isdigit() for label in labels):
        return files, [int(label) for label in labels]
    return files, labels
