"""Images of a data set that stay on the devices, so that a batch is fed as their indices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..common.checks import MAX_ELEMENTS, check_dtype, check_rank, check_type, integer, unmasked
from ..common.devices import Device

#: Bytes left free of a GPU's memory: for scratch memory, libraries and graphs that the first steps ask for.
SPARE = 256 << 20
#: Bytes of images that are uploaded at a time.
SLICE = 64 << 20


class KeptImages:
    """Images that a plan's devices keep. Made by :meth:`pyconvnet.plan.Plan.keep_images`.

    Attributes
    ----------
    shape : (N, H, W, C)
    dtype : uint8 or float32
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, arrays: dict[str, Any]):
        self.shape, self.dtype, self._arrays = shape, dtype, arrays

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"KeptImages({self.shape}, {self.dtype} on {', '.join(self._arrays)})"

    @property
    def devices(self) -> list[str]:
        """Names of the devices that keep them."""
        return list(self._arrays)

    def on(self, device: Device) -> Any:
        """Return the array (N, H, W, C) of a device; KeyError where it keeps none."""
        return self._arrays[device.name]


def slice_length(shape: Sequence[int], dtype: Any) -> int:
    """Return how many images (H, W, C) are uploaded at a time, at least one."""
    return max(1, SLICE // (math.prod(shape) * np.dtype(dtype).itemsize))


def check_room(devices: Iterable[Device], nbytes: int, where: str = "Plan.keep_images") -> None:
    """Check that each device has room for images of so many bytes; ValueError else."""
    for device in dict.fromkeys(devices):
        free = device.free_bytes()
        if free is not None and nbytes > free - SPARE:
            raise ValueError(
                f"{where}: the images take {nbytes:,} bytes of {device.name}, which has {free:,} free, "
                f"{SPARE:,} of them for the steps"
            )


def keep(devices: Iterable[Device], images: Any, count: int | None, dtype: Any) -> KeptImages:
    """Keep images on devices; see :meth:`pyconvnet.plan.Plan.keep_images`, which calls it."""
    where, devices = "Plan.keep_images", list(dict.fromkeys(devices))
    whole = isinstance(images, np.ndarray)
    if whole:
        images = unmasked(where, "images", images)
        check_dtype(where, "images", images, np.uint8, np.float32)
        shape, dtype = check_rank(where, "images", images, "N, H, W, C", None), images.dtype
        if count is not None and count != len(images):
            raise ValueError(f"{where}: count must be the number of images, {len(images)}, got {count}")
        step = slice_length(shape[1:], dtype)
        slices: Iterator[Any] = (images[i : i + step] for i in range(0, len(images), step))
    else:
        check_type(f"{where}: images", images, np.ndarray, Iterable)
        count = integer(where, "count", count, 1, MAX_ELEMENTS)
        dtype, shape, slices = np.dtype(dtype), None, iter(images)
    arrays: dict[str, Any] = {}
    if whole and all(device.kind != "cuda" for device in devices):
        array = np.ascontiguousarray(images)
        return KeptImages(shape, dtype, {device.name: array for device in devices})
    done = 0
    for part in slices:
        part = np.asarray(part)
        check_dtype(where, "images", part, dtype)
        check_rank(where, "images", part, "n, H, W, C", None)
        if shape is None:
            shape = (count, *part.shape[1:])
        if part.shape[1:] != shape[1:] or done + len(part) > shape[0]:
            raise ValueError(
                f"{where}: images must be {shape[0]} of shape {shape[1:]} altogether, "
                f"got {part.shape} after {done}"
            )
        if not arrays:
            check_room(devices, math.prod(shape) * dtype.itemsize)
            arrays = {device.name: device.empty(shape, dtype) for device in devices}
        for device in devices:
            _fill(device, arrays[device.name][done : done + len(part)], part)
        done += len(part)
    if done != (count if shape is None else shape[0]):
        raise ValueError(f"{where}: images must be {count} altogether, got {done}")
    for device in devices:
        device.synchronize()  # the lanes' streams do not wait for the one that has copied
    return KeptImages(shape, dtype, arrays)


def _fill(device: Device, target: Any, part: np.ndarray) -> None:
    if device.kind != "cuda":
        np.copyto(target, part)
        return
    with device.activate():
        target.set(np.ascontiguousarray(part))
