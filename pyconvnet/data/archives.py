"""Image files inside tar archives, read where they lie: nothing is unpacked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..common.files import naming
from ..common.text import reason
from .files import ImageFiles
from .images import check_max_pixels


class Member(NamedTuple):
    """A file in an archive: its name there, where it begins and its length in bytes."""

    name: str
    offset: int
    size: int


class ArchivedFiles(ImageFiles):
    """Image files with a label each, some of them in uncompressed tar archives.

    Parameters
    ----------
    members : sequence of (archive or folder, Member)
        Of a folder, the member is a file in it.
    labels, size, classes, options
        As of `ImageFiles`.
    name : str
    """

    def __init__(
        self,
        members: Sequence[tuple[Path, Member]],
        labels: Sequence[int],
        classes: Sequence[str],
        name: str,
        size: int | tuple[int, int] = 256,
        *,
        channels: int = 3,
        on_error: str = "skip",
        max_pixels: int | None = None,
        decoder: str | None = None,
        fit: str = "crop",
    ):
        self._set_options(size, channels, on_error, max_pixels, decoder, fit)
        self.folder, self.name = Path(), name
        self.labels, self.classes = np.asarray(labels, np.int32), list(classes)
        places = sorted({place for place, _ in members})
        number = {place: i for i, place in enumerate(places)}
        self._places = [str(place) for place in places]
        self._where = np.array([(number[p], m.offset, m.size) for p, m in members], np.int64).reshape(-1, 3)
        self.files = [f"{place.name}/{member.name}" for place, member in members]
        self._stats = self._where[:, 2:]

    def _load(self, index: int) -> np.ndarray:
        place, offset, size = map(int, self._where[index])
        path = self._places[place]
        name = self.files[index].removeprefix(f"{os.path.basename(path)}/")
        if offset < 0:
            return self._decoded(os.path.join(path, name))
        try:
            with naming(path), open(path, "rb", buffering=0) as file:
                if size > 8 * check_max_pixels("load_image", self.max_pixels):
                    raise ValueError(
                        f"image: {size} bytes are more than 8 times max_pixels={self.max_pixels}"
                    )
                content = os.pread(file.fileno(), size, offset)
            if len(content) < size:
                raise ValueError("image: the archive ends within it")
            return self._decoded(content)
        except ValueError as error:
            raise ValueError(f"{path}/{name}: {str(error).removeprefix('image: ')}") from None


def members(path: Path) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar archive, in its order.

    Raises
    ------
    ValueError
        It is none, or ends too early; the message names it.
    """
    import tarfile

    try:
        with naming(path), tarfile.open(path, "r:") as tar:
            yield from _members(tar, 0)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path}: not a readable tar archive: {reason(error)}") from None


def nested(path: Path) -> Iterator[tuple[str, Member]]:
    """Yield (name of the inner archive, file in it) of a tar archive of tar archives.

    Places are those in the outer archive. Errors as of `members`.
    """
    import tarfile

    try:
        with naming(path), tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isfile() and info.name.endswith(".tar"):
                    with tarfile.open(fileobj=tar.extractfile(info), mode="r:") as inner:
                        for member in _members(inner, info.offset_data):
                            yield Path(info.name).stem, member._replace(name=f"{info.name}/{member.name}")
                tar.members.clear()  # which would keep all that was seen
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path}: not a readable tar archive: {reason(error)}") from None


def _members(tar: Any, base: int) -> Iterator[Member]:
    for info in tar:
        if info.isfile():
            yield Member(info.name, base + info.offset_data, info.size)
        tar.members.clear()


def files_of(folder: Path) -> Iterator[Member]:
    """Yield the regular files of a folder, by name; they have no place in an archive (offset -1)."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        info: Any = entry.stat()
        if stat.S_ISREG(info.st_mode) and not entry.name.startswith("."):
            yield Member(entry.name, -1, info.st_size)
