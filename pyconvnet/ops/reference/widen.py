"""bfloat16 arrays for functions that know float32: widened before the call, the result rounded once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...common.precision import BFLOAT16


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == BFLOAT16


def widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a float32 `function` take bfloat16 arrays too: it sees them converted to float32, and what it
    leaves in ``out`` (an array or several) is rounded to nearest, ties to even. An ``out`` that is also an
    argument stays that.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        outs = tuple(out) if isinstance(out, list | tuple) else (out,)
        lists = [v for v in (*args, *kwargs.values()) if isinstance(v, list | tuple)]
        if not any(map(_is_bfloat16, [*args, *kwargs.values(), *outs, *(v for seq in lists for v in seq)])):
            return function(*args, out=out, **kwargs)
        wide: dict[int, np.ndarray] = {}

        def widen(value: Any) -> Any:
            if _is_bfloat16(value):
                return wide.setdefault(id(value), value.astype(np.float32))
            if isinstance(value, list | tuple):
                return type(value)(widen(v) for v in value)
            return value

        wide_out = widen(out)
        result = function(*widen(args), out=wide_out, **{name: widen(v) for name, v in kwargs.items()})
        wide_outs = wide_out if isinstance(out, list | tuple) else (wide_out,)
        for narrow, value in zip(outs, wide_outs, strict=True):
            if _is_bfloat16(narrow):
                narrow[...] = value.astype(BFLOAT16)
        return result if out is None else out

    return wrapper
