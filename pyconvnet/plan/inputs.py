"""What a plan is fed: batches of images and labels, or of the indices of images that its devices keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import ops
from ..common.checks import check_indices, check_number, check_type, unmasked
from ..common.devices import Device
from ..network.network import Network
from ..network.node import INPUT
from ..network.partition import Partition
from ..network.preprocessing import Preprocessing
from ..ops.space_to_depth import Depth
from . import kept
from .feed import Feeder
from .kept import KeptImages
from .lanes import StreamLanes
from .memory import Shard


class PlanInputs:
    """The part of :class:`pyconvnet.plan.Plan` that takes batches from the host."""

    network: Network
    partition: Partition
    devices: list[Device]
    shards: list[Shard]
    lanes: StreamLanes
    depth: Depth | None
    batch_size: int
    activation_dtype: np.dtype
    _feeders: list[Feeder]
    _window: tuple[int, int] | None
    _preprocessing: Preprocessing | None
    _means: list[Any]

    def set_window(self, row0: int, total: int) -> None:
        """Take what is fed from now on as the rows from ``row0`` on of batches of ``total`` examples.

        Costs average over ``total``, and dropout's masks are those of the whole batch. Without this call a
        batch is what is fed. 0 examples may then be fed to take part in the sums of other processes.
        """
        check_number("Plan.set_window: row0", row0, "int >= 0")
        check_number("Plan.set_window: total", total, "positive int")
        self._window = (int(row0), int(total))

    def set_preprocessing(self, preprocessing: Preprocessing) -> None:
        """Let :meth:`feed` take pixels from now on."""
        if preprocessing.input_shape != self.network.input_shape:
            raise ValueError(
                f"Plan: preprocessing makes inputs of shape {preprocessing.input_shape}, "
                f"network {self.network.name!r} takes {self.network.input_shape}"
            )
        self._preprocessing, self._means = preprocessing, []
        for i, device in enumerate(self.devices):
            with self.lanes.active(i):
                mean = preprocessing.mean
                self._means.append(None if mean is None else device.asarray(mean))

    def keep_images(
        self, images: np.ndarray | Iterable[np.ndarray], count: int | None = None, dtype: Any = np.uint8
    ) -> KeptImages:
        """Keep the images of a data set on every device that takes images, for :meth:`feed` to choose from.

        Parameters
        ----------
        images : array (N, H, W, C), or arrays (n, H, W, C) that follow each other
            uint8 or float32. Devices of the host read an array where it lies; it must not change.
        count, dtype :
            Of arrays that follow each other: N, and their dtype.

        Returns
        -------
        KeptImages
            To be given to :meth:`feed`, and held until what was fed of it is done (see
            :meth:`~pyconvnet.plan.Plan.synchronize`); the memory is free when nobody holds it.

        Raises
        ------
        ValueError, TypeError
            Other shapes or dtypes, another number of images; a device that has not the memory.
        """
        return kept.keep(self.image_devices, images, count, dtype)

    @property
    def image_devices(self) -> list[Device]:
        """The devices that take images, each once."""
        taking = (d for d, shard in zip(self.devices, self.shards, strict=True) if INPUT in shard.outputs)
        return list(dict.fromkeys(taking))

    def feed(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        draws: Mapping[str, Any] | None = None,
        *,
        of: KeptImages | None = None,
    ) -> int:
        """Copy a batch from the host to the devices, preprocessed.

        On CUDA the copy runs beside the step before.

        Parameters
        ----------
        images : array (n, H, W, C) uint8 or float32; with ``of`` array (n,) of ints
            Pixels, if preprocessing has been set; else the network's input itself. With ``of`` indices.
        labels : array (n,) of ints, optional
        draws : dict with crop (n, 2), mirror (n,), colour (n, C) or None; optional
            Where each crop lies and how it is changed, as ``data.Augmentation`` draws it. Default: the
            centre.
        of : KeptImages, optional
            What :meth:`keep_images` gave: the batch is made of those images, to the same bits as of copies
            of them. Needs preprocessing.

        Returns
        -------
        n : int
        """
        images = np.asarray(unmasked("Plan.feed", "images", images))
        n = self._check_count(len(images) if images.ndim else 0)
        pre = self._preprocessing
        wanted = self.network.input_shape if pre is None else pre.image_shape
        if of is not None:
            images = self._check_kept(images, of, wanted)
        elif images.shape[1:] != wanted:
            raise ValueError(
                f"Plan.feed: images must have shape (n, {', '.join(map(str, wanted))}), got {images.shape}"
            )
        if pre is None and draws is not None:
            raise ValueError("Plan.feed: draws need preprocessing; call set_preprocessing first")
        if labels is not None:
            given = np.asarray(unmasked("Plan.feed", "labels", labels))
            if given.shape != (n,) or given.dtype.kind not in "iu":
                raise ValueError(
                    f"Plan.feed: labels must be {n} integers, got {given.dtype} of shape {given.shape}"
                )
            labels = given.astype(np.int32)
            if (labels != given).any():
                wrong = given[labels != given][0]
                raise ValueError(f"Plan.feed: labels must be class numbers within int32, got {wrong}")
            self._check_labels(labels)
        if pre is not None and draws is None:
            draws = self._centre(n)
        for i, shard in enumerate(self.shards):
            with self.lanes.active(i):
                self._feed_shard(i, shard, n, images, labels, draws, of)
        return n

    def _check_kept(self, indices: np.ndarray, of: KeptImages, wanted: tuple[int, ...]) -> np.ndarray:
        """Check the indices of kept images, and those; return them as int32."""
        check_type("Plan.feed: of", of, KeptImages)
        if self._preprocessing is None:
            raise ValueError("Plan.feed: of needs preprocessing; call set_preprocessing first")
        if of.shape[1:] != wanted:
            raise ValueError(
                f"Plan.feed: of must keep images of shape {tuple(wanted)}, got {tuple(of.shape[1:])}"
            )
        missing = [device.name for device in self.image_devices if device.name not in of.devices]
        if missing:
            raise ValueError(f"Plan.feed: of must be kept by {', '.join(missing)}, got {of}")
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise ValueError(
                f"Plan.feed: indices of kept images must be integers of shape (n,), "
                f"got {indices.dtype} of shape {indices.shape}"
            )
        check_indices("Plan.feed", "indices of kept images", indices, len(of))
        return indices.astype(np.int32)

    def _feed_shard(
        self,
        i: int,
        shard: Shard,
        n: int,
        images: np.ndarray,
        labels: np.ndarray | None,
        draws: Any,
        of: KeptImages | None,
    ) -> None:
        feeder, held = self._feeders[i], self.partition.held[INPUT][i]
        first, last = held.rows(n)
        if INPUT in shard.outputs and first < last:
            target = shard.outputs[INPUT][: last - first]
            part = images[first:last]
            if self._preprocessing is None and self.depth is not None:
                images = feeder.stage(
                    "images", part.astype(np.float32, copy=False), len(shard.outputs[INPUT])
                )
                ops.space_to_depth.images_to_depth(images, self.depth, out=target)
            elif self._preprocessing is None:
                feeder.upload(target, part.astype(self.activation_dtype, copy=False))
            else:
                drawn = {k: v if v is None else v[first:last] for k, v in draws.items()}
                self._augment(i, target, part, drawn, of)
        if labels is not None and any(local.node.layer.is_cost for local in shard.locals):
            feeder.upload(shard.labels[:n], labels)

    def _centre(self, n: int) -> dict[str, Any]:
        (height, width, _), (h, w, _) = self._preprocessing.image_shape, self.network.input_shape
        crop = np.tile(np.array([(height - h) // 2, (width - w) // 2], np.int32), (n, 1))
        return {"crop": crop, "mirror": np.zeros(n, np.uint8), "colour": None}

    def _augment(
        self, i: int, target: Any, images: np.ndarray, draws: Mapping[str, Any], of: KeptImages | None
    ) -> None:
        feeder, colour = self._feeders[i], draws["colour"]
        capacity = len(self.shards[i].outputs[INPUT])
        staged = feeder.stage("images" if of is None else "indices", images, capacity)
        ops.augment(
            staged if of is None else of.on(self.devices[i]),
            feeder.stage("crop", draws["crop"], capacity),
            feeder.stage("mirror", draws["mirror"], capacity),
            None if colour is None else feeder.stage("colour", colour, capacity),
            self._means[i],
            size=self.network.input_shape[:2],
            scale=self._preprocessing.scale,
            depth=self.depth,
            indices=None if of is None else staged,
            out=target,
        )

    def _check_count(self, n: int | None) -> int:
        n = self.batch_size if n is None else n
        if not (0 if self._window else 1) <= n <= self.batch_size:
            raise ValueError(f"Plan: a pass takes 1 to {self.batch_size} examples, got {n}")
        return n
