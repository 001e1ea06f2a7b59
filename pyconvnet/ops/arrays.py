"""Arrays of every kind as arrays of a device, without copying, and the rule which of them may be one."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..common.checks import unmasked
from ..common.devices import Device, cpu, cuda, get_device


class _Forced(threading.local):
    """Of each thread."""

    device: Device | None = None


_forced = _Forced()
_HOST = ("host", 0)
#: What PyTorch sets instead of writing to memory, and what writes it: whoever reads the memory misses it.
_UNWRITTEN = (("negative", "is_neg", "resolve_neg"), ("conjugate", "is_conj", "resolve_conj"))


@contextlib.contextmanager
def on(device: str | Device) -> Iterator[Device]:
    """Run the operations inside the ``with`` block on a device that shares its arrays with another.

    NumPy arrays belong to ``cpu``; inside ``on("emulator")`` the same arrays go to the CUDA kernels on the
    emulator. The device of CUDA arrays is always their own.

    Raises
    ------
    ValueError
        Not a device name, or a CUDA device.
    """
    dev = get_device(device)
    if dev.kind == "cuda":
        raise ValueError("ops.on: only 'cpu' and 'emulator' can be chosen, CUDA arrays have a device")
    previous = _forced.device
    _forced.device = dev
    try:
        yield dev
    finally:
        _forced.device = previous


def host_device() -> Device:
    """Return the device NumPy arrays belong to here: ``cpu``, or what :func:`on` says."""
    return _forced.device or cpu()


def capability(dev: Device) -> int:
    """Compute capability of a device as 10 * major + minor, on which the choice of a kernel depends.

    The emulator can do what an sm_90 can; ``PYCONVNET_EMULATOR_CAPABILITY=75`` makes it choose as for an
    older device.
    """
    if dev.kind == "cuda":
        return _cuda_capability(dev)
    return int(os.environ.get("PYCONVNET_EMULATOR_CAPABILITY", "90"))


@functools.cache
def _cuda_capability(dev: Device) -> int:
    return int(dev.xp.cuda.Device(dev.index).compute_capability)


# ---------------------------------------------------------------- what becomes an array


def arrays(op: str, /, optional: tuple[str, ...] = (), **named: Any) -> tuple[Device, dict[str, Any]]:
    """Resolve the device of the arguments and turn each into an array of it, without copying.

    NumPy arrays are the host's, those of a subclass seen as plain ones; everything with a DLPack capsule or
    ``__cuda_array_interface__`` on a CUDA device becomes a CuPy view of the same memory, on the caller's
    current stream; a DLPack array on the host a NumPy view. None stays None where the argument's name is in
    `optional`.

    Raises
    ------
    TypeError
        An argument is no array, or a masked one.
    ValueError
        The arguments are not all on one device; a tensor whose memory does not hold its values; for kernels,
        elements that do not lie at multiples of their size.
    """
    result: dict[str, Any] = {}
    where: dict[str, tuple[str, int]] = {}
    for name, value in named.items():
        if value is None and name in optional:
            result[name] = None
            continue
        result[name], where[name] = (value, _HOST) if type(value) is np.ndarray else _adopt(op, name, value)
    places = set(where.values())
    if not places:
        return host_device(), result
    if len(places) > 1:
        text = ", ".join(f"{name} on {_place_name(place)}" for name, place in where.items())
        raise ValueError(f"{op}: all arrays must be on one device, got {text}")
    kind, index = places.pop()
    dev = cuda(index) if kind == "cuda" else host_device()
    if dev.ext is not None:
        for name in where:
            array = result[name]
            if array.data.ptr % max(1, array.itemsize) if kind == "cuda" else not array.flags.aligned:
                raise ValueError(f"{op}: {name} must be aligned to its element size")
    return dev, result


def _place_name(place: tuple[str, int]) -> str:
    return f"cuda:{place[1]}" if place[0] == "cuda" else "the host"


def _adopt(op: str, name: str, value: Any) -> tuple[Any, tuple[str, int]]:
    if isinstance(value, np.ndarray):
        return np.asarray(unmasked(op, name, value)), _HOST  # of a subclass the memory and nothing else
    if type(value).__module__.partition(".")[0] == "cupy":
        return value, ("cuda", value.device.id)
    for bit, is_set, resolve in _UNWRITTEN:
        asked = getattr(value, is_set, None)
        if callable(asked) and asked() is True:
            raise ValueError(
                f"{op}: {name} must hold its values in memory, got a tensor with the {bit} bit set: "
                f"{resolve}() writes them"
            )
    # DLPack names its device; asked first, since __cuda_array_interface__ does not.
    if hasattr(value, "__dlpack_device__"):
        device_type, index = value.__dlpack_device__()
        device_type = int(device_type)
        if device_type == 1:
            try:
                return np.from_dlpack(value), _HOST
            except (RuntimeError, BufferError, TypeError, ValueError) as error:
                raise TypeError(f"{op}: {name} cannot be read through DLPack: {error}") from None
        if device_type in (2, 13):  # kDLCUDA, kDLCUDAManaged
            return _adopt_cuda(op, name, value, int(index))
        raise TypeError(
            f"{op}: {name} must be on the host or a CUDA device, got DLPack device type {device_type}"
        )
    if hasattr(type(value), "__cuda_array_interface__") or hasattr(value, "__cuda_array_interface__"):
        return _adopt_cuda(op, name, value, None)
    raise TypeError(f"{op}: {name} must be a NumPy or CUDA array, got {type(value).__name__}")


def _adopt_cuda(op: str, name: str, value: Any, index: int | None) -> tuple[Any, tuple[str, int]]:
    """Make a CuPy view: through DLPack where `index`, its device, is known, since that can name bfloat16;
    objects raise when asked for a ``__cuda_array_interface__`` they cannot describe.
    """
    cupy = cuda(index or 0).xp
    ways = [cupy.asarray] if index is None else [cupy.from_dlpack, cupy.asarray]
    reasons = []
    for way in ways:
        try:
            with cupy.cuda.Device(index or 0) if index is not None else contextlib.nullcontext():
                view = way(value)
            return view, ("cuda", view.device.id)
        except (RuntimeError, BufferError, TypeError, ValueError, AttributeError) as error:
            reasons.append(str(error))
    raise TypeError(f"{op}: {name} cannot be used as a CUDA array: {reasons[0]}")


# ---------------------------------------------------------------- what may share memory


def refuse_overlap(
    op: str,
    dev: Device,
    outputs: Mapping[str, Any],
    inputs: Mapping[str, Any],
    itself: Mapping[str, tuple[str, ...]],
) -> None:
    """Refuse an output that shares memory with another array; it may only be an input that `itself` names.

    All arrays are contiguous, so that their bounds decide.

    Raises
    ------
    ValueError
    """
    others = dict(inputs)
    for name, out in outputs.items():
        for other, array in others.items():
            if array is None or not overlap(dev, out, array):
                continue
            allowed = other in itself.get(name, ())
            if allowed and out.nbytes == array.nbytes and pointer(dev, out) == pointer(dev, array):
                continue
            raise ValueError(
                f"{op}: {name} must {f'be {other} itself or ' if allowed else ''}not overlap {other}"
            )
        others[name] = out


def overlap(dev: Device, a: Any, b: Any) -> bool:
    """Tell whether two contiguous arrays share memory."""
    if dev.kind != "cuda":
        return np.may_share_memory(a, b)
    first, second = a.data.ptr, b.data.ptr
    return first < second + b.nbytes and second < first + a.nbytes


def is_array(value: Any) -> bool:
    """Tell whether a value is an array, of NumPy or CuPy."""
    return hasattr(value, "dtype") and hasattr(value, "ndim") and not isinstance(value, np.generic)


def pointer(dev: Device, array: Any) -> int:
    """Return the address of the first element."""
    return array.data.ptr if dev.kind == "cuda" else array.__array_interface__["data"][0]
