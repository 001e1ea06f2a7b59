"""Checks of arguments: each raises an error that names the argument, what was wanted, and what came."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .text import cut

MAX_ELEMENTS = 2**31 - 1  # the kernels index with 32 bits


class ArgumentError(TypeError, ValueError):
    """An argument is wrong in a way that some functions have told as the one kind, some as the other."""


@contextlib.contextmanager
def either() -> Iterator[None]:
    """Make an error of a check inside an :class:`ArgumentError`: for arguments of functions that have told a
    wrong type as a ValueError.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ArgumentError(str(error)) from None


def check_dtype(op: str, name: str, array: Any, *dtypes: Any) -> None:
    """Check that the array has one of the dtypes."""
    if array.dtype not in [np.dtype(d) for d in dtypes]:
        wanted = " or ".join(np.dtype(d).name for d in dtypes)
        raise TypeError(f"{op}: {name} must be {wanted}, got {array.dtype}")


def check_contiguous(op: str, **named: Any) -> None:
    """Check that every array is C-contiguous."""
    for name, array in named.items():
        if array is not None and not array.flags.c_contiguous:
            raise ValueError(
                f"{op}: {name} must be C-contiguous, got strides {array.strides} for shape {array.shape}"
            )


def check_rank(op: str, name: str, array: Any, axes: str, most: int | None = MAX_ELEMENTS) -> tuple[int, ...]:
    """Check the array for the dimensions of `axes`, none empty; return its shape. ``"N, H, W, C"`` are four,
    ``"..., C"`` one or more. `most` as of :func:`check_size`.
    """
    rank = axes.count(",") + 1
    if axes.startswith("..."):
        if array.ndim < rank - 1:
            raise ValueError(f"{op}: {name} must have at least {rank - 1} dimension ({axes}), got shape ()")
    elif array.ndim != rank:
        plural = "dimension" if rank == 1 else "dimensions"
        raise ValueError(f"{op}: {name} must have {rank} {plural} ({axes}), got shape {tuple(array.shape)}")
    return check_size(op, name, array, most)


def check_size(op: str, name: str, array: Any, most: int | None = MAX_ELEMENTS) -> tuple[int, ...]:
    """Check that the array is not empty and small enough for 32-bit indexes (`most` None: of any size);
    return its shape.
    """
    shape = tuple(array.shape)
    if array.size == 0:
        raise ValueError(f"{op}: {name} must not be empty, got shape {shape}")
    if most is not None and array.size > most:
        raise ValueError(f"{op}: {name} must have fewer than 2^31 elements, got shape {shape}")
    return shape


def check_indices(op: str, name: str, indices: np.ndarray, count: int) -> None:
    """Check that every index is that of one of `count` things."""
    outside = (indices < 0) | (indices >= count)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"{op}: {name} must be in [0, {count}), got {int(indices[i])} at index {i}")


def check_shape(op: str, name: str, array: Any, shape: tuple[int, ...], why: str = "") -> None:
    """Check that the array has exactly this shape."""
    if tuple(array.shape) != tuple(shape):
        wanted = f"{tuple(shape)} {why}".rstrip()
        raise ValueError(f"{op}: {name} must have shape {wanted}, got {tuple(array.shape)}")


def check_mask(op: str, mask: Any, shape: tuple[int, ...]) -> None:
    """Check that `mask`, where given, is laid out as the gradient it masks; its dtype was checked before."""
    if mask is not None:
        check_shape(op, "mask", mask, shape, "like the gradient it masks")
        check_contiguous(op, mask=mask)


def shape_tuple(op: str, name: str, value: Any, axes: str = "...") -> tuple[int, ...]:
    """Return a shape given as an argument: as many positive integers as `axes` names, "...": at least one."""
    rank = "at least 1" if axes == "..." else axes.count(",") + 1
    try:
        shape = tuple(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be a shape ({axes}), got {type(value).__name__}") from None
    if not shape if axes == "..." else len(shape) != rank:
        raise ValueError(f"{op}: {name} must have {rank} entries ({axes}), got {shape}")
    shape = tuple(integer(op, f"{name}[{i}]", extent, minimum=1) for i, extent in enumerate(shape))
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"{op}: {name} must have fewer than 2^31 elements, got {shape}")
    return shape


def integer(op: str, name: str, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return an integer within bounds as an int."""
    return _integer(f"{op}: {name}", value, minimum, maximum)


def _integer(what: str, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{what} must be an integer, got {_told(value)}")
    value = int(value)
    if minimum is not None and value < minimum:
        raise ValueError(f"{what} must be at least {minimum}, got {value}")
    if maximum is not None and value > maximum:
        bits = maximum.bit_length()
        wanted = f"below 2^{bits}" if bits > 31 and maximum == 2**bits - 1 else f"at most {maximum}"
        raise ValueError(f"{what} must be {wanted}, got {value}")
    return value


def real(
    op: str,
    name: str,
    value: Any,
    minimum: float | None = None,
    below: float | None = None,
    positive: bool = False,
) -> float:
    """Return a finite number within bounds as a float."""
    return _real(f"{op}: {name}", value, minimum, below, positive)


def _real(
    what: str, value: Any, minimum: float | None = None, below: float | None = None, positive: bool = False
) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, got {_told(value)}")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite, got {value!r}")
    if positive and below is not None and not 0 < value < below:
        raise ValueError(f"{what} must be in (0, {below:g}), got {value!r}")
    if positive and value <= 0:
        raise ValueError(f"{what} must be positive, got {value!r}")
    if minimum is not None and below is not None and not minimum <= value < below:
        raise ValueError(f"{what} must be in [{minimum:g}, {below:g}), got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(
            f"{what} must {'not be negative' if minimum == 0 else f'be at least {minimum}'}, got {value!r}"
        )
    if below is not None and value >= below:
        raise ValueError(f"{what} must be below {below}, got {value!r}")
    return value


def _told(value: Any) -> str:
    """Tell a value that is not what it should be: its type, and itself where that is short."""
    text = repr(value) if isinstance(value, (str, bytes, numbers.Number, tuple, list)) else ""
    return f"{type(value).__name__} {cut(text, 40)}".rstrip()


#: The rules that :func:`check_number` knows.
_RULES: dict[str, Callable[[str, Any], Any]] = {
    "positive int": lambda what, value: _integer(what, value, 1),
    "int >= 0": lambda what, value: _integer(what, value, 0),
    "number": _real,
    "number >= 0": lambda what, value: _real(what, value, 0),
    "probability": lambda what, value: _real(what, value, 0, 1),
}


def check_number(what: str, value: Any, rule: str, below: int | None = None) -> None:
    """Check a number by a rule's name: "positive int", "int >= 0", "number", "number >= 0", "probability"."""
    _RULES[rule](what, value)
    if below is not None and value >= below:
        raise ValueError(f"{what} must be below {below}, got {value}")


def check_type(what: str, value: Any, *kinds: type) -> Any:
    """Check that a value is of one of the kinds, where a bool is no int; return it."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"{what} must be {'an' if words[0] in 'aeiou' else 'a'} {words}, got {_told(value)}")
    return value


def one_of(op: str, name: str, value: Any, *choices: Any) -> Any:
    """Return a value that is one of the choices, texts or None, at least two; ValueError else."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        *words, last = map(repr, choices)
        raise ValueError(f"{op}: {name} must be {', '.join(words)} or {last}, got {value!r}")
    return value


def flag(op: str, name: str, value: Any) -> bool:
    """Return True or False, as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{op}: {name} must be True or False, got {_told(value)}")
    return bool(value)


def pair(op: str, name: str, value: Any, minimum: int, maximum: int | None = None) -> tuple[int, int]:
    """Return an integer for both axes, or (vertical, horizontal), as the latter."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ArgumentError(
                f"{op}: {name} must be an integer or a pair (vertical, horizontal), got {value}"
            )
        first, second = value
    else:
        first = second = value
    return integer(op, name, first, minimum, maximum), integer(op, name, second, minimum, maximum)


Padding = tuple[tuple[int, int], tuple[int, int]]


def padding(op: str, name: str, value: Any) -> Padding:
    """Return ``p``, ``(vertical, horizontal)`` or ``((top, bottom), (left, right))``, as the latter."""
    if isinstance(value, tuple | list) and len(value) == 2:
        vertical, horizontal = value
        if isinstance(vertical, tuple | list) or isinstance(horizontal, tuple | list):
            return pair(op, f"{name}[0]", vertical, 0), pair(op, f"{name}[1]", horizontal, 0)
    vertical, horizontal = pair(op, name, value, 0)
    return (vertical, vertical), (horizontal, horizontal)


def unmasked(where: str, name: str, value: Any) -> Any:
    """Return the value, unless it is a masked array: the numbers under a mask are not meant to be read.

    Raises
    ------
    TypeError
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{where}: {name} must be an array without a mask, got {type(value).__name__}")
    return value


def channels_first_hint(shape: Sequence[int]) -> str:
    """Return what to add to a message on a shape that looks like (n, C, H, W) or (C, H, W); "" elsewhere."""
    if len(shape) not in (3, 4) or shape[-3] not in (1, 3) or shape[-1] < 5:
        return ""
    named, axes = [("C, H, W", "1, 2, 0"), ("n, C, H, W", "0, 2, 3, 1")][len(shape) - 3]
    return f"; that looks like ({named}): use x.transpose({axes})"
