"""A CUDA device whose kernels are nvcc's own PTX, run by the executor in ``tests/ptx``.

``fake_cuda``'s machine, but its memory comes from the stand-in for CUDA's runtime, in its exact extents, and
a launch goes through the unmodified ``pyconvnet._cuda`` (bindings, tables, launchers), which is linked with
that runtime. What a kernel does wrong raises :class:`CUDARuntimeError` where the work is done.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.fakes import fake_cublas
from support.fakes.fake_array import FakeArray
from support.fakes.fake_cuda import FakeExtension, FakeRuntime, Machine
from support.fakes.fake_order import CUDARuntimeError, Memory, Work

from pyconvnet.common import devices

_P, _N = ctypes.c_void_p, ctypes.c_size_t
_ARGUMENTS = {
    "cudaMalloc": [ctypes.POINTER(_P), _N],
    "cudaStreamCreateWithFlags": [ctypes.POINTER(_P), ctypes.c_uint],
    "cudaDeviceSynchronize": [],
    "stand_in_configure": [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_int],
    "stand_in_explanation": [],
    "stand_in_reset": [],
    "stand_in_mark": [_P, _N, ctypes.c_int],
    "stand_in_initialised": [_P, _N],
    "stand_in_counts": [_P],
    "stand_in_kernels": [],
}
STAND_IN = "stand-in for CUDA, no GPU: PTX run on the CPU"  #: the device's name
_import = devices._extension  # as it is before a machine takes its place
ROWS: set[str] = set()  #: of the tables, that ran to their end in this process


class Counts(NamedTuple):
    """What the executor has run in this process."""

    launches: int
    blocks: int
    warp_instructions: int
    lane_instructions: int


class Runtime:
    """The library that takes the place of ``libcudart.so.13``.

    Loaded before ``_cuda``, which asks for that name and is then given this one.
    """

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        for name, types in _ARGUMENTS.items():
            function = getattr(self._library, name)
            function.argtypes = types
        for name in ("stand_in_explanation", "stand_in_kernels"):
            getattr(self._library, name).restype = ctypes.c_char_p

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._library, name)(*args)
        if status != 0:
            raise CUDARuntimeError(status, self.explanation())

    def explanation(self) -> str:
        """The newest error in words."""
        return self._library.stand_in_explanation().decode()

    def malloc(self, nbytes: int) -> int:
        """Address of uninitialised memory of exactly that size."""
        pointer = _P()
        self._call("cudaMalloc", ctypes.byref(pointer), nbytes)
        return pointer.value

    def stream(self) -> int:
        """Handle of a new stream."""
        handle = _P()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(handle), 0)
        return handle.value

    def synchronize(self) -> None:
        """Raise what a kernel has done wrong."""
        self._call("cudaDeviceSynchronize")

    def reset(self) -> None:
        """Forget a kernel's fault, after which a card's context would be lost."""
        self._library.stand_in_reset()

    def mark(self, pointer: int, nbytes: int, written: bool) -> None:
        """Say whether bytes are initialised that were written, or lent again, without the runtime."""
        self._library.stand_in_mark(pointer, nbytes, int(written))

    def initialised(self, pointer: int, nbytes: int) -> bool:
        """Whether all those bytes have been written."""
        return bool(self._library.stand_in_initialised(pointer, nbytes))

    def configure(self, order: str = "forward", async_: str = "late", seed: int = 1, threads: int = 1):
        """Set the order of warps (forward, reverse, random) and when asynchronous copies land (late, early,
        random) of the following launches, and the threads over which blocks are spread.
        """
        if not self._library.stand_in_configure(order.encode(), async_.encode(), seed, threads):
            raise ValueError(f"the executor has no order {order!r} or no async_ {async_!r}")

    def kernels(self) -> set[str]:
        """The mangled names of the kernels that ran."""
        return set(self._library.stand_in_kernels().decode().split())

    def counts(self) -> Counts:
        """What has been run."""
        found = (ctypes.c_uint64 * len(Counts._fields))()
        self._library.stand_in_counts(found)
        return Counts(*found)


class PtxMachine(Machine):
    """One device, ``cuda:0``.

    Parameters
    ----------
    runtime : Runtime
    ext : module
        ``pyconvnet._cuda``, linked with the shared runtime.
    seed : int or None
        Draws the order of what is not ordered; None: everything is done at once.
    """

    def __init__(self, runtime: Runtime, ext: Any, seed: int | None = None):
        self.runtime = runtime
        super().__init__(1, seed=seed or 0)
        self.ext = _Extension(self, ext)
        self.xp.cuda.runtime = _Properties(self)
        if seed is None:
            self.patient = 1.0

    def new_stream(self) -> int:
        return self.runtime.stream()

    def _size_lent(self, nbytes: int) -> int:
        return nbytes  # the executor knows the extents: not one byte beyond them

    def _memory(self, device: int | None, size: int) -> np.ndarray:
        if device is None:
            return super()._memory(device, size)
        made = (ctypes.c_uint8 * size).from_address(self.runtime.malloc(size))
        return np.ctypeslib.as_array(made)

    def allocate(self, device: int | None, nbytes: int, name: str, arena: Any = None) -> Memory:
        memory = super().allocate(device, nbytes, name, arena)
        pointer, size = memory.bytes.ctypes.data, memory.bytes.nbytes
        if (
            device is not None and self.allocations[pointer].life
        ):  # lent again: its turn is in the stream's order
            self.enqueue(arena or 0, "lend", _Lend(self.runtime, pointer, size))
        return memory

    def enqueue(
        self, pointer: int, name: str, run: Callable[[], None] | None = None, touches: tuple = (),
        after: Work | None = None,
    ) -> Work:  # fmt: skip
        if run is not None and touches and not isinstance(run, _Kernel):
            run = self._noting(run, touches)
        return super().enqueue(pointer, name, run, touches, after)

    def _noting(self, run: Callable[[], None], touches: tuple) -> Callable[[], None]:
        """Work of the host, copies and the like: what it makes is as initialised as what it reads."""
        spans = [(m.start + a, b - a, writes) for m, a, b, writes in touches if m.device is not None]

        def noted() -> None:
            run()
            whole = all(self.runtime.initialised(p, n) for p, n, writes in spans if not writes)
            for p, n, writes in spans:
                if writes:
                    self.runtime.mark(p, n, whole)

        return noted

    def install(self, monkeypatch: Any) -> PtxMachine:
        """Make ``cuda:0`` mean this machine's device, found as a card is found."""
        super().install(monkeypatch)
        monkeypatch.setitem(sys.modules, "cupy", self.xp)
        fake_cublas.use(self, monkeypatch.setattr)
        return self

    def _cuda(self) -> Callable[[int], devices.Device]:
        return functools.cache(devices.cuda.__wrapped__)


class _Properties(FakeRuntime):
    """What may be read in results: that this is no card."""

    def getDeviceProperties(self, index: int) -> dict[str, Any]:
        return {"name": STAND_IN.encode()}


class _Lend:
    def __init__(self, runtime: Runtime, pointer: int, nbytes: int):
        self._arguments = runtime, pointer, nbytes

    def __call__(self) -> None:
        runtime, pointer, nbytes = self._arguments
        runtime.mark(pointer, nbytes, False)


class _Kernel:
    """A launch: the module's function with the arguments exactly as the operation passes them."""

    def __init__(self, runtime: Runtime, function: Callable, args: tuple):
        self._runtime, self._function, self._args = runtime, function, args

    def __call__(self) -> None:
        self._function(*self._args)
        self._runtime.synchronize()
        ROWS.add(self._args[0])


class _Extension(FakeExtension):
    """``pyconvnet._cuda`` on the stand-in runtime."""

    def __init__(self, machine: PtxMachine, ext: Any):
        super().__init__(machine)
        self.module = ext
        self.architectures = ext.architectures
        self.runtime_version = ext.runtime_version
        self.device_count = ext.device_count
        self.families = ext.families

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.module, name)
        if isinstance(function, type) or name.endswith(("_kernels", "_costs", "_shared", "_table")):
            return function
        return lambda *args: self._launch(name, getattr(self._ext, name), args)

    def _work(self, name: str, args: tuple, plain: list) -> Callable[[], None]:
        held = tuple(_Held(a) if isinstance(a, FakeArray) else a for a in args)
        return _Kernel(self._machine.runtime, getattr(self.module, name), held)


class _Held:
    """An array as the module sees it, without its memory, which work that is enqueued does not keep."""

    def __init__(self, array: FakeArray):
        self.__cuda_array_interface__ = array.__cuda_array_interface__
        self.dtype = array.dtype


def library(folder: Path) -> Path:
    """The stand-in runtime in a build folder of tests/ptx/runtime."""
    return folder / "libcudart.so.13"


@functools.cache
def load(folder: Path) -> tuple[Runtime, Any]:
    """The stand-in runtime and ``_cuda`` of a build folder of tests/ptx/runtime."""
    runtime = Runtime(library(folder))
    (module,) = folder.glob("**/_cuda.*.so")
    return runtime, _import("_cuda", str(module))


def from_environment() -> PtxMachine | None:
    """A machine where ``PYCONVNET_PTX`` names a build folder."""
    folder = os.environ.get("PYCONVNET_PTX")
    if not folder:
        return None
    runtime, ext = load(Path(folder))
    runtime.configure()
    return PtxMachine(runtime, ext)


def install_from_environment() -> PtxMachine | None:
    """Make ``cuda:0`` the stand-in's device where ``PYCONVNET_PTX`` names a build folder."""
    machine = from_environment()
    return machine and machine.install(pytest.MonkeyPatch())  # never undone
