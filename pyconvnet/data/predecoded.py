"""Predecoded images: decode a folder once, then read raw pixels from a memory-mapped file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Dataset
from .loader import Loader


class Predecoded(Dataset):
    """The images of another dataset as they lie in the file that `predecode` wrote.

    Behaves as the original (name, labels, classes, fingerprint), but reading is a copy from the memory-mapped
    file, which the system's page cache keeps as far as memory goes.
    """

    def __init__(self, path: Path, source: Dataset, skipped: dict[str, str]):
        self.path = path
        self.name = source.name
        self.classes = source.classes
        self.class_names_given = source.class_names_given
        self.labels = source.labels
        self.image_shape = source.image_shape
        self.dtype = source.dtype
        self._fingerprint = source.fingerprint()
        self._reading = source.reading
        self._skipped = skipped
        self._pixels: np.ndarray | None = None

    @property
    def reading(self) -> dict[str, Any]:
        return self._reading

    @property
    def skipped(self) -> dict[str, str]:
        return self._skipped

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_pixels": None}  # each process maps the file itself

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._pixels is None:
            self._pixels = np.load(self.path, mmap_mode="r")
        return np.asarray(self._pixels[indices])

    def _identity(self) -> Iterable[bytes]:
        yield self._fingerprint.encode()


def predecode(dataset: Dataset, cache: str | Path, *, workers: int = 0, progress: bool = False) -> Predecoded:
    """Decode every image of `dataset` into one file under the folder `cache`, unless it is there already.

    The file takes H * W * C bytes an image (192 KiB for 256 x 256 RGB). Its name carries the dataset's
    fingerprint, so a changed folder is decoded afresh.

    Parameters
    ----------
    dataset : Dataset
    cache : path
        Made if need be.
    workers : int
        Worker processes that decode.
    progress : bool
        Show a progress bar.

    Raises
    ------
    TypeError
        `dataset` is no Dataset.
    ValueError, OSError
        An unreadable image (see `ImageFolder`), or a folder that cannot be written.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"predecode: dataset must be a pyconvnet.data.Dataset, got {type(dataset).__name__}")
    folder = Path(cache)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"images-{dataset.fingerprint()}.npy"
    notes = path.with_suffix(".json")  # written last: its presence says that the images are complete
    if not (path.exists() and notes.exists()):
        _write(dataset, path, notes, workers, progress)
    return Predecoded(path, dataset, json.loads(notes.read_text())["skipped"])


def _write(dataset: Dataset, path: Path, notes: Path, workers: int, progress: bool) -> None:
    from tqdm import tqdm

    handle, partial = tempfile.mkstemp(prefix="images-", suffix=".part", dir=path.parent)
    os.close(handle)
    bar = tqdm(
        total=len(dataset), desc="decoding", unit=" images", disable=None if progress else True, leave=False
    )
    try:
        shape = (len(dataset), *dataset.image_shape)
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=dataset.dtype, shape=shape)
        with Loader(dataset, min(64, len(dataset)), shuffle=False, workers=workers) as loader, bar:
            done = 0
            for batch in loader.epoch(0):
                pixels[done : done + len(batch)] = batch.images
                done += len(batch)
                bar.update(len(batch))
        pixels.flush()
        os.replace(partial, path)
        notes.write_text(json.dumps({"skipped": dataset.skipped}))
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
