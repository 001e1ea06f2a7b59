"""Predecoded images: decode a folder once, then read raw pixels from a memory-mapped file."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import locked, naming, remove_partial, write_atomically
from .dataset import Dataset
from .loader import Loader


class Predecoded(Dataset):
    """The images of another dataset as they lie in the file that `predecode` wrote.

    Behaves as the original (name, labels, classes, fingerprint), but reading is a copy from the memory-mapped
    file, which the system's page cache keeps as far as memory goes.
    """

    decodes = False

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
    path = Path(cache) / f"images-{dataset.fingerprint()}.npy"
    notes = path.with_suffix(".json")  # written last: its presence says that the images are complete
    skipped = _skipped(path, notes)
    if skipped is None:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):  # of several processes one decodes
            skipped = _skipped(path, notes)
            if skipped is None:
                remove_partial(path.parent, path.name)
                with contextlib.closing(_pieces(dataset, workers, progress)) as pieces:
                    write_atomically(path, pieces)
                skipped = dataset.skipped
                write_atomically(notes, json.dumps({"skipped": skipped}).encode())
    return Predecoded(path, dataset, skipped)


def _skipped(path: Path, notes: Path) -> dict[str, str] | None:
    """Return what the notes say of a file of images; None where there is none, or they are damaged."""
    try:
        skipped = json.loads(notes.read_text(encoding="utf-8"))["skipped"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return skipped if isinstance(skipped, dict) and path.exists() else None


def _pieces(dataset: Dataset, workers: int, progress: bool) -> Iterator[bytes]:
    """Yield the .npy file by pieces. Written, not mapped: on a full disk writing to a mapping is fatal."""
    from tqdm import tqdm

    head = io.BytesIO()
    shape = (len(dataset), *dataset.image_shape)
    description = {"descr": dataset.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, description)
    yield head.getvalue()
    bar = tqdm(
        total=len(dataset), desc="decoding", unit=" images", disable=None if progress else True, leave=False
    )
    with Loader(dataset, min(64, len(dataset)), shuffle=False, workers=workers) as loader, bar:
        for batch in loader.epoch(0):
            yield batch.images.tobytes()
            bar.update(len(batch))
