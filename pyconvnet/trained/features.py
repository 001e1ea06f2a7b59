"""What a layer of a trained network makes of images, and which images are near each other there.

The paper (section 6.1) takes the activations of the last hidden layer, fc7, and calls two images similar
where these vectors have a small Euclidean distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..common.checks import integer
from ..data import Augmentation, Dataset, Loader
from ..data.images import check_max_pixels
from .images import image_sources, read_all, stack

_AT_ONCE = 1 << 24  # distances held at a time


def features(
    model: Any, images: Any, layer: str, *, batch_size: int = 128, device: Any = None, **how: Any
) -> np.ndarray:
    """Return a layer's output for images, float32; see :meth:`pyconvnet.Model.features`, which calls it."""
    names = [node.name for node in model.network]
    if layer not in names or model.network[layer].layer.is_cost:
        known = [name for name in names if not model.network[name].layer.is_cost]
        raise ValueError(f"features: layer must be one of {', '.join(known)}, got {layer!r}")
    shape, single = model.preprocessing.image_shape, False
    if isinstance(images, Dataset):
        if images.image_shape != shape:
            raise ValueError(
                f"features: images of {images.name} must have the model's shape {shape}, "
                f"got {images.image_shape}"
            )
        count = len(images)
    else:
        single, images = image_sources(images, shape)
        count = len(images)
    size = min(integer("features", "batch_size", batch_size, 1), count)
    centre = Augmentation(crop=model.preprocessing.crop, mean=None).centre
    out = np.empty((count, *model.network[layer].output_shape), np.float32)
    done = 0
    with model.kept_plan(device, size, fuse=False, **how) as plan:
        for pixels in _batches(images, size, shape):
            n = len(pixels)
            plan.feed(pixels, draws=centre(n, shape))
            plan.forward(n, train=False, costs=False)
            out[done : done + n] = plan.get_output(layer, n)
            done += n
    return out[0] if single else out


def _batches(images: Any, size: int, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    if isinstance(images, Dataset):
        with Loader(images, size, shuffle=False) as loader:
            for batch in loader.epoch(0):
                yield batch.images
        return
    largest = check_max_pixels("features", None)
    for start in range(0, len(images), size):
        yield stack(read_all(images[start : start + size], shape, "raise", largest))


def last_hidden_layer(network: Any) -> str:
    """Name the layer whose features the paper compares: the last with parameters before that of the scores.

    Raises
    ------
    ValueError
        There is none.
    """
    with_parameters = [node.name for node in network if node.parameters()]
    output = network[network.output]
    before = [name for name in with_parameters if network[name].index < output.index]
    if not output.parameters():
        before = before[:-1]
    if not before:
        raise ValueError(f"features: network {network.name!r} has no hidden layer")
    return before[-1]


def nearest(features: Any, queries: Any, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest neighbours of some feature vectors among others, by Euclidean distance.

    Parameters
    ----------
    features : (n, ...) array
        Whatever follows the first axis is one vector.
    queries : (q, ...) array of the same vectors' shape
    count : int
        At most n.

    Returns
    -------
    indices : (q, count) int64
        Into ``features``, the nearest first, of equal ones the first; a query among them finds itself.
    distances : (q, count) float64

    Raises
    ------
    ValueError
        Vectors of different length, no vector, values that are not finite, or a bad count.
    """
    known, asked = (_vectors(name, v) for name, v in (("features", features), ("queries", queries)))
    if known.shape[1] != asked.shape[1]:
        raise ValueError(
            f"nearest: features and queries must have vectors of one length, "
            f"got {known.shape[1]} and {asked.shape[1]}"
        )
    count = integer("nearest", "count", count, 1, len(known))
    indices, distances = np.empty((len(asked), count), np.int64), np.empty((len(asked), count))
    # Float32 products, around the mean, where they cancel least, find more than are wanted; float64
    # differences decide among them.
    centre = known.mean(axis=0, dtype=np.float64).astype(np.float32)
    near, more = known - centre, min(len(known), 2 * count + 16)
    squares = np.einsum("ij,ij->i", near, near)
    for first in range(0, len(asked), max(1, _AT_ONCE // len(known))):
        some = asked[first : first + max(1, _AT_ONCE // len(known))]
        rough = squares - 2 * ((some - centre) @ near.T)
        candidates = np.sort(np.argpartition(rough, more - 1, axis=1)[:, :more], axis=1)
        for row, (vector, those) in enumerate(zip(some, candidates, strict=True), first):
            exact = np.linalg.norm(known[those].astype(np.float64) - vector, axis=1)
            order = np.argsort(exact, kind="stable")[:count]
            indices[row], distances[row] = those[order], exact[order]
    return indices, distances


def _vectors(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"nearest: {name} must be numbers of shape (n, ...), n > 0, got {array.dtype} {array.shape}"
        )
    flat = np.ascontiguousarray(array.reshape(len(array), -1), np.float32)
    if not np.isfinite(flat).all():
        raise ValueError(f"nearest: {name} must be finite, got NaN or infinity")
    return flat
