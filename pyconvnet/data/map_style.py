"""Datasets of PyTorch's kind, an object with ``len`` whose items are (image, label), as datasets of ours.

PyTorch itself is not imported: what it made is known by the modules that are already there.
"""

from __future__ import annotations

import numbers
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..common.checks import channels_first_hint
from .dataset import Dataset, check_labels, class_names
from .images import to_mode

_TRIED_TWICE = 4  #: images of which two readings are compared
_IN_FINGERPRINT = 64  #: images, evenly spread
_SAMPLERS = ("SequentialSampler", "RandomSampler")
_COLLATES = ("default_collate", "default_convert")


class MapStyleDataset(Dataset):
    """The items (image, label) of a map-style dataset, such as ``torch.utils.data`` has.

    Images are uint8 or floats (kept as float32, not rescaled), all of one shape: tensors (C, H, W) or (H, W),
    as PyTorch has them; NumPy arrays (H, W, C) or (H, W); or Pillow's, grey or made RGB. Labels are integers.

    Labels are taken from the attribute ``targets`` or ``labels`` (of a subset, from that of the whole), or
    ``tensors``, where it has as many as there are items; else every item is read once for its label. Whatever
    is read later has to have the label it had. Items must not change: random transforms would make epochs and
    resumed runs unrepeatable, and belong into ``train(augment=...)``.

    Parameters
    ----------
    dataset : object with ``__len__`` and ``__getitem__``
        To be picklable, where worker processes are to read it.
    classes : sequence of str, optional
        Default: the attribute ``classes``, where there is one, else the labels' numbers.
    name : str, optional
        Default: the name of the dataset's type.

    Raises
    ------
    TypeError, ValueError
        An item that is no (image, label), an image of another kind or shape than the first, a label that is
        no class, an item that is another the second time; the message names the item.
    """

    def __init__(self, dataset: Any, classes: Sequence[str] | None = None, *, name: str | None = None):
        self.dataset, self.name = dataset, type(dataset).__name__ if name is None else name
        if len(dataset) == 0:
            raise ValueError(f"data: {self.name} must not be empty")
        first = self._item(0)[0]
        self.image_shape, self.dtype = tuple(first.shape), first.dtype
        count = len(dataset)
        labels = _known_labels(dataset, count)
        if labels is None:
            from tqdm import tqdm

            how = {"desc": "labels", "unit": " images", "leave": False, "disable": None}
            labels = [self._item(i)[1] for i in tqdm(range(count), **how)]
        if classes is None:
            classes = _known_classes(dataset)
        where, known = f"data: {self.name}", None if classes is None else len(classes)
        self.labels = check_labels(where, np.asarray(labels), count, known)
        self.classes = class_names(where, classes, self.labels)
        self.class_names_given = classes is not None
        for i in range(min(count, _TRIED_TWICE)):
            if not np.array_equal(self._read_one(i), self._read_one(i)):
                raise ValueError(
                    f"data: {self.name}[{i}] must be the same each time it is read; leave random transforms "
                    "to augment="
                )

    def _item(self, index: int) -> tuple[np.ndarray, int]:
        item = self.dataset[index]
        what = f"data: {self.name}[{index}]"
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(f"{what} must be a pair (image, label), got {type(item).__name__}")
        return _pixels(what, item[0]), _label(what, item[1])

    def _read_one(self, index: int) -> np.ndarray:
        image, label = self._item(index)
        if image.shape != self.image_shape or image.dtype != self.dtype:
            raise ValueError(
                f"data: {self.name}[{index}] must be an image {self.image_shape} {self.dtype} like the "
                f"first, got {image.shape} {image.dtype}"
            )
        if label != self.labels[index]:
            raise ValueError(
                f"data: {self.name}[{index}] must have label {self.labels[index]} as the dataset's list of "
                f"labels says, got {label}"
            )
        return image

    def _read(self, indices: np.ndarray) -> np.ndarray:
        images = np.empty((len(indices), *self.image_shape), self.dtype)
        for image, index in zip(images, indices, strict=True):
            image[...] = self._read_one(int(index))
        return images

    def _identity(self) -> Iterable[bytes]:
        # Of the images some stand for all, as sizes do of files: reading every one would take an epoch.
        yield type(self.dataset).__qualname__.encode()
        for index in np.unique(np.linspace(0, len(self) - 1, _IN_FINGERPRINT).astype(int)):
            yield self._read_one(int(index)).tobytes()


def wrapped(spec: Any) -> MapStyleDataset | None:
    """Return what was given as data as a dataset of ours where it is a map-style dataset, or a DataLoader of
    one; None where it is neither.

    Raises
    ------
    TypeError, ValueError
        An iterable-style dataset; a loader that does more than put a dataset's items into batches; as
        :class:`MapStyleDataset`.

    Warns
    -----
    UserWarning
        Of a loader, what of it does not count.
    """
    if all(hasattr(spec, name) for name in ("dataset", "batch_sampler", "sampler", "collate_fn")):
        return _of_loader(spec)
    kind = type(spec)
    plain = isinstance(spec, (str, bytes, Mapping, list, tuple, set)) or hasattr(spec, "shape")
    if plain or not hasattr(kind, "__getitem__"):
        return None
    if not hasattr(kind, "__len__"):
        raise TypeError(
            "data must have a length, since the order of an epoch is drawn beforehand; "
            f"{kind.__name__} has none"
        )
    return MapStyleDataset(spec)


def _of_loader(loader: Any) -> MapStyleDataset:
    sampler, collate = loader.sampler, loader.collate_fn
    given = None if loader.batch_size is not None else loader.batch_sampler
    for what, value, wanted in (
        ("sampler", type(sampler).__name__, _SAMPLERS),
        ("batch_sampler", "None" if given is None else type(given).__name__, ("None",)),
        ("collate_fn", getattr(collate, "__name__", type(collate).__name__), _COLLATES),
    ):
        if value not in wanted:
            raise ValueError(
                f"data: a DataLoader's {what} must be {' or '.join(wanted)}, got {value}: the order and the "
                "batches are made by train; give the dataset itself, or a Subset of it"
            )
    if getattr(sampler, "replacement", False) or len(sampler) != len(loader.dataset):
        raise ValueError("data: a DataLoader's sampler must give every item once; give the dataset itself")
    found = wrapped(loader.dataset)
    if found is None:
        kind = type(loader.dataset).__name__
        raise TypeError(f"data: a DataLoader's dataset must be map-style, got {kind}")
    warnings.warn(
        f"data: of the DataLoader its dataset is taken; its batch_size {loader.batch_size}, order and "
        "workers do not count, train's batch_size=, seed= and workers= do",
        UserWarning,
        stacklevel=2,
    )
    return found


# ---- items -------------------------------------------------------------------------------------------------


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def _pixels(what: str, image: Any) -> np.ndarray:
    """Return an image as an array (H, W, C), uint8 or float32."""
    if isinstance(image, Image.Image):
        pixels = np.asarray(to_mode(image, "L" if image.mode in ("L", "1") else "RGB"))
    elif _is_tensor(image):
        pixels = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
        if pixels.ndim == 3:
            if pixels.shape[2] in (1, 3) and pixels.shape[0] > 4:
                raise ValueError(
                    f"{what} must be a tensor (C, H, W), got {pixels.shape}, which looks like (H, W, C)"
                )
            pixels = pixels.transpose(1, 2, 0)
    else:
        pixels = image
        if not isinstance(pixels, np.ndarray):
            kind = type(image).__name__
            raise TypeError(f"{what} must be an image of Pillow's, a tensor or an array, got {kind}")
        if pixels.ndim == 3 and pixels.shape[0] == 3 and min(pixels.shape[1:]) >= 8:
            raise ValueError(
                f"{what} must be an array (H, W, C), got {pixels.shape}{channels_first_hint(pixels.shape)}"
            )
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"{what} must be an image of 2 or 3 dimensions, got shape {pixels.shape}")
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32, copy=False)
        if not np.isfinite(pixels).all():
            raise ValueError(f"{what} must be finite, got NaN or infinity")
    elif pixels.dtype != np.uint8:
        raise TypeError(f"{what} must be uint8 or float, got {pixels.dtype}")
    return pixels


def _label(what: str, label: Any) -> int:
    if _is_tensor(label) or isinstance(label, np.ndarray):
        kind = str(label.dtype)
        label = label.item() if label.ndim == 0 else label
    else:
        kind = type(label).__name__
    if isinstance(label, bool) or not isinstance(label, numbers.Integral):
        raise TypeError(f"{what} must have an integer for its label, got {kind}")
    return int(label)


# ---- what datasets say of themselves -----------------------------------------------------------------------


def _known_labels(dataset: Any, count: int) -> np.ndarray | None:
    """Return the labels that a dataset lists, integers, one an item; None where it lists none."""
    tensors = getattr(dataset, "tensors", None)
    listed = [getattr(dataset, name, None) for name in ("targets", "labels")]
    if isinstance(tensors, tuple) and len(tensors) == 2:
        listed.append(tensors[1])
    for labels in listed:
        if labels is None or callable(labels) or isinstance(labels, (str, Mapping)):
            continue
        try:
            labels = np.asarray(labels.cpu() if _is_tensor(labels) else labels)
        except (TypeError, ValueError):  # something else by that name, lists of several lengths say
            continue
        if labels.shape == (count,) and labels.dtype.kind in "iu":
            return labels
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        whole = _known_labels(dataset.dataset, len(dataset.dataset))
        return None if whole is None else whole[np.asarray(dataset.indices)]
    return None


def _known_classes(dataset: Any) -> list[str] | None:
    """Return the class names that a dataset, or what it is a subset of, gives; None where there are none."""
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, (list, tuple)) and classes and all(isinstance(name, str) for name in classes):
        return list(classes)
    return _known_classes(dataset.dataset) if hasattr(dataset, "dataset") else None
