"""Matrix products by cuBLAS, called directly.

CuPy refuses every call of cuBLAS while a stream captures a graph, and shares one handle, and with it one
workspace, between the streams of a device. Here each stream has a handle of its own with a workspace of its
own, which is what cuBLAS asks for to be captured and to give the same bits on every run (its manual, sections
on CUDA graphs and on reproducibility). The library is the one CuPy has loaded.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from ..common.devices import Device

N, T = 0, 1  # cublasOperation_t
#: Bytes of workspace: what the manual recommends from compute capability 9.0 up; older devices want less.
WORKSPACE = 32 << 20

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_SIGNATURES = {
    "cublasCreate_v2": [ctypes.POINTER(_POINTER)],
    "cublasSetStream_v2": [_POINTER, _POINTER],
    "cublasSetWorkspace_v2": [_POINTER, _POINTER, ctypes.c_size_t],
    "cublasSgemm_v2": [
        *(_POINTER, _INT, _INT, _INT, _INT, _INT, _POINTER),
        *(_POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT),
    ],
}


@functools.cache
def library(dev: Device) -> Any:
    """Load cuBLAS, with the signatures of what is called here.

    Raises
    ------
    ImportError, OSError
        CuPy cannot load it, or it lacks a function.
    """
    from cupy.cuda import cublas  # noqa: F401  loads it, from a toolkit or from NVIDIA's wheels

    major = dev.xp.cuda.runtime.runtimeGetVersion() // 1000
    with dev.activate():
        dev.xp.cuda.device.get_cublas_handle()  # CuPy opens the library at the first use of it
    found = ctypes.CDLL(f"libcublas.so.{major}")
    for name, types in _SIGNATURES.items():
        try:
            function = getattr(found, name)
        except AttributeError as error:
            raise ImportError(f"libcublas.so.{major} has no {name}") from error
        function.argtypes, function.restype = types, _INT
    return found


def works(dev: Device) -> bool:
    """Try whether there is a cuBLAS that multiplies."""
    if dev.kind != "cuda":
        return False
    try:
        with dev.activate():
            one = dev.xp.ones((1, 1), "float32")
            out = dev.zeros((1, 1))
            sgemm(dev, out, (N, N), one, one)
            return float(out[0, 0]) == 1.0
    except (ImportError, RuntimeError, OSError):
        return False


class _Handle:
    """A cuBLAS handle bound to one stream, with its workspace."""

    def __init__(self, dev: Device, stream: int):
        self._library = library(dev)
        self.value = _POINTER()
        self._call("cublasCreate_v2", ctypes.byref(self.value))
        self._call("cublasSetStream_v2", self.value, stream)
        self._workspace = dev.empty((WORKSPACE,), "uint8")  # after the stream: that resets it
        self._call("cublasSetWorkspace_v2", self.value, self._workspace.data.ptr, WORKSPACE)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} failed with status {status}")

    def sgemm(self, *arguments: Any) -> None:
        self._call("cublasSgemm_v2", self.value, *arguments)


@functools.cache
def _handle(dev: Device, stream: int) -> _Handle:
    return _Handle(dev, stream)


_ONE, _ZERO = ctypes.c_float(1.0), ctypes.c_float(0.0)


def sgemm(dev: Device, out: Any, transposed: tuple[int, int], a: Any, b: Any) -> None:
    """Compute out = op(a) op(b) in float32 (no TF32) on the current stream, op = transpose where ``T``.

    Parameters
    ----------
    out : array (m, n); a, b : arrays (m, k) and (k, n), or their transposes
        C-contiguous, on the device.
    transposed : (N or T, N or T)

    Raises
    ------
    RuntimeError
        cuBLAS reports a failure.
    """
    m, n = out.shape
    k = a.shape[1] if transposed[0] == N else a.shape[0]
    # cuBLAS counts columns first, and sees each of our arrays transposed: out^T = op(b)^T op(a)^T.
    _handle(dev, dev.stream()).sgemm(
        transposed[1],
        transposed[0],
        n,
        m,
        k,
        ctypes.byref(_ONE),
        b.data.ptr,
        b.shape[1],
        a.data.ptr,
        a.shape[1],
        ctypes.byref(_ZERO),
        out.data.ptr,
        n,
    )
