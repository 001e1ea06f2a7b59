"""What every operation shares: checking arguments, making outputs, choosing a kernel."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..devices import Device, emulator, get_device
from ._arrays import arrays, refuse_overlap

MAX_ELEMENTS = 2**31 - 1  # the kernels index with 32 bits
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# ---------------------------------------------------------------- checks


def check_float(op: str, dev: Device, **named: Any) -> np.dtype:
    """Every array has the same floating dtype: float32, bfloat16, or float64 on ``cpu``. Returns it."""
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


def wide(dtype: np.dtype) -> np.dtype:
    """The dtype of sums and parameters beside arrays of `dtype`: float32 beside bfloat16, else the same."""
    return np.dtype(np.float32) if dtype == BFLOAT16 else dtype


def check_dtype(op: str, name: str, array: Any, *dtypes: Any) -> None:
    """The array has one of the dtypes."""
    if array.dtype not in [np.dtype(d) for d in dtypes]:
        wanted = " or ".join(np.dtype(d).name for d in dtypes)
        raise TypeError(f"{op}: {name} must be {wanted}, got {array.dtype}")


def as_int32(op: str, dev: Device, name: str, array: Any) -> Any:
    """Integers of any dtype as int32, on their device and without waiting for it.

    What int32 cannot hold becomes the nearest that it can, which no class and no pixel has for its number.
    """
    if array.dtype == np.int32:
        return array
    if array.dtype.kind not in "iu":
        raise TypeError(f"{op}: {name} must be integers, got {array.dtype}")
    has, wants = np.iinfo(array.dtype), np.iinfo(np.int32)
    low, high = max(has.min, wants.min), min(has.max, wants.max)
    with dev.activate():
        if (low, high) != (has.min, has.max):
            array = dev.xp.clip(array, low, high)
        return array.astype(np.int32)


def as_flags(op: str, dev: Device, name: str, array: Any) -> Any:
    """Integers of any dtype, or truth values, as uint8 that is 0 where they are; likewise without waiting."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iub":
        raise TypeError(f"{op}: {name} must be integers or bool, got {array.dtype}")
    with dev.activate():
        return (array if array.dtype.kind == "b" else dev.xp.not_equal(array, 0)).view(np.uint8)


def check_contiguous(op: str, **named: Any) -> None:
    """Every array is C-contiguous."""
    for name, array in named.items():
        if array is not None and not array.flags.c_contiguous:
            raise ValueError(
                f"{op}: {name} must be C-contiguous, got strides {array.strides} for shape {array.shape}"
            )


def check_rank(op: str, name: str, array: Any, axes: str) -> tuple[int, ...]:
    """The array has the dimensions `axes` names, e.g. ``"N, H, W, C"``; none is empty. Returns its shape."""
    rank = axes.count(",") + 1
    if array.ndim != rank:
        plural = "dimension" if rank == 1 else "dimensions"
        raise ValueError(f"{op}: {name} must have {rank} {plural} ({axes}), got shape {tuple(array.shape)}")
    return check_size(op, name, array)


def check_size(op: str, name: str, array: Any) -> tuple[int, ...]:
    """The array is not empty and small enough for 32-bit indexes. Returns its shape."""
    shape = tuple(array.shape)
    if array.size == 0:
        raise ValueError(f"{op}: {name} must not be empty, got shape {shape}")
    if array.size > MAX_ELEMENTS:
        raise ValueError(f"{op}: {name} must have fewer than 2^31 elements, got shape {shape}")
    return shape


def check_shape(op: str, name: str, array: Any, shape: tuple[int, ...], why: str = "") -> None:
    """The array has exactly this shape."""
    if tuple(array.shape) != tuple(shape):
        wanted = f"{tuple(shape)} {why}".rstrip()
        raise ValueError(f"{op}: {name} must have shape {wanted}, got {tuple(array.shape)}")


def check_mask(op: str, mask: Any, shape: tuple[int, ...]) -> None:
    """`mask`, where given, is laid out as the gradient it masks; its dtype has been compared already."""
    if mask is not None:
        check_shape(op, "mask", mask, shape, "like the gradient it masks")
        check_contiguous(op, mask=mask)


def shape_tuple(op: str, name: str, value: Any, axes: str) -> tuple[int, ...]:
    """A shape given as an argument: as many positive integers as `axes` names."""
    rank = axes.count(",") + 1
    try:
        shape = tuple(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be a shape ({axes}), got {type(value).__name__}") from None
    if len(shape) != rank:
        raise ValueError(f"{op}: {name} must have {rank} entries ({axes}), got {shape}")
    shape = tuple(integer(op, f"{name}[{i}]", extent, minimum=1) for i, extent in enumerate(shape))
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"{op}: {name} must have fewer than 2^31 elements, got {shape}")
    return shape


def integer(op: str, name: str, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    """An integer within bounds, as an int."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{op}: {name} must be an integer, got {type(value).__name__}")
    value = int(value)
    if minimum is not None and value < minimum:
        raise ValueError(f"{op}: {name} must be at least {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{op}: {name} must be at most {maximum}, got {value}")
    return value


def real(
    op: str,
    name: str,
    value: Any,
    minimum: float | None = None,
    below: float | None = None,
    positive: bool = False,
) -> float:
    """A finite number within bounds, as a float."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{op}: {name} must be finite, got {value}")
    if positive and value <= 0:
        raise ValueError(f"{op}: {name} must be positive, got {value}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{op}: {name} must be at least {minimum}, got {value}")
    if below is not None and value >= below:
        raise ValueError(f"{op}: {name} must be below {below}, got {value}")
    return value


def flag(op: str, name: str, value: Any) -> bool:
    """True or False, as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{op}: {name} must be True or False, got {type(value).__name__}")
    return bool(value)


def pair(op: str, name: str, value: Any, minimum: int) -> tuple[int, int]:
    """An integer for both axes, or (vertical, horizontal)."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{op}: {name} must be an integer or a pair (vertical, horizontal), got {value}")
        first, second = value
    else:
        first = second = value
    return integer(op, name, first, minimum), integer(op, name, second, minimum)


Padding = tuple[tuple[int, int], tuple[int, int]]


def padding(op: str, name: str, value: Any) -> Padding:
    """``p``, ``(vertical, horizontal)`` or ``((top, bottom), (left, right))``, as the latter."""
    if isinstance(value, tuple | list) and len(value) == 2:
        vertical, horizontal = value
        if isinstance(vertical, tuple | list) or isinstance(horizontal, tuple | list):
            return pair(op, f"{name}[0]", vertical, 0), pair(op, f"{name}[1]", horizontal, 0)
    vertical, horizontal = pair(op, name, value, 0)
    return (vertical, vertical), (horizontal, horizontal)


# ---------------------------------------------------------------- outputs, scratch memory, kernels


def writable(op: str, name: str, dev: Device, array: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array that the operation writes into, after checking it."""
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
    """The only output; ``itself`` names the inputs it may be. See :func:`outputs`."""
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
    """The arrays an operation writes: those of `out` after checking them, or new ones.

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
    """uint8 scratch memory for a kernel: from `workspace`, an object with ``get(nbytes)``, else allocated."""
    if nbytes == 0:
        return None
    return dev.empty((nbytes,), np.uint8) if workspace is None else workspace.get(nbytes)


def rows(dev: Device, table: str, shape: Any) -> list[tuple[str, int]]:
    """The (name, workspace bytes) of the kernels of a table that apply to a shape, in order of preference.

    Asked with the device current: which code is loaded, and so which rows have any, may differ among devices.
    """
    with dev.activate():
        return getattr(dev.ext, f"{table}_kernels")(shape)


def select(op: str, rows: list[tuple[str, int]], kernel: str | None) -> tuple[str, int]:
    """The (name, workspace bytes) of the forced kernel, or of the preferred one.

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


def cut(op: str, kernel: str | None) -> tuple[str | None, int]:
    """A kernel's name and the number of pieces after its slash, 0 without: ``"conv2d_wgrad_tile64/8"``."""
    if kernel is None:
        return None, 0
    if not isinstance(kernel, str):
        raise TypeError(f"{op}: kernel must be a string, got {type(kernel).__name__}")
    stem, slash, pieces = kernel.partition("/")
    if not slash:
        return stem, 0
    if not (pieces.isascii() and pieces.isdigit() and 0 < int(pieces) < 2**31):
        raise ValueError(f"{op}: kernel must be NAME or NAME/PIECES with a positive number, got {kernel!r}")
    return stem, int(pieces)


def refuse_kernel_on_cpu(op: str, dev: Device, kernel: str | None) -> None:
    """`kernel=` names a CUDA kernel, which the ``cpu`` device does not have."""
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


def lists_kernels(op: str):
    """Decorator: the function answers ``ops.kernels(op, ...)``.

    Its first parameter is the Device; it returns the shape struct, or the fields of :class:`Listed`.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _listings[op] = function
        return function

    return register


def _check_known(op: str) -> None:
    if op not in _listings:
        raise ValueError(f"kernels: unknown operation {op!r}; known: {', '.join(sorted(_listings))}")


def listed(op: str, dev: Device, *args: Any, **kwargs: Any) -> Listed:
    """What an operation would launch on given shapes on a device that has kernels.

    Raises
    ------
    ValueError
        Unknown operation, or shapes the operation refuses.
    """
    _check_known(op)
    found = _listings[op](dev, *args, **kwargs)
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
