"""The compiled module ``pyconvnet._host``, and which of its levels of vector instructions runs."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...common import devices
from ...common.threads import parallel

#: What runs, and its arguments; arrays are among them, not within lists or tuples.
Call = tuple[Callable[..., None], tuple[Any, ...]]

_forced: list[str | None] = []


@functools.cache
def _asked() -> str:
    return os.environ.get("PYCONVNET_HOST", "").strip()


@functools.cache
def ext() -> Any:
    """Import the module; None where it was not built.

    Raises
    ------
    DeviceUnavailableError
        ``PYCONVNET_HOST`` is a path without one.
    """
    path = _asked() if os.sep in _asked() else None
    try:
        return devices._extension("_host", path)
    except devices.DeviceUnavailableError:
        if path:
            raise
        return None


@functools.cache
def levels() -> dict[str, int]:
    """Return the levels that this processor has and the numbers in a vector of each, the best first."""
    return {} if ext() is None else ext().levels()


@functools.cache
def _default() -> str | None:
    asked = _asked()
    if asked == "0":
        return None
    if asked and os.sep not in asked:
        known = ("avx512", "avx2", "generic")
        if asked not in known:
            raise ValueError(f"PYCONVNET_HOST must be 0, {', '.join(known)} or a path, got {asked!r}")
        if ext() is None:
            return None
        if asked not in levels():
            raise ValueError(f"PYCONVNET_HOST={asked}: this processor has only {', '.join(levels())}")
        return asked
    return next(iter(levels()), None)


def level() -> str | None:
    """Return the level whose kernels run; None: the reference does.

    Raises
    ------
    ValueError
        ``PYCONVNET_HOST`` names none, or one that the processor does not have.
    """
    return _forced[-1] if _forced else _default()


@contextlib.contextmanager
def forced(name: str | None) -> Iterator[None]:
    """Make calls inside use a level, or with None those that are prepared there the reference: for tests."""
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def suits(*arrays: np.ndarray | None) -> bool:
    """Tell whether all arrays, None aside, are what kernels read: float32, contiguous."""
    return all(a is None or (a.dtype == np.float32 and a.flags.c_contiguous) for a in arrays)


def each(task: Callable[[int], None], count: int) -> None:
    """Run task(0) … task(count - 1), each a call of a kernel, on the `cpu` device's threads."""
    if count == 1:  # at once: of a small array the rest would be most of the time
        task(0)
    else:
        parallel(task, count, blas=False)
