"""Loader: batches in an order that is a pure function of (seed, epoch), read ahead in the background.

The batches are the same whatever the number of workers, and `epoch(e, start=b)` continues an epoch
exactly.
Three ways of reading, chosen by the dataset and `workers`:

- a dataset in memory is read when asked: a copy of some 50 microseconds for 128 CIFAR images, less than
  handing it over;
- otherwise with ``workers=0`` a thread reads ahead;
- otherwise worker processes decode ahead into shared memory (`workers.py`).
"""

from __future__ import annotations

import math
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..common.checks import integer
from .dataset import PURPOSE_ORDER, Dataset, balanced, check_seed, shuffled
from .workers import EpochEnded, WorkerPool


@dataclass(frozen=True)
class Batch:
    """One batch, or one rank's share of it.

    Attributes
    ----------
    images : (n, H, W, C) uint8 or float32; None of a loader without images
    labels : (n,) int32
    indices : (n,) int64
        What was read.
    first, total : int
        The share is rows first ... first + n - 1 of a batch of ``total``.
    """

    images: np.ndarray | None
    labels: np.ndarray
    indices: np.ndarray
    first: int
    total: int

    def __len__(self) -> int:
        return len(self.labels)


class _Share(NamedTuple):
    """What of one batch is to be read: indices, and where they lie in the whole batch."""

    indices: np.ndarray
    first: int
    total: int


class Loader:
    """Batches of a dataset.

    Parameters
    ----------
    dataset : Dataset
    batch_size : int
    seed : int
        Of the order.
    shuffle : bool
        A new order each epoch; False: the dataset's own order.
    balance : bool
        Every class equally often, see `balanced`; needs `shuffle`. An epoch has as many images as without.
    workers : int
        Processes that decode. They start with the first batch and live until `close`. A dataset already in
        memory needs none and starts none.
    drop_last : bool
        Leave out the last batch of an epoch where it is not full.
    prefetch : int
        Batches read ahead.
    share : (rank, size)
        Of several processes that work on every batch together: this one reads rows
        [total * rank // size, total * (rank + 1) // size) of each, which may be none.
    empty : function (count, dtype) -> array (count,)
        Allocates memory for images, which is used again when nobody holds a view of it any more.
    images : bool
        False: nothing is read, batches hold labels and indices, for those who have the images.

    Use it as a context manager, or call `close`; at the latest the workers end with the process.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        workers: int = 0,
        drop_last: bool = False,
        prefetch: int = 2,
        share: tuple[int, int] = (0, 1),
        balance: bool = False,
        empty: Callable[[int, Any], np.ndarray] = np.empty,
        images: bool = True,
    ):
        if not isinstance(dataset, Dataset):
            raise TypeError(f"Loader: dataset must be a pyconvnet.data.Dataset, got {type(dataset).__name__}")
        self.batch_size = integer("Loader", "batch_size", batch_size, 1)
        self.workers = integer("Loader", "workers", workers, 0)
        self.prefetch = integer("Loader", "prefetch", prefetch, 1)
        if drop_last and batch_size > len(dataset):
            raise ValueError(
                f"Loader: batch_size {batch_size} is more than the {len(dataset)} images, "
                "so that drop_last leaves no batch"
            )
        self.dataset = dataset
        self.seed = check_seed("Loader", seed)
        self.shuffle = bool(shuffle)
        if balance and not shuffle:
            raise ValueError("Loader: balance needs shuffle=True, got shuffle=False")
        self.balance = bool(balance)
        self.drop_last, self.images = bool(drop_last), bool(images)
        self.rank, self.size = _check_share(share)
        self._pool: WorkerPool | None = None
        # One that is filled, those read ahead, one in use, two on their way to a GPU.
        self._buffers = _Buffers(dataset.image_shape, dataset.dtype, empty, self.prefetch + 4)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._batches(len(self.dataset))

    def _batches(self, examples: int) -> int:
        full, rest = divmod(examples, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; the next epoch would start new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices of `epoch` in the order of reading, (len(dataset),) int64."""
        epoch = integer("Loader", "epoch", epoch, 0)
        if not self.shuffle:
            return np.arange(len(self.dataset))
        if self.balance:
            return balanced(self.dataset.labels, self.seed, epoch)
        return shuffled(len(self.dataset), self.seed, epoch, PURPOSE_ORDER)

    def epoch(self, epoch: int, start: int = 0, *, skip: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of `epoch`, from batch number `start`; without the first `skip` examples
        of its order, read before in batches of whatever size.

        Raises
        ------
        ValueError
            One of them is negative, or beyond the last batch or example; or what the dataset raises.
        RuntimeError
            A worker process died.
        """
        order = self.order(epoch)
        order = order[integer("Loader", "skip", skip, 0, len(order)) :]
        count = self._batches(len(order))
        start = integer("Loader", "start", start, 0, count)
        plan = [self._share(order[b * self.batch_size :][: self.batch_size]) for b in range(start, count)]
        if not self.images:
            return (self._batch(share, None) for share in plan)
        if self.dataset.in_memory:
            return (self._batch(share, self._images(share.indices)) for share in plan)
        if self.workers == 0:
            return self._threaded(plan)
        return self._processes(plan)

    def _share(self, indices: np.ndarray) -> _Share:
        total = len(indices)
        first, last = (total * (self.rank + i) // self.size for i in (0, 1))
        return _Share(indices[first:last], first, total)

    def _images(self, indices: np.ndarray) -> np.ndarray:
        own = type(self.dataset).read_into is not Dataset.read_into
        if len(indices) and (self.dataset.in_memory or not own):
            return self.dataset.read(indices)
        images = self._buffers.empty(len(indices))
        self.dataset.read_into(indices, images)
        return images

    def _batch(self, share: _Share, images: np.ndarray | None) -> Batch:
        return Batch(images, self.dataset.labels[share.indices], *share)

    def _threaded(self, plan: list[_Share]) -> Iterator[Batch]:
        """Read ahead in a thread; whatever it raises is raised here."""
        ready: queue.Queue = queue.Queue(self.prefetch)
        stop = threading.Event()

        def put(item: Any) -> bool:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    pass
            return False

        def read() -> None:
            try:
                for share in plan:
                    if not put(self._batch(share, self._images(share.indices))):
                        return
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=read, name="pyconvnet loader", daemon=True)
        thread.start()
        try:
            for _ in plan:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def _processes(self, plan: list[_Share]) -> Iterator[Batch]:
        if self._pool is None or self._pool.closed:
            most = -(-self.batch_size // self.size)
            self._pool = WorkerPool(self.dataset, self.workers, most, slots=self.prefetch + 1)
        try:
            read = self._pool.read([share.indices for share in plan], self._buffers.empty)
            for share, (_, images) in zip(plan, read, strict=True):
                yield self._batch(share, images)
        except (GeneratorExit, EpochEnded):  # left early: the processes serve the next epoch
            raise
        except BaseException:  # an error, or Ctrl-C: no process is left behind
            self.close()
            raise


class _Buffers:
    """Memory for batches, used again when nobody holds an array of it any more.

    The system gives memory of this size page by page, zeroed, and takes it back when it is free: for 25 MB
    that takes as long as filling it. `most` are kept: where there are more, somebody keeps the batches.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        dtype: np.dtype,
        allocate: Callable[[int, Any], np.ndarray] = np.empty,
        most: int = 6,
    ):
        self._shape, self._dtype, self._allocate, self._most = image_shape, dtype, allocate, most
        self._all: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, count: int) -> np.ndarray:
        """Return an array for `count` images."""
        shape = (count, *self._shape)
        size = math.prod(shape)
        with self._lock:
            buffer = _idle(self._all)
            if buffer is not None and len(buffer) < size:
                self._all = [other for other in self._all if other is not buffer]
                buffer = None
            if buffer is None:
                buffer = self._allocate(size, self._dtype)
                if len(self._all) < self._most:
                    self._all.append(buffer)
        return buffer[:size].reshape(shape)


def _idle(buffers: list[np.ndarray]) -> np.ndarray | None:
    """Return a buffer of which there are no views, if there is one: a view holds a reference to it."""
    for buffer, count in zip(buffers, _references(buffers), strict=True):
        if count <= _OWN_REFERENCES:
            return buffer
    return None


def _references(buffers: list[np.ndarray]) -> list[int]:
    return [sys.getrefcount(buffer) for buffer in buffers]


_OWN_REFERENCES = _references([np.empty(1)])[0]  # of a list, and what this Python adds in counting


def _check_share(share: Any) -> tuple[int, int]:
    if not isinstance(share, (tuple, list)) or len(share) != 2:
        raise TypeError(f"Loader: share must be a pair (rank, size), got {share!r}")
    size = integer("Loader", "share[1]", share[1], 1)
    return integer("Loader", "share[0]", share[0], 0, size - 1), size
