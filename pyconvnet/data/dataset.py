"""Datasets: images with a class each, read by index.

A dataset knows its images, labels and class names; it knows nothing of batches, order or devices. Images
come out as ``(n, H, W, C)``: uint8 pixels (0 to 255), or float32 where the source holds floats.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..common import philox
from ..common.checks import channels_first_hint, integer, real, unmasked

# Purposes of the Philox streams the data floor draws from (the "layer" word of the counter). Layers of a
# network number themselves from 0, so these stay clear of them.
PURPOSE_SPLIT = 0x44415400
PURPOSE_ORDER = 0x44415401
PURPOSE_CROP = 0x44415402
PURPOSE_COLOUR = 0x44415403
PURPOSE_CLASSES = 0x44415404
PURPOSE_MIX = 0x44415405


class Dataset:
    """Base class: images of one shape, a label each.

    A subclass sets the attributes and implements `_read`, which gets an int64 array of valid indexes, and
    `_identity`, the bytes that tell one dataset from another. It must be picklable to be decoded in worker
    processes.

    Attributes
    ----------
    name : str
    classes : list of str
        Class names; a label is an index into it.
    class_names_given : bool
        False where `classes` are numbers made up for want of names: labels are then no more than indexes of
        a model's outputs.
    labels : ndarray, (n,) int32
    image_shape : tuple
        (H, W, C) of every image.
    dtype : numpy.dtype
        uint8 or float32.
    in_memory : bool
        True where reading is a plain copy, so that neither worker processes nor a thread pay.
    decodes : bool
        False where reading takes no computing, so that worker processes do not pay.
    """

    name: str = "dataset"
    classes: list[str]
    class_names_given: bool = True
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    dtype: np.dtype = np.dtype(np.uint8)
    in_memory: bool = False
    decodes: bool = True
    _words: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        h, w, c = self.image_shape
        return f"{self.name}: {len(self)} images {h}x{w}x{c} {self.dtype}, {len(self.classes)} classes"

    def read(self, indices: Iterable[int] | np.ndarray) -> np.ndarray:
        """Read the images at `indices`.

        Parameters
        ----------
        indices : (n,) ints in [0, len(self))

        Returns
        -------
        ndarray, (n, H, W, C)
            A new C-contiguous array.

        Raises
        ------
        IndexError
            An index is out of range.
        TypeError
            The indexes are not integers.
        """
        idx = np.asarray(indices)
        if idx.size == 0:
            return np.empty((0, *self.image_shape), self.dtype)
        return self._read(_check_indices(self.name, idx, len(self)))

    def fingerprint(self) -> str:
        """Return the hexadecimal digest of images, labels and classes: the key of what is cached of them."""
        value = getattr(self, "_fingerprint", None)
        if value is None:
            digest = hashlib.blake2b(digest_size=16)
            digest.update(
                repr((type(self).__name__, self.classes, self.image_shape, str(self.dtype))).encode()
            )
            digest.update(np.ascontiguousarray(self.labels).tobytes())
            for part in self._identity():
                digest.update(part)
            value = self._fingerprint = digest.hexdigest()
        return value

    def image_name(self, index: int) -> str:
        """Return what image `index` is called: its file, else its number."""
        return str(index)

    @property
    def reading(self) -> dict[str, Any]:
        """Options of `ImageFolder` under which the images of other files are prepared as these are."""
        return reading_of(self.image_shape)

    @property
    def words(self) -> dict[str, str]:
        """What class names mean that are no words (WordNet's numbers), where that is known."""
        return self._words or {}

    @property
    def skipped(self) -> dict[str, str]:
        """Files found unreadable so far: path -> reason. Empty for datasets without files."""
        return {}

    def note_skipped(self, skipped: dict[str, str]) -> None:
        """Add files that a worker process found unreadable to `skipped`."""

    def read_into(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Read the images at valid indices into an array (n, H, W, C) of theirs, contiguous."""
        out[...] = self._read(indices)

    def read_one(self, index: int) -> np.ndarray:
        """Read one image, (H, W, C).

        Raises
        ------
        ValueError, OSError
            It cannot be read; no other takes its place.
        """
        return self._read(np.array([index]))[0]

    def file_of(self, index: int) -> str:
        """Return the name of the file that image `index` comes from, or else its number."""
        return f"image {index}"

    def known_statistics(self) -> Any:
        """Return `Statistics` where they are known without a pass over the images, else None."""
        return None

    def one_array(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return an array (N, H, W, C) in memory that holds the images, and the place of each in it, (n,)
        int64, or None for the order they have; None where there is no such array.
        """
        return None

    def _read(self, indices: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _identity(self) -> Iterable[bytes]:
        raise NotImplementedError


class ArrayDataset(Dataset):
    """Images and labels held in memory.

    Parameters
    ----------
    x : array, (n, H, W, C) or (n, H, W)
        uint8, or floats (kept as float32). (n, H, W) means one channel.
    y : array, (n,) of integers
        Labels in [0, number of classes).
    classes : sequence of str, optional
        Class names; default "0", "1", … up to the highest label.
    name : str

    Raises
    ------
    TypeError
        `x` is neither uint8 nor float, or `y` is not integer.
    ValueError
        Empty or mismatched arrays, a label out of range, NaN or infinity in `x`; three rows of pixels, as
        (n, 3, H, W) would have them.
    """

    in_memory = True

    def __init__(self, x: Any, y: Any, classes: Sequence[str] | None = None, *, name: str = "arrays"):
        x, y = _as_array("x", x), _as_array("y", y)
        if x.ndim == 3:
            x = x[..., None]
        if x.ndim != 4:
            raise ValueError(
                f"ArrayDataset: x must have 4 dimensions (n, H, W, C), or 3 (n, H, W), got shape {x.shape}"
            )
        if x.dtype.kind == "f":
            x = x.astype(np.float32, copy=False)
            if x.size and not np.isfinite(x).all():
                raise ValueError("ArrayDataset: x must be finite, got NaN or infinity")
        elif x.dtype != np.uint8:
            raise TypeError(
                f"ArrayDataset: x must be uint8 or float, got {x.dtype}; "
                "use x.astype(np.uint8) for pixels 0 to 255"
            )
        if 0 in x.shape:
            raise ValueError(f"ArrayDataset: x must not be empty, got shape {x.shape}")
        if x.shape[1] == 3 and min(x.shape[2:]) >= 8:  # no images are 3 high and have that many channels
            raise ValueError(
                f"ArrayDataset: x must be (n, H, W, C), got shape {x.shape}{channels_first_hint(x.shape)}"
            )
        self.labels = check_labels("ArrayDataset", y, len(x), None if classes is None else len(classes))
        self.classes = class_names("ArrayDataset", classes, self.labels)
        self.class_names_given = classes is not None
        self.x = np.ascontiguousarray(x)
        self.image_shape = tuple(x.shape[1:])
        self.dtype = x.dtype
        self.name = name

    def one_array(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        return (self.x, None) if _reads_as(self, ArrayDataset) else None

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return self.x.take(indices, axis=0)

    def _identity(self) -> Iterable[bytes]:
        for start in range(0, len(self.x), 4096):
            yield self.x[start : start + 4096].tobytes()


class Subset(Dataset):
    """The images of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: Dataset, indices: Iterable[int] | np.ndarray, *, name: str | None = None):
        idx = np.asarray(indices)
        if idx.size == 0:
            raise ValueError("Subset: indices must not be empty")
        self.dataset = dataset
        self.indices = np.array(_check_indices("Subset", idx, len(dataset)))
        self.labels = dataset.labels[self.indices]
        self.classes = dataset.classes
        self.class_names_given, self._words = dataset.class_names_given, dataset.words
        self.image_shape = dataset.image_shape
        self.dtype = dataset.dtype
        self.in_memory, self.decodes = dataset.in_memory, dataset.decodes
        self.name = dataset.name if name is None else name

    def image_name(self, index: int) -> str:
        return self.dataset.image_name(int(self.indices[index]))

    @property
    def reading(self) -> dict[str, Any]:
        return self.dataset.reading

    @property
    def skipped(self) -> dict[str, str]:
        return self.dataset.skipped

    def note_skipped(self, skipped: dict[str, str]) -> None:
        self.dataset.note_skipped(skipped)

    def read_into(self, indices: np.ndarray, out: np.ndarray) -> None:
        self.dataset.read_into(self.indices[indices], out)

    def read_one(self, index: int) -> np.ndarray:
        return self.dataset.read_one(int(self.indices[index]))

    def file_of(self, index: int) -> str:
        return self.dataset.file_of(int(self.indices[index]))

    def known_statistics(self) -> Any:
        whole = len(self) == len(self.dataset) and len(np.unique(self.indices)) == len(self)
        return self.dataset.known_statistics() if whole else None

    def one_array(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        found = self.dataset.one_array() if _reads_as(self, Subset) else None
        if found is None:
            return None
        array, places = found
        return array, self.indices if places is None else places[self.indices]

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return self.dataset._read(self.indices[indices])

    def _identity(self) -> Iterable[bytes]:
        yield self.dataset.fingerprint().encode()
        yield self.indices.tobytes()


def _reads_as(dataset: Dataset, kind: type[Dataset]) -> bool:
    """Tell whether a dataset of a kind reads as that does, which a class derived from it need not."""
    return type(dataset)._read is kind._read and type(dataset).read is Dataset.read


def split(dataset: Dataset, fraction: float = 0.1, seed: int = 0) -> tuple[Subset, Subset]:
    """Split into (train, validation), class by class, so that both keep the mix of classes.

    Parameters
    ----------
    dataset : Dataset
    fraction : float in (0, 1)
        Share of each class that goes to validation, rounded to whole images.
    seed : int
        The split is a pure function of (labels, fraction, seed).

    Raises
    ------
    ValueError
        `fraction` is outside (0, 1), or leaves one side empty.
    """
    fraction = real("split", "fraction", fraction, positive=True, below=1)
    order = shuffled(len(dataset), check_seed("split", seed), 0, PURPOSE_SPLIT)
    labels = dataset.labels[order]
    chosen = np.zeros(len(dataset), bool)
    for label in np.unique(labels):
        members = order[labels == label]
        chosen[members[: math.floor(len(members) * fraction + 0.5)]] = True
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"split: fraction {fraction} of {len(dataset)} images in {len(dataset.classes)} classes leaves "
            f"{int((~chosen).sum())} for training and {int(chosen.sum())} for validation; both need some"
        )
    return (
        Subset(dataset, np.flatnonzero(~chosen), name=f"{dataset.name} (train)"),
        Subset(dataset, np.flatnonzero(chosen), name=f"{dataset.name} (validation)"),
    )


def reading_of(image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return options of `ImageFolder` under which files come out as images of `image_shape`."""
    height, width, channels = image_shape
    return {"size": (height, width), **({"channels": channels} if channels in (1, 3) else {})}


def shuffled(count: int, seed: int, step: int, purpose: int) -> np.ndarray:
    """Return a permutation of range(count) that depends only on (seed, step, purpose), not NumPy's version.

    The indexes are sorted by a 32-bit Philox word each; equal words (rare) keep their order.
    """
    return np.argsort(philox.random_words(seed, step, purpose, 0, count), kind="stable")


def balanced(labels: np.ndarray, seed: int, step: int) -> np.ndarray:
    """Return (n,) indices in random order among which every class that has images is as frequent as any
    other, or by one more where n is no multiple of their number; and so is every image of a class.

    A pure function of (labels, seed, step). Which images of a class come once more than others, or not at
    all, differs from step to step.
    """
    order = shuffled(len(labels), seed, step, PURPOSE_ORDER)
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    members = np.split(by_class, np.cumsum(sizes)[:-1])
    present = np.flatnonzero(sizes)
    share, rest = divmod(len(labels), len(present))
    turn = present[shuffled(len(present), seed, step, PURPOSE_CLASSES)]
    chosen = [np.resize(members[label], share + (i < rest)) for i, label in enumerate(turn)]
    return np.concatenate(chosen)[shuffled(len(labels), seed, step, PURPOSE_MIX)]


def check_seed(where: str, seed: Any) -> int:
    """Check `seed`; return it as an int in [0, 2**64)."""
    return integer(where, "seed", seed, 0, 2**64 - 1)


def _check_indices(where: str, indices: np.ndarray, count: int) -> np.ndarray:
    """Check indices that are not empty; return them as int64 in [0, count)."""
    if indices.dtype.kind not in "iu" or indices.ndim != 1:
        raise TypeError(
            f"{where}: indices must be a sequence of integers, got {indices.dtype} of shape {indices.shape}"
        )
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= count:
        raise IndexError(f"{where}: indices must lie in [0, {count}), got {low} to {high}")
    return indices.astype(np.int64, copy=False)


def check_labels(where: str, labels: np.ndarray, count: int, classes: int | None) -> np.ndarray:
    """Check labels; return (count,) int32 in [0, classes). `classes` None allows any non-negative label."""
    labels = np.asarray(unmasked(where, "labels", labels))
    if labels.size and labels.dtype.kind not in "iu":
        raise TypeError(f"{where}: labels must be integers, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(f"{where}: labels must have shape ({count},), one per image, got {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    limit = 2**31 - 1 if classes is None else classes
    if low < 0 or high >= limit:
        wanted = "not be negative" if classes is None and low < 0 else f"lie in [0, {limit})"
        raise ValueError(f"{where}: labels must {wanted}, got {low if low < 0 else high}")
    return labels.astype(np.int32)


def class_names(where: str, classes: Sequence[str] | None, labels: np.ndarray) -> list[str]:
    """Return class names as a list of strings; default: the labels' numbers."""
    if classes is None:
        highest = int(labels.max())
        if highest >= 1_000_000:
            raise ValueError(
                f"{where}: label {highest} would make {highest + 1} classes; give classes= if that is meant"
            )
        return [str(i) for i in range(highest + 1)]
    if isinstance(classes, (str, bytes)):
        raise TypeError(f"{where}: classes must be a sequence of names, got the single string {classes!r}")
    names = list(classes)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{where}: classes must be strings, got {name!r}")
    return names


def _as_array(name: str, value: Any) -> np.ndarray:
    unmasked("ArrayDataset", name, value)
    try:
        array = np.asarray(value)
    except Exception as error:  # ragged lists, arrays that live on a device
        raise TypeError(f"ArrayDataset: {name} must be convertible to a NumPy array: {error}") from None
    if array.dtype == object:
        raise TypeError(f"ArrayDataset: {name} must be a numeric array, got dtype object")
    return array
