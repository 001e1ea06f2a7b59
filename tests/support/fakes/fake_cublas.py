"""cuBLAS for ``fake_ptx``: what ``pyconvnet.ops.cublas`` calls of it, on the machine's memory, by NumPy.

A product is work of the handle's stream like any other: done in its turn, recorded in a graph, checked for
races.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from pyconvnet.ops import cublas

SUCCESS, NOT_INITIALISED, INVALID_VALUE = 0, 1, 7  # cublasStatus_t


class FakeCublas:
    """``libcublas.so``, opened by ctypes."""

    def __init__(self, machine: Any):
        self._machine = machine
        self._streams: list[int] = []  # of the handles, which count from 1

    def cublasCreate_v2(self, handle: Any) -> int:
        self._streams.append(0)
        handle._obj.value = len(self._streams)
        return SUCCESS

    def cublasSetStream_v2(self, handle: Any, stream: int) -> int:
        self._streams[handle.value - 1] = stream
        return SUCCESS

    def cublasSetWorkspace_v2(self, handle: Any, workspace: int, nbytes: int) -> int:
        self._machine.touch(workspace, nbytes, True)
        return SUCCESS if workspace % 256 == 0 else INVALID_VALUE

    def cublasSgemm_v2(
        self, handle: Any, ta: int, tb: int, m: int, n: int, k: int, alpha: Any,
        a: int, lda: int, b: int, ldb: int, beta: Any, c: int, ldc: int,
    ) -> int:  # fmt: skip
        """C = alpha op(A) op(B) + beta C, columns first."""
        if not handle.value:
            return NOT_INITIALISED
        if lda < (k if ta else m) or ldb < (n if tb else k) or ldc < m:
            return INVALID_VALUE
        first, first_touch = self._matrix(a, *((k, m) if ta else (m, k)), lda, False)
        second, second_touch = self._matrix(b, *((n, k) if tb else (k, n)), ldb, False)
        out, touch = self._matrix(c, m, n, ldc, True)
        first, second = first.T if ta else first, second.T if tb else second
        scale, keep = np.float32(alpha._obj.value), np.float32(beta._obj.value)

        def multiply() -> None:
            product = scale * (first @ second)
            out[...] = product if keep == 0 else product + keep * out

        touches = (first_touch, second_touch, touch)
        self._machine.enqueue(self._streams[handle.value - 1], "cublasSgemm_v2", multiply, touches)
        return SUCCESS

    def _matrix(self, pointer: int, rows: int, columns: int, stride: int, writes: bool) -> tuple[Any, tuple]:
        """A matrix whose columns lie `stride` elements apart, and what is touched."""
        touch = self._machine.touch(pointer, 4 * (stride * (columns - 1) + rows), writes)
        memory, first, last, _ = touch
        floats = memory.bytes[first:last].view(np.float32)
        return np.lib.stride_tricks.as_strided(floats, (rows, columns), (4, 4 * stride)), touch


def use(machine: Any, replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Make ``pyconvnet.ops.cublas`` open the machine's cuBLAS, and forget what it had opened."""
    found = FakeCublas(machine)
    replace(cublas, "library", lambda dev: found)
    replace(cublas, "_handle", functools.cache(cublas._handle.__wrapped__))
    linear = importlib.import_module("pyconvnet.ops.linear")  # the name is also a function's
    replace(linear, "_cublas_works", functools.cache(cublas.works))
