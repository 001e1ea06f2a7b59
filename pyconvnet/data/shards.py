"""Shards: prepared images in files that are read as they lie, and the manifest that says what they are.

A folder of `prepare` holds ``manifest.json`` and, for each of its sets ("train", "validation"),

- ``SET-00000.images``, …: pixels, uint8 (n, H, W, C), nothing else; or ``SET-00000.jpegs``, …: n JPEG files
  one after the other, zeros up to a multiple of 8 bytes, and n + 1 offsets (uint64, little-endian);
- ``SET-labels.npy``, int32 (n,), and of the training set ``train-mean.npy``, float32 (H, W, C);
- ``SET-files.json``, the names of the files that the images come from, in their order.

The manifest has images, bytes and SHA-256 of every file. It is written last: where it is, all is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import naming
from ..common.threads import parallel, ranges
from ..ops.host.read import read_rows
from . import jpeg
from .dataset import Dataset, reading_of
from .images import load_image
from .statistics import Statistics

MANIFEST = "manifest.json"
FORMAT = "pyconvnet shards 1"
TRAIN, VALIDATION = "train", "validation"
_PART = 1 << 21  # bytes that are worth a thread
_ROWS = 128  # images of a part at most, each of which may lie in a file of its own
_OPEN_FILES = 256  # of a process, most of which may have 1024


class Shards(Dataset):
    """Images of a folder that `prepare` has filled.

    Raw shards are read by the system's own copy, from the page cache where they are there, straight into the
    batch: no memory is used but the batch's, and a file that has become too short is an error. JPEG shards
    are decoded, by worker processes where there are any.

    Parameters
    ----------
    folder : path
    which : "train" or "validation"

    Attributes
    ----------
    manifest : dict
        Of the whole folder.
    refused : dict of str to str
        Files that could not be read and are not among the images: name -> reason.

    Raises
    ------
    FileNotFoundError
        There is no such folder, manifest or set in it.
    ValueError
        A manifest or labels that do not fit each other; a shard of another length than the manifest says.
    """

    def __init__(self, folder: str | os.PathLike, which: str = TRAIN):
        self.folder = Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        if which not in self.manifest["sets"]:
            has = ", ".join(self.manifest["sets"])
            raise FileNotFoundError(f"Shards: {self.folder} has no set {which!r}, but {has}")
        self.which, own = which, self.manifest["sets"][which]
        self.name = f"{self.folder} ({which})"
        self.classes = list(self.manifest["classes"])
        self.class_names_given = bool(self.manifest["class_names_given"])
        self._words = dict(self.manifest.get("words", {}))
        self.image_shape = tuple(self.manifest["image_shape"])
        self.decodes = self.manifest["jpeg"] is not None
        self.refused = dict(own["refused"])
        self._shards = own["shards"]
        self._starts = np.cumsum([0, *(shard["images"] for shard in self._shards)])
        self.labels = _labels(self.folder / own["labels"]["file"], int(self._starts[-1]), len(self.classes))
        for shard in self._shards:
            path = self.folder / shard["file"]
            with naming(path):
                size = os.stat(path).st_size
            if size != shard["bytes"]:
                raise ValueError(f"Shards: {path} must have {shard['bytes']} bytes, got {size}")
        self._begin()

    @property
    def files(self) -> list[str]:
        """Names of the files that the images come from; empty where they came from none."""
        path = self.folder / self.manifest["sets"][self.which]["files"]["file"]
        return _read_json(path)

    @property
    def reading(self) -> dict[str, Any]:
        own = dict(self.manifest["reading"])
        if "size" in own:
            own["size"] = tuple(own["size"])
        if own.get("decoder") == jpeg.FAST and jpeg.library() is None:
            own["decoder"] = jpeg.PILLOW
        return own or reading_of(self.image_shape)

    def known_statistics(self) -> Statistics | None:
        return self._statistics() if self.which == TRAIN else None

    def verify(self, progress: bool = False) -> dict[str, str]:
        """Read every file of the set and compare its checksum with the manifest's.

        Returns
        -------
        dict of str to str
            What is wrong: file name -> why. Empty where all is as it was written.
        """
        from tqdm import tqdm

        own = self.manifest["sets"][self.which]
        entries = [*self._shards, *(own[name] for name in ("labels", "files", "mean") if name in own)]
        wrong = {}
        for entry in tqdm(entries, desc="verifying", unit=" files", disable=None if progress else True):
            try:
                found = checksum(self.folder / entry["file"])
            except OSError as error:
                wrong[entry["file"]] = error.strerror or str(error)
                continue
            if found != entry["sha256"]:
                wrong[entry["file"]] = f"SHA-256 must be {entry['sha256']}, got {found}"
        return wrong

    def read_into(self, indices: np.ndarray, out: np.ndarray) -> None:
        if self.decodes:
            for row, index in zip(out, indices, strict=True):
                row[...] = self._decoded(int(index))
            return
        size = math.prod(self.image_shape)
        rows = out.reshape(len(indices), size)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        offsets = (indices - self._starts[shards]) * size
        parts = ranges(len(indices), min(-(-_PART // size), _ROWS))

        def fill(part: int) -> None:
            own = slice(*parts[part])
            self._fill(shards[own], offsets[own], rows[own])

        if len(parts) == 1:
            fill(0)
        else:
            parallel(fill, len(parts), blas=False)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_file", "_offsets")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._begin()

    def _begin(self) -> None:
        # An open file stays so while anybody uses it, also where it leaves the cache.
        self._file = functools.lru_cache(_OPEN_FILES)(self._opened)
        self._offsets: dict[int, np.ndarray] = {}

    def _opened(self, shard: int) -> Any:
        path = self.folder / self._shards[shard]["file"]
        with naming(path):
            return open(path, "rb", buffering=0)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), *self.image_shape), np.uint8)
        self.read_into(indices, out)
        return out

    def _fill(self, shards: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> None:
        """Read rows of bytes, each from its offset in its shard."""
        files = [self._file(shard) for shard in shards.tolist()]  # held: the cache may let go of them
        descriptors = np.array([file.fileno() for file in files], np.int32)
        if ended := read_rows(descriptors, offsets, rows):
            row, error = ended
            if error:
                raise OSError(error, os.strerror(error), files[row].name)
            raise ValueError(f"{files[row].name}: has become shorter")

    def _fill_one(self, shard: int, offset: int, target: np.ndarray) -> None:
        self._fill(np.array([shard]), np.array([offset]), target[None])

    def _decoded(self, index: int) -> np.ndarray:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        place = index - int(self._starts[shard])
        entry = self._shards[shard]
        if shard not in self._offsets:
            offsets = np.empty(entry["images"] + 1, "<u8")
            self._fill_one(shard, entry["bytes"] - offsets.nbytes, offsets.view(np.uint8))
            if (
                offsets[0] != 0
                or (np.diff(offsets.astype(np.int64)) <= 0).any()
                or offsets[-1] > entry["bytes"]
            ):
                raise ValueError(f"{self.folder / entry['file']}: damaged offsets")
            self._offsets[shard] = offsets
        first, last = map(int, self._offsets[shard][place : place + 2])
        content = np.empty(last - first, np.uint8)
        self._fill_one(shard, first, content)
        try:
            height, width, channels = self.image_shape
            return load_image(content.tobytes(), (height, width), channels)
        except ValueError as error:
            raise ValueError(f"{self.folder / entry['file']}, image {place}: {error}") from None

    def _statistics(self) -> Statistics:
        own = self.manifest["sets"][self.which]
        colour = own["colour"]
        return Statistics(
            mean_image=np.load(self.folder / own["mean"]["file"], allow_pickle=False),
            mean_pixel=np.array(own["mean_pixel"], np.float32),
            eigenvalues=np.array(colour["variances"]),
            eigenvectors=np.array(colour["axes"]),
            count=len(self),
        )

    def _identity(self) -> Iterable[bytes]:
        for shard in self._shards:
            yield shard["sha256"].encode()
        if self.decodes:
            yield f"decoder {jpeg.default_decoder()}".encode()


def is_prepared(folder: Path) -> bool:
    """Tell whether a folder is one that `prepare` has finished."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        return json.loads((folder / MANIFEST).read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what `prepare` has written of a folder.

    Raises
    ------
    FileNotFoundError
        There is none: the folder is not prepared, or not to its end.
    ValueError
        It is no manifest, or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"Shards: {folder} has no {MANIFEST}: it is not prepared, or not to the end")
    manifest = _read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"Shards: {path} must be of the format {FORMAT!r}")
    wanted = {"classes", "class_names_given", "image_shape", "jpeg", "reading", "sets"}
    if missing := wanted - set(manifest):
        raise ValueError(f"Shards: {path} lacks {', '.join(sorted(missing))}")
    return manifest


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with naming(path), open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> Any:
    with naming(path):
        content = path.read_bytes()
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"Shards: {path}: damaged: {error}") from None


def _labels(path: Path, count: int, classes: int) -> np.ndarray:
    try:
        with naming(path):
            labels = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"Shards: {path}: damaged: {error}") from None
    if labels.dtype != np.int32 or labels.shape != (count,):
        raise ValueError(f"Shards: {path} must hold {count} int32 labels, got {labels.dtype} {labels.shape}")
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(f"Shards: {path}: labels must lie in [0, {classes})")
    return labels
