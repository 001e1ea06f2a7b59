"""prepare: decode every image once, into shards that are read as they lie (paper, section 2, and 4.1).

A set is cut into shards of so many of its images, in their order; each shard is a function of its images
alone. So processes write shards side by side, and after a kill those that are there are kept: the result has
the same bits. A note beside a finished shard says what it was made of and its checksum; the manifest, written
last, replaces the notes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..common.checks import integer
from ..common.files import locked, naming, remove_partial, write_atomically
from ..common.version import __version__
from . import jpeg
from .dataset import Dataset
from .images import check_fit, load_image
from .matching import check_reading
from .shards import FORMAT, MANIFEST, TRAIN, VALIDATION, Shards, checksum, read_manifest
from .sources import given_options, open_pair
from .statistics import from_sums
from .workers import Jobs, default_workers

SHARD_IMAGES, SHARD_BYTES = 2048, 1 << 30  # a shard's most where nothing is asked for
_MOST_IMAGES = 1 << 24  # whose sums 32 bits hold
_NOTES = ".prepare"
_SHARD = re.compile(rf"({TRAIN}|{VALIDATION})-\d{{5}}\.(images|jpegs)")


def prepare(
    source: Any,
    out: str | os.PathLike,
    *,
    validation: Any = None,
    seed: int = 0,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    fit: str = "crop",
    on_error: str = "skip",
    max_pixels: int | None = None,
    decoder: str | None = None,
    jpeg_quality: int | None = None,
    shard_images: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> tuple[Shards, Shards | None]:
    """Decode all images of `source` into a folder of shards, which `train` and `evaluate` take as data.

    A killed call is continued by the next; the folder's bits are the same, also for any number of workers.

    Parameters
    ----------
    source, validation, seed
        As of `open_dataset`.
    out : path
        A folder, made if need be; not inside `source`.
    size, channels, max_pixels, decoder, fit
        Of images read from files, see `ImageFiles`; default 256, 3, 100 million, libjpeg-turbo where it is
        installed, "crop". Other images have a size of their own.
    on_error : "skip" or "raise"
        What to do with a file that cannot be read: leave it out and list it in the manifest, or raise
        ValueError naming it.
    jpeg_quality : int, 1 to 100, optional
        Keep the prepared images as JPEG files (4:2:0) of this quality: an eighth of the space or so, decoded
        again whenever they are read. Statistics are of the pixels that are read. Default: as pixels.
    shard_images : int, optional
        Images a shard holds at most. Default: a sixteenth of them, but 256 to 2048.
    workers : int, optional
        Processes that decode. Default: the CPUs the process may use, at most one a shard; 0 for a dataset
        whose class is defined in the script itself.
    progress : bool
        Show a progress bar.

    Returns
    -------
    (train, validation or None)

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        What is missing or wrong, by name; no image is readable; `out` holds what was prepared otherwise.
    OSError
        The disk is full, `out` cannot be written, ...; finished shards stay, and the next call goes on.
    pyconvnet.common.files.LockedError
        Another process is preparing the folder.
    """
    out = Path(out).expanduser()
    fit = check_fit("prepare", fit)
    if jpeg_quality is not None:
        integer("prepare", "jpeg_quality", jpeg_quality, 1, 100)
    if shard_images is not None:
        integer("prepare", "shard_images", shard_images, 1, _MOST_IMAGES)
    if workers is not None:
        integer("prepare", "workers", workers, 0)
    _check_place(source, out)
    asked = given_options(
        size=size, channels=channels, on_error=on_error, max_pixels=max_pixels, decoder=decoder, fit=fit
    )
    train, held_out = open_pair(source, validation, seed, asked)
    defaults = {"on_error": "skip", "fit": "crop"}
    others = {k: v for k, v in asked.items() if k in train.reading or defaults.get(k) != v}
    check_reading(train.reading, others, train.name)
    sets = {TRAIN: train, **({} if held_out is None else {VALIDATION: held_out})}
    for dataset in sets.values():
        if dataset.dtype != np.uint8:
            raise TypeError(f"prepare: images must be uint8, got {dataset.dtype} of {dataset.name}")
    encoding = None
    if jpeg_quality is not None:
        encoding = {"quality": jpeg_quality, "subsampling": "4:2:0", "encoder": jpeg.default_decoder()}
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"prepare: {out}"):
        _prepare(sets, out, encoding, on_error, shard_images, workers, progress)
    return Shards(out, TRAIN), Shards(out, VALIDATION) if held_out is not None else None


def _check_place(source: Any, out: Path) -> None:
    """Refuse to write into the source: the next call would find another."""
    place = Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else None
    if place is not None and place.is_dir() and out.resolve().is_relative_to(place.resolve()):
        raise ValueError(f"prepare: out must not lie inside the source {place}, got {out}")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"prepare: out must be a folder, got {out}")


def _prepare(
    sets: dict[str, Dataset],
    out: Path,
    encoding: dict[str, Any] | None,
    on_error: str,
    shard_images: int | None,
    workers: int | None,
    progress: bool,
) -> None:
    train = sets[TRAIN]
    most = shard_images or min(SHARD_IMAGES, max(256, -(-len(train) // 16)))
    per_shard = max(1, min(most, SHARD_BYTES // int(np.prod(train.image_shape))))
    keys = {which: _key(dataset, encoding, per_shard, on_error) for which, dataset in sets.items()}
    if (out / MANIFEST).exists():
        known = {which: own.get("key") for which, own in read_manifest(out)["sets"].items()}
        if known != keys:
            raise ValueError(f"prepare: {out} holds images that were prepared otherwise; remove it first")
        shutil.rmtree(out / _NOTES, ignore_errors=True)
        return
    with naming(out / _NOTES):
        (out / _NOTES).mkdir(exist_ok=True)
    for folder in (out, out / _NOTES):
        remove_partial(folder)
    total = sum(map(len, sets.values()))
    with _bar(total, progress) as bar:
        made = {
            which: _write_set(
                _Writer(dataset, str(out), which, keys[which], encoding, on_error, per_shard), workers, bar
            )
            for which, dataset in sets.items()
        }
    manifest = {
        "format": FORMAT,
        "made_by": f"pyconvnet {__version__}",
        "image_shape": list(train.image_shape),
        "reading": _plain(train.reading),
        "jpeg": encoding,
        "classes": train.classes,
        "class_names_given": train.class_names_given,
        "words": dict(train.words),
        "sets": made,
    }
    write_atomically(out / MANIFEST, _json(manifest))
    listed = {shard["file"] for own in made.values() for shard in own["shards"]}
    for path in out.iterdir():  # of an earlier, other preparation that never ended
        if _SHARD.fullmatch(path.name) and path.name not in listed:
            path.unlink()
    shutil.rmtree(out / _NOTES, ignore_errors=True)


def _key(dataset: Dataset, encoding: Any, per_shard: int, on_error: str) -> str:
    text = repr((FORMAT, dataset.fingerprint(), encoding, per_shard, on_error))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _write_set(writer: _Writer, workers: int | None, bar: Any) -> dict[str, Any]:
    """Write the shards of one set, then what belongs to it; return its part of the manifest."""
    dataset, out, which = writer.dataset, Path(writer.folder), writer.which
    count = -(-len(dataset) // writer.per_shard)
    if workers is None:
        workers = default_workers(dataset, len(os.sched_getaffinity(0)) if _AFFINITY else os.cpu_count() or 1)
    workers = min(workers, count)
    notes: dict[int, dict[str, Any]] = {}
    image_sum = np.zeros(dataset.image_shape, np.int64)
    product_sum = np.zeros((dataset.image_shape[2],) * 2, np.int64)
    with contextlib.ExitStack() as stack:
        results = map(writer, range(count))
        if workers:
            results = stack.enter_context(Jobs(writer, workers)).run(range(count))
        for note, sums in results:
            notes[note["shard"]] = note
            if sums is not None:
                image_sum += sums[0]
                product_sum += sums[1]
            bar.update(note["images"] + len(note["refused"]))
    refused = {name: why for number in range(count) for name, why in notes[number]["refused"]}
    left_out = np.array([i for number in range(count) for i in notes[number]["left_out"]], np.int64)
    kept = np.setdiff1d(np.arange(len(dataset)), left_out)
    if not len(kept):
        first = next(iter(refused.values()), "there are none")
        raise ValueError(f"prepare: no image of {dataset.name} is readable; the first: {first}")
    shards = [{k: notes[i][k] for k in ("file", "images", "bytes", "sha256")} for i in range(count)]
    labels = io.BytesIO()
    np.save(labels, dataset.labels[kept])
    files = [dataset.file_of(int(i)) for i in kept]
    result = {
        "key": writer.key,
        "images": len(kept),
        "left_out": len(left_out),
        "refused": refused,
        "shards": shards,
        "labels": _file(out / f"{which}-labels.npy", labels.getvalue()),
        "files": _file(out / f"{which}-files.json", _json(files)),
    }
    if which == TRAIN:
        found = from_sums(image_sum.astype(np.float64), product_sum.astype(np.float64), len(kept))
        mean = io.BytesIO()
        np.save(mean, found.mean_image)
        result["mean"] = _file(out / f"{which}-mean.npy", mean.getvalue())
        result["mean_pixel"] = found.mean_pixel.tolist()
        result["colour"] = {
            "axes": found.eigenvectors.tolist(),  # columns
            "variances": found.eigenvalues.tolist(),
            "pca_scale": {
                "deviation": np.sqrt(found.eigenvalues).tolist(),
                "eigenvalue": (found.eigenvalues / found.pixel_range).tolist(),
            },
        }
    return result


class _Writer:
    """What a worker process does: one shard of a set, or the check of one that is there."""

    def __init__(
        self,
        dataset: Dataset,
        folder: str,
        which: str,
        key: str,
        encoding: dict[str, Any] | None,
        on_error: str,
        per_shard: int,
    ):
        self.dataset, self.folder, self.which, self.key = dataset, folder, which, key
        self.encoding, self.on_error, self.per_shard = encoding, on_error, per_shard
        self.owner = os.getpid()

    def __call__(self, number: int) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray] | None]:
        """Write shard `number` unless it is there; return its note and the sums over its images."""
        name = f"{self.which}-{number:05d}.{'images' if self.encoding is None else 'jpegs'}"
        note_path = Path(self.folder) / _NOTES / f"{name}.json"
        sums = _Sums(self.dataset.image_shape) if self.which == TRAIN else None
        if (note := self._known(note_path, name, sums)) is None:
            sums = _Sums(self.dataset.image_shape) if self.which == TRAIN else None
            note = self._write(number, name, sums)
            write_atomically(note_path, _json(note))
        return note, None if sums is None else (sums.images, sums.products)

    def _known(self, path: Path, name: str, sums: _Sums | None) -> dict[str, Any] | None:
        """Return the note of a shard that is there and as it was written, None where there is none."""
        try:
            note = json.loads(path.read_bytes())
            shard = Path(self.folder) / name
            if note["key"] != self.key or os.stat(shard).st_size != note["bytes"]:
                return None
            if checksum(shard) != note["sha256"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if sums is not None and note["images"]:
            for images in self._of_shard(shard, note["images"]):
                sums.add(images)
        return note

    def _of_shard(self, shard: Path, count: int) -> Iterator[np.ndarray]:
        """Yield the images of a shard as they will be read, some at a time."""
        if self.encoding is None:
            pixels = np.fromfile(shard, np.uint8).reshape(count, *self.dataset.image_shape)
            for first in range(0, count, 16):
                yield pixels[first : first + 16]
            return
        content = shard.read_bytes()
        offsets = np.frombuffer(content, "<u8", count + 1, len(content) - 8 * (count + 1))
        for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            yield self._decode(content[first:last])[None]

    def _write(self, number: int, name: str, sums: _Sums | None) -> dict[str, Any]:
        first = number * self.per_shard
        note: dict[str, Any] = {"key": self.key, "shard": number, "file": name, "images": 0, "bytes": 0}
        note |= {"refused": [], "left_out": []}
        digest = hashlib.sha256()

        def pieces() -> Iterator[Any]:
            offsets = [0]
            for index in range(first, min(first + self.per_shard, len(self.dataset))):
                image = self._image(index, note)
                if image is None:
                    continue
                if self.encoding is None:
                    piece = memoryview(np.ascontiguousarray(image)).cast("B")
                else:
                    piece = self._encode(image)
                    image = self._decode(piece)
                    offsets.append(offsets[-1] + len(piece))
                if sums is not None:
                    sums.add(image[None])
                note["images"] += 1
                yield piece
            if self.encoding is not None:
                yield bytes(-offsets[-1] % 8) + np.array(offsets, "<u8").tobytes()

        def noted() -> Iterator[Any]:
            for piece in pieces():
                note["bytes"] += len(piece)
                digest.update(piece)
                yield piece

        with contextlib.closing(noted()) as parts:
            write_atomically(Path(self.folder) / name, parts)
        return {**note, "sha256": digest.hexdigest()}

    def _image(self, index: int, note: dict[str, Any]) -> np.ndarray | None:
        if os.getpid() != self.owner and os.getppid() != self.owner:
            raise SystemExit  # whoever asked is gone, and another may be at work
        try:
            return self.dataset.read_one(index)
        except (ValueError, OSError) as error:
            if self.on_error == "raise":
                raise
            note["refused"].append((self.dataset.file_of(index), str(error)))
            note["left_out"].append(index)
            return None

    def _encode(self, image: np.ndarray) -> bytes:
        quality, grey = self.encoding["quality"], image.shape[2] == 1
        if self.encoding["encoder"] == jpeg.FAST:
            how = {"colorspace": "GRAY"} if grey else {"colorspace": "RGB", "colorsubsampling": "420"}
            return jpeg.library().encode_jpeg(np.ascontiguousarray(image), quality, **how)
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if grey else image).save(file, "JPEG", quality=quality, subsampling=2)
        return file.getvalue()

    def _decode(self, content: bytes) -> np.ndarray:
        height, width, channels = self.dataset.image_shape
        return load_image(content, (height, width), channels)


class _Sums:
    """Sums over images, in integers: the same in any order."""

    def __init__(self, image_shape: tuple[int, int, int]):
        height, width, channels = image_shape
        self.images = np.zeros(image_shape, np.uint32)
        self.products = np.zeros((channels, channels), np.int64)
        self._planes = np.zeros((channels, -(-height * width // 256) * 256), np.float32)

    def add(self, images: np.ndarray) -> None:
        """Add images (n, H, W, C) uint8."""
        for image in images:
            self.images += image
            flat = image.reshape(-1, image.shape[2])
            self._planes[:, : len(flat)] = flat.T
            rows = self._planes.reshape(len(self._planes), -1, 256)  # 256 * 255^2 < 2^24: exact in float32
            for i in range(len(rows)):
                for j in range(i + 1):
                    sums = np.matmul(rows[i, :, None], rows[j, :, :, None])
                    value = int(sums.sum(dtype=np.float64))
                    self.products[i, j] += value
                    if i != j:
                        self.products[j, i] += value


_AFFINITY = hasattr(os, "sched_getaffinity")


def _file(path: Path, content: bytes) -> dict[str, Any]:
    write_atomically(path, content)
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _plain(reading: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in reading.items()}


def _bar(total: int, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="preparing", unit=" images", disable=None if show else True)
