"""From the host's arrays to a device while it works on the batch before.

An ordinary NumPy array cannot be copied to a GPU in the background: the driver first has to copy it into
memory that does not move ("pinned"). A feeder does that itself, into buffers it keeps: two of them for every
kind of array, so that the host fills one while the copy from the other may still be under way. What lies in
memory that `host_empty` gave is copied from where it is.

A big array goes to one of two device buffers on a stream of the feeder's own, which takes part in no step, so
that batch k + 1 crosses the bus under step k. A small one, labels say, goes straight along the compute lane,
in line with the steps, which costs fewer calls than it could save time.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from ..common.checks import unmasked
from ..common.devices import Device
from .lanes import StreamLanes, copy_async

_pinned: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()  # by their id
SMALL = 64 * 1024  # bytes that cross a PCIe 3 bus in about 5 us, no longer than the calls of the other way


def host_empty(device: Device) -> Callable[[int, Any], np.ndarray]:
    """Return what allocates arrays (count, dtype) of the host that a `Feeder` copies from where they lie.

    A feeder holds such an array, or the view of it that it was given, until its copy is done: whoever writes
    it anew must know that nobody does. For a device of the host it is `numpy.empty`.
    """
    if device.kind != "cuda":
        return np.empty

    def empty(count: int, dtype: Any) -> np.ndarray:
        with device.activate():
            memory = device.xp.cuda.alloc_pinned_memory(max(1, count * np.dtype(dtype).itemsize))
        array = np.frombuffer(memoryview(memory), dtype, count)  # views of it hold the array itself
        _pinned[id(array)] = array
        return array

    return empty


def _is_pinned(value: np.ndarray | None) -> bool:
    """Tell whether an array is one of `host_empty`, or a view of one."""
    while isinstance(value, np.ndarray):
        if _pinned.get(id(value)) is value:
            return True
        value = value.base
    return False


class Feeder:
    """Copies arrays of the host to one device.

    Parameters
    ----------
    device : Device
    lanes : StreamLanes, optional
        The lanes of the steps; None: steps run on the caller's current stream.
    shard : int
        Which of the lanes' shards is fed.

    Notes
    -----
    The host waits for the device only where a pinned buffer is still in use, that is when it is two uploads
    of a kind ahead.
    """

    def __init__(self, device: Device, lanes: StreamLanes | None = None, shard: int = 0):
        self.device, self._lanes, self._shard = device, lanes, shard
        if lanes is not None and lanes.devices[shard] != device:
            raise ValueError(
                f"Feeder: shard {shard} of the lanes is on {lanes.devices[shard].name}, not on {device.name}"
            )
        self._rings: dict[Hashable, _Ring] = {}
        self._stream: Any = None
        if device.kind == "cuda":
            with device.activate():
                self._stream = device.xp.cuda.Stream()

    @property
    def nbytes(self) -> int:
        """Bytes of device memory the feeder holds."""
        slots = (slot for ring in self._rings.values() for slot in ring.slots if ring.on_device)
        return sum(slot.array.nbytes for slot in slots)

    def stage(self, name: str, value: np.ndarray, capacity: int) -> Any:
        """Put the host's array where the device can read it: itself on the host, else a copy in the next of
        two buffers.

        Work enqueued on the shard's compute lane between this and the next ``stage`` of the name may read it.

        Parameters
        ----------
        name : str
            What it is; arrays of one name share two buffers.
        value : array (n, ...)
            May be changed as soon as this returns, unless it is of `host_empty`.
        capacity : int
            The most rows an array of this name will have.

        Raises
        ------
        ValueError
            More rows than the capacity.
        """
        value = np.asarray(unmasked("Feeder.stage", name, value))
        if value.ndim == 0 or not 1 <= len(value) <= capacity:
            raise ValueError(
                f"Feeder.stage: {name} must have 1 to {capacity} rows, got an array of shape {value.shape}"
            )
        if self.device.kind != "cuda":
            return np.ascontiguousarray(value)
        return self._stage(name, value, value.dtype, (capacity, *value.shape[1:]))

    def upload(self, target: Any, value: np.ndarray) -> None:
        """Fill an array of the device, after the work on it that the lanes have been given so far.

        Parameters
        ----------
        target : contiguous array of the device
            Lanes see the new values in whatever they are given from now on.
        value : array of the same shape
            Of any dtype that NumPy casts to the target's without a change of kind. May be changed as soon as
            this returns, unless it is of `host_empty`.

        Raises
        ------
        ValueError, TypeError
            Another shape; a dtype of another kind.
        """
        value = np.asarray(value)
        if value.shape != tuple(target.shape):
            raise ValueError(
                f"Feeder.upload: value must have the target's shape {tuple(target.shape)}, got {value.shape}"
            )
        if not np.can_cast(value.dtype, target.dtype, "same_kind"):
            raise TypeError(f"Feeder.upload: value must become {target.dtype}, got {value.dtype}")
        if self.device.kind != "cuda":
            np.copyto(target, value, casting="same_kind")
            return
        if not target.flags.c_contiguous:
            raise ValueError("Feeder.upload: target must be C-contiguous")
        if target.size == 0:
            return
        key = ("upload", target.data.ptr)
        if target.nbytes > SMALL:
            staged = self._stage(key, value, target.dtype, target.shape)
            self._follow()
            self._copy(self._compute(), target.data.ptr, staged.data.ptr, target.nbytes)
            return
        slot = self._ring(key, target.dtype, target.shape, on_device=False).next()
        slot.fill(value)
        self._follow()
        self._copy(self._compute(), target.data.ptr, slot.pinned.ptr, target.nbytes)
        slot.copied.record(self._compute())

    def _stage(self, key: Hashable, value: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> Any:
        ring = self._ring(key, dtype, shape, on_device=True)
        compute = self._compute()
        if ring.current is not None:
            # Whoever reads the buffer handed out last has been enqueued by now.
            ring.current.released.record(compute)
            ring.current.was_released = True
        slot = ring.next()
        source = slot.pinned.ptr
        if value.dtype == dtype and value.flags.c_contiguous and _is_pinned(value):
            slot.borrow(value)
            source = value.ctypes.data
        else:
            slot.fill(value)
        view = slot.array[: len(value)]
        small = view.nbytes <= SMALL
        stream = compute if small else self._stream
        if slot.was_released and not small:
            stream.wait_event(slot.released)
        self._copy(stream, view.data.ptr, source, view.nbytes)
        slot.copied.record(stream)
        if not small:
            compute.wait_event(slot.copied)
        return view

    def _ring(self, key: Hashable, dtype: np.dtype, shape: tuple[int, ...], on_device: bool) -> _Ring:
        ring = self._rings.get(key)
        if ring is None or not ring.fits(dtype, shape):
            if ring is not None:
                self._drain(ring)
            with self.device.activate(), self._stream:
                # Memory of the pool belongs to the stream it was allocated on; here that is the first to use
                # it.
                ring = self._rings[key] = _Ring(self.device, np.dtype(dtype), tuple(shape), on_device)
        return ring

    def _drain(self, ring: _Ring) -> None:
        """Wait until nobody uses a ring's buffers, which are about to go."""
        self._compute().synchronize()
        for slot in ring.slots:
            slot.copied.synchronize()

    def _compute(self) -> Any:
        if self._lanes is not None:
            return self._lanes.stream(self._shard)
        return self.device.xp.cuda.get_current_stream(self.device.index)

    def _follow(self) -> None:
        if self._lanes is not None:
            self._lanes.follow(self._shard)

    def _copy(self, stream: Any, target: int, source: int, nbytes: int) -> None:
        with self.device.activate(), stream:
            copy_async(self.device, target, source, nbytes)


class _Slot:
    """A pinned buffer, the device buffer it is copied to, and how far that has come."""

    def __init__(self, device: Device, dtype: np.dtype, shape: tuple[int, ...], on_device: bool):
        cuda, count = device.xp.cuda, math.prod(shape)
        self.pinned = cuda.alloc_pinned_memory(max(1, count * dtype.itemsize))
        self.host = np.frombuffer(self.pinned, dtype, count).reshape(shape)
        self.array = device.empty(shape, dtype) if on_device else None
        # The host sleeps while it waits, instead of spinning.
        self.copied = cuda.Event(block=True, disable_timing=True)
        self.released = cuda.Event(disable_timing=True)
        self.used = self.was_released = False
        self.borrowed: np.ndarray | None = None

    def borrow(self, value: np.ndarray) -> None:
        """Hold an array while it is copied in the place of the pinned buffer."""
        if self.used:
            self.copied.synchronize()
        self.used, self.borrowed = True, value

    def fill(self, value: np.ndarray) -> None:
        if self.used:
            self.copied.synchronize()
        self.used, self.borrowed = True, None
        np.copyto(self.host[: len(value)] if value.ndim else self.host, value, casting="same_kind")


class _Ring:
    """The two buffers of one kind of array."""

    def __init__(self, device: Device, dtype: np.dtype, shape: tuple[int, ...], on_device: bool):
        self.dtype, self.shape, self.on_device = dtype, shape, on_device
        self.slots = [_Slot(device, dtype, shape, on_device) for _ in range(2)]
        self.current: _Slot | None = None

    def fits(self, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
        if np.dtype(dtype) != self.dtype or len(shape) != len(self.shape):
            return False
        return shape[:1] <= self.shape[:1] and tuple(shape[1:]) == self.shape[1:]

    def next(self) -> _Slot:
        self.current = self.slots[1] if self.current is self.slots[0] else self.slots[0]
        return self.current
