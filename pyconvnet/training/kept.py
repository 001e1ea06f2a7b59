"""Data sets whose images the devices keep for the length of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Dataset, Loader
from ..data.loader import Batch
from ..plan.kept import KeptImages, check_room, slice_length
from ..plan.plan import Plan


@dataclass(frozen=True)
class KeptSet:
    """A data set whose images a plan's devices keep.

    Attributes
    ----------
    images : KeptImages
    places : (n,) int64 or None
        Where among them each image of the set is; None: they are the set's, in its order.
    """

    images: KeptImages
    places: np.ndarray | None = None

    def feed(self, plan: Plan, batch: Batch, draws: dict[str, Any]) -> None:
        """Give a plan a batch of the set by its indices."""
        indices = batch.indices if self.places is None else self.places[batch.indices]
        plan.feed(indices, batch.labels, draws, of=self.images)


def keep_sets(plan: Plan, sets: Iterable[Dataset | None], workers: int, progress: bool) -> dict[int, KeptSet]:
    """Keep the images of data sets on a plan's devices.

    Devices of the host read a set that lies in one array there, itself or as a part of another, where it
    lies. All others are read once, in order, and copied.

    Parameters
    ----------
    plan : Plan
    sets : Dataset or None
        None, and what comes again, is left out.
    workers : int
        Processes that decode.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of KeptSet
        By the ``id`` of the set.

    Raises
    ------
    ValueError
        A device has not the memory for all that is copied; nothing has been read then.
    """
    by_id = {id(data): data for data in sets if data is not None}
    found = {key: None if plan.device.kind == "cuda" else data.one_array() for key, data in by_id.items()}
    copied = [data for key, data in by_id.items() if found[key] is None]
    if copied:
        nbytes = sum(len(data) * math.prod(data.image_shape) * data.dtype.itemsize for data in copied)
        check_room(plan.image_devices, nbytes, "train: keep_on_device")
    kept: dict[int, KeptSet] = {}
    whole: dict[int, KeptImages] = {}  # by the array
    for key, data in by_id.items():
        if found[key] is None:
            images = plan.keep_images(_read(data, workers, progress), len(data), data.dtype)
            kept[key] = KeptSet(images)
            continue
        array, places = found[key]
        if id(array) not in whole:
            whole[id(array)] = plan.keep_images(array)
        kept[key] = KeptSet(whole[id(array)], places)
    return kept


def _read(dataset: Dataset, workers: int, progress: bool) -> Iterator[np.ndarray]:
    """Read all images in order, so many at a time."""
    from tqdm import tqdm

    size = min(slice_length(dataset.image_shape, dataset.dtype), len(dataset))
    how = {"unit": " images", "leave": False, "disable": None if progress else True}
    with (
        Loader(dataset, size, shuffle=False, workers=workers) as loader,
        tqdm(total=len(dataset), desc="keeping on the device", **how) as bar,
    ):
        for batch in loader.epoch(0):
            yield batch.images
            bar.update(len(batch))
