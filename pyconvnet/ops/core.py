"""What every operation shares: checking arguments, making outputs, choosing a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..common.checks import MAX_ELEMENTS, check_contiguous, check_dtype, check_shape
from ..common.devices import Device, emulator, get_device
from ..common.precision import BFLOAT16
from .arrays import arrays, refuse_overlap

# ---------------------------------------------------------------- checks


def check_float(op: str, dev: Device, **named: Any) -> np.dtype:
    """Check that all arrays have one floating dtype: float32, bfloat16, or on ``cpu`` float64. Return it.

    Raises TypeError; an array that is None is none.
    """
    allowed = (np.float32, BFLOAT16, np.float64) if dev.ext is None else (np.float32, BFLOAT16)
    words = "float32, bfloat16 or float64" if dev.ext is None else f"float32 or bfloat16 on {dev.name}"
    first: tuple[str, np.dtype] | None = None
    for name, array in named.items():
        if array is None:
            continue
        if array.dtype not in allowed:
            raise TypeError(f"{op}: {name} must be {words}, got {array.dtype}")
        if first is None:
            first = (name, array.dtype)
        elif array.dtype != first[1]:
            raise TypeError(f"{op}: {name} must be {first[1]} like {first[0]}, got {array.dtype}")
    assert first is not None
    return first[1]


# ---------------------------------------------------------------- outputs, scratch memory, kernels


def writable(op: str, name: str, dev: Device, array: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an array that the operation writes into, after checking it."""
    place, named = arrays(op, **{name: array})
    array = named[name]
    if place != dev:
        raise ValueError(f"{op}: {name} must be on {dev.name} like the inputs, got {place.name}")
    check_shape(op, name, array, shape)
    check_dtype(op, name, array, dtype)
    check_contiguous(op, **named)
    if dev.kind != "cuda" and not array.flags.writeable:
        raise ValueError(f"{op}: {name} must be writable, got a read-only array")
    return array


def output(
    op: str,
    dev: Device,
    inputs: Mapping[str, Any],
    out: Any,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    name: str = "out",
    itself: tuple[str, ...] = (),
) -> Any:
    """Return the only output; ``itself`` names the inputs it may be. See :func:`outputs`."""
    return outputs(op, dev, inputs, (out,), (name, shape, dtype), itself={name: itself})[0]


def outputs(
    op: str,
    dev: Device,
    inputs: Mapping[str, Any],
    out: Any,
    *specs: tuple[str, tuple[int, ...], Any],
    itself: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    updated: tuple[str, ...] = (),
) -> tuple[Any, ...]:
    """Return the arrays an operation writes: those of `out` after checking them, or new ones.

    Parameters
    ----------
    inputs : dict
        All arrays that the operation takes, by name.
    out : None, or a tuple with one array or None for each of `specs`
    specs : (name, shape, dtype)
    itself : dict
        Output -> inputs that it may be; any other overlap, with inputs and with outputs, is refused.
    updated : names of `inputs` that are written to as well
    """
    if out is None:
        out = (None,) * len(specs)
    if not isinstance(out, tuple) or len(out) != len(specs):
        names = ", ".join(name for name, _, _ in specs)
        raise TypeError(f"{op}: out must be a tuple ({names})")
    result, given = [], {name: inputs[name] for name in updated if inputs[name] is not None}
    for array, (name, shape, dtype) in zip(out, specs, strict=True):
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"{op}: the result {name} of shape {shape} would have 2^31 elements or more")
        if array is None:
            result.append(dev.empty(shape, dtype))
        else:
            given[name] = writable(op, name, dev, array, shape, dtype)
            result.append(given[name])
    if given:
        read = {name: array for name, array in inputs.items() if name not in updated} if updated else inputs
        refuse_overlap(op, dev, given, read, itself)
    return tuple(result)


def scratch(dev: Device, nbytes: int, workspace: Any) -> Any:
    """Give a kernel uint8 scratch memory: of `workspace`, an object with ``get(nbytes)``, else allocated."""
    if nbytes == 0:
        return None
    return dev.empty((nbytes,), np.uint8) if workspace is None else workspace.get(nbytes)


def rows(dev: Device, table: str, shape: Any) -> list[tuple[str, int]]:
    """List the (name, workspace bytes) of the kernels of a table that apply to a shape, the preferred first.

    Asked with the device current: which code is loaded, and so which rows have any, may differ among devices.
    """
    with dev.activate():
        return getattr(dev.ext, f"{table}_kernels")(shape)


def select(op: str, rows: list[tuple[str, int]], kernel: str | None) -> tuple[str, int]:
    """Find the (name, workspace bytes) of the forced kernel, or of the preferred one.

    Parameters
    ----------
    rows : list of (name, workspace bytes)
        The kernels that apply to the shape, in order of preference.
    """
    if kernel is None:
        return rows[0]
    for row in rows:
        if row[0] == kernel:
            return row
    names = ", ".join(name for name, _ in rows)
    raise ValueError(f"{op}: kernel {kernel!r} does not apply to these shapes; these do: {names}")


#: As a number of splits: blocks share the tiles of the last wave (stream-K).
STREAM_K = -1


def parse_kernel(op: str, kernel: str | None) -> tuple[str | None, int]:
    """Parse ``"NAME/SPLITS"``, e.g. ``"conv2d_wgrad_tile64/8"``, into name and number; ``"NAME"`` has 0,
    ``"NAME/stream-k"`` :data:`STREAM_K`.
    """
    if kernel is None:
        return None, 0
    if not isinstance(kernel, str):
        raise TypeError(f"{op}: kernel must be a string, got {type(kernel).__name__}")
    stem, slash, splits = kernel.partition("/")
    if not slash:
        return stem, 0
    if splits == "stream-k":
        return stem, STREAM_K
    if not (splits.isascii() and splits.isdigit() and 0 < int(splits) < 2**31):
        raise ValueError(
            f"{op}: kernel must be NAME, NAME/stream-k or NAME/SPLITS with a positive number, got {kernel!r}"
        )
    return stem, int(splits)


def refuse_kernel_on_cpu(op: str, dev: Device, kernel: str | None) -> None:
    """Refuse `kernel=`, which names a CUDA kernel, on the ``cpu`` device, which has none."""
    if kernel is not None and dev.ext is None:
        raise ValueError(
            f"{op}: kernel={kernel!r} needs arrays on a CUDA device or the emulator, got {dev.name}"
        )


class Listed(NamedTuple):
    """What an operation would launch on given shapes."""

    table: str
    shape: Any  #: the kernels' shape struct
    rows: list[tuple[str, int]]  #: (name, workspace bytes) of the kernels that apply, in order of preference


# ops.kernels(op, ...): each family registers what its operations launch.
_listings: dict[str, Callable[..., tuple]] = {}


def lists_kernels(*ops: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as what answers ``ops.kernels(op, ...)`` for these operations.

    Its first parameters are the operation's name and the Device; it returns the shape struct, or the fields
    of :class:`Listed`.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _listings.update(dict.fromkeys(ops, function))
        return function

    return register


def _check_known(op: str) -> None:
    if op not in _listings:
        raise ValueError(f"kernels: unknown operation {op!r}; known: {', '.join(sorted(_listings))}")


def listed(op: str, dev: Device, *args: Any, **kwargs: Any) -> Listed:
    """Tell what an operation would launch on given shapes on a device that has kernels.

    Raises
    ------
    ValueError
        Unknown operation, or shapes the operation refuses.
    """
    _check_known(op)
    found = _listings[op](op, dev, *args, **kwargs)
    if not isinstance(found, tuple):
        found = op, found
    table, shape, *listing = found
    return Listed(table, shape, listing[0] if listing else rows(dev, table, shape))


def kernels(op: str, *args: Any, device: str | Device | None = None, **kwargs: Any) -> list[str]:
    """Name the CUDA kernels that apply to an operation on given shapes, in order of preference.

    Parameters
    ----------
    op : str
        Name of the operation, e.g. ``"conv2d"``.
    *args, **kwargs
        The operation's shapes and options, e.g. ``kernels("conv2d", x_shape, w_shape, stride=4)``.
    device : str, optional
        Whose table; default: ``cuda:0`` where it works, else the emulator (the tables are the same but for
        rows that call a CUDA library).

    Raises
    ------
    ValueError
        Unknown operation, or shapes the operation refuses.
    """
    _check_known(op)
    dev = get_device(device)
    return [name for name, _ in listed(op, emulator() if dev.ext is None else dev, *args, **kwargs).rows]
