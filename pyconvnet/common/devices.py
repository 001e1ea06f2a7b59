"""Devices: where arrays live and which compiled module runs the kernels.

========== ======= ============================================== =========================================
name       arrays  arithmetic                                     for
========== ======= ============================================== =========================================
cuda:0 ... CuPy    ``pyconvnet._cuda``: kernels/ compiled by nvcc the product
cpu        NumPy   ``pyconvnet.ops.reference``: NumPy and BLAS, and   machines without a GPU; tests' oracle
                   for float32 ``pyconvnet._host``
emulator   NumPy   ``pyconvnet._emulator``: kernels/ by g++       running and debugging kernels without a GPU
========== ======= ============================================== =========================================

The default is ``cuda:0`` where it works, else ``cpu``. A device asked for by name never falls back.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import math
import os
import re
import warnings
from typing import Any, NamedTuple

import numpy as np

_CACHE_LINE = 64


class DeviceUnavailableError(RuntimeError):
    """The device asked for does not work on this machine; the message says why."""


class Device:
    """One place where arrays live. Obtain it from :func:`get_device`.

    Attributes
    ----------
    name : str
        ``"cpu"``, ``"emulator"`` or ``"cuda:0"``, ``"cuda:1"``, ...
    kind : str
        ``"cpu"``, ``"emulator"`` or ``"cuda"``.
    index : int
        Number of the CUDA device; 0 for the others.
    xp : module
        ``numpy`` or ``cupy``.
    ext : module or None
        The compiled module; None for ``cpu``, whose operations are :mod:`pyconvnet.ops.reference` and,
        where they have a kernel, `pyconvnet.ops.host`.
    code : Code or None
        Which of the module's code a CUDA device runs; None where that is not known, and for the others.
    """

    code: Code | None = None

    def __init__(self, kind: str, index: int, xp: Any, ext: Any):
        self.kind, self.index, self.xp, self.ext = kind, index, xp, ext
        self.name = f"cuda:{index}" if kind == "cuda" else kind

    def __repr__(self) -> str:
        return f"Device({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def activate(self) -> contextlib.AbstractContextManager:
        """Make this the current device of the calling thread inside a ``with`` block."""
        return self.xp.cuda.Device(self.index) if self.kind == "cuda" else contextlib.nullcontext()

    def empty(self, shape, dtype=np.float32):
        """Return an uninitialised array on this device."""
        with self.activate():
            return self.xp.empty(shape, dtype)

    def zeros(self, shape, dtype=np.float32):
        """Return an array of zeros on this device; on a host it begins with a cache line, for vectors."""
        if self.kind == "cuda":
            with self.activate():
                return self.xp.zeros(shape, dtype)
        shape, dtype = tuple(shape) if isinstance(shape, tuple | list) else (shape,), np.dtype(dtype)
        raw = np.zeros(math.prod(shape) * dtype.itemsize + _CACHE_LINE - 1, np.uint8)
        return raw[-raw.ctypes.data % _CACHE_LINE :][: raw.size - _CACHE_LINE + 1].view(dtype).reshape(shape)

    def asarray(self, array, dtype=None):
        """Return a NumPy array on this device: itself on the host, a copy on a GPU."""
        with self.activate():
            return self.xp.asarray(array, dtype=dtype)

    def to_numpy(self, array) -> np.ndarray:
        """Return an array of this device on the host; wait for the work that makes it."""
        if self.kind != "cuda":
            return np.asarray(array)
        with self.activate():
            return self.xp.asnumpy(array)

    def stream(self) -> int:
        """Return the caller's current CUDA stream as an integer; 0 on the host."""
        if self.kind != "cuda":
            return 0
        return self.xp.cuda.get_current_stream(self.index).ptr

    def free_bytes(self) -> int | None:
        """Return the bytes of memory that are to be had: on a GPU what is free and what CuPy's pool keeps, on
        the host what Linux estimates, None where nobody tells.
        """
        if self.kind == "cuda":
            with self.activate():
                pooled = self.xp.get_default_memory_pool().free_bytes()
                return self.xp.cuda.runtime.memGetInfo()[0] + pooled
        try:
            with open("/proc/meminfo", encoding="ascii") as told:
                found = re.search(r"^MemAvailable: +(\d+) kB$", told.read(), re.MULTILINE)
        except OSError:
            return None
        return found and 1024 * int(found[1])

    def synchronize(self) -> None:
        """Wait for the work of the current stream."""
        if self.kind == "cuda":
            with self.activate():
                self.xp.cuda.get_current_stream().synchronize()


@functools.cache
def cpu() -> Device:
    """Return the device whose operations are NumPy and BLAS."""
    return Device("cpu", 0, np, None)


@functools.cache
def emulator() -> Device:
    """Return the device that runs the CUDA kernels on the CPU.

    Raises
    ------
    DeviceUnavailableError
        The compiled module is missing, or was compiled for a newer processor than this one.
    """
    return Device("emulator", 0, np, _extension("_emulator", os.environ.get("PYCONVNET_EMULATOR")))


@functools.cache
def cuda(index: int = 0) -> Device:
    """Return a CUDA device.

    Raises
    ------
    DeviceUnavailableError
        No such device, no driver, CuPy missing, the compiled module missing or without code for the device.

    Warns
    -----
    RuntimeWarning
        The module's code for this device is too old for its tensor cores.
    """
    ext = _extension("_cuda", os.environ.get("PYCONVNET_CUDA"))
    count, reason = ext.device_count()
    if count == 0:
        raise DeviceUnavailableError(f"cuda:{index} is not available: {reason or 'no CUDA device'}")
    if index >= count:
        raise DeviceUnavailableError(f"cuda:{index} is not available: this machine has {count} of them")
    try:
        import cupy
    except ImportError as error:
        raise DeviceUnavailableError(
            f"cuda:{index} is not available: CuPy cannot be imported ({error}); "
            "install it with: pip install cupy-cuda13x"
        ) from None
    device = Device("cuda", index, cupy, ext)
    device.code = _code_of(ext, int(cupy.cuda.Device(index).compute_capability), device.name)
    return device


class Code(NamedTuple):
    """What a device runs of a compiled module."""

    kind: str  #: "machine code", or "PTX", which the driver compiles
    version: int  #: compute capability that it was compiled for, 10 * major + minor

    def __str__(self) -> str:
        return f"{self.kind} for {_dotted(self.version)}"


def code_for(architectures: str, capability: int) -> Code | None:
    """Tell which of a module's code a device runs, by CUDA's rules of compatibility.

    Machine code serves devices of the same major version and the same or a higher minor one (Jetsons only
    their own), and comes first; PTX serves every newer device. Code for ``90a`` serves 9.0 alone, for
    ``100f`` the devices of its family.

    Parameters
    ----------
    architectures : str
        As CMake lists them: ``"75-virtual 80-real 90"``; a number alone is both.
    capability : int
        Of the device, 10 * major + minor.

    Returns
    -------
    Code, or None where there is nothing for it

    Raises
    ------
    ValueError
        A list that does not say: ``native``, ``all``, ``all-major``.
    """
    fitting = []
    for name in architectures.split():
        match = re.fullmatch(r"(\d{2,3})([af]?)(-real|-virtual)?", name)
        if match is None:
            raise ValueError(f"architectures must be numbers like 80, 90a-real or 75-virtual, got {name!r}")
        version, suffix, kind = int(match[1]), match[2], match[3]
        older = version == capability if suffix == "a" else version <= capability
        family = version // 10 == capability // 10
        if kind != "-virtual" and older and family and (version == capability or capability not in _JETSONS):
            fitting.append((True, version))
        if kind != "-real" and older and (family or not suffix):
            fitting.append((False, version))
    if not fitting:
        return None
    machine, version = max(fitting)
    return Code("machine code" if machine else "PTX", version)


def _code_of(device_ext: Any, capability: int, name: str) -> Code | None:
    """Return the code that a CUDA device runs; None where the module's list of architectures does not tell.

    Raises
    ------
    DeviceUnavailableError
        There is none.
    """
    held = device_ext.architectures
    try:
        code = code_for(held, capability)
    except ValueError:
        return None
    again = f'CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES={capability}" pip install .'
    card = f"compute capability {_dotted(capability)}"
    if code is None:
        raise DeviceUnavailableError(
            f"{name} is not available: it has {card}, pyconvnet._cuda holds code for {held}; "
            f"build it with: {again}"
        )
    if code.version < _TENSOR_CORES <= capability:
        warnings.warn(
            f"{name} has {card}, but pyconvnet._cuda holds only {code} for it: its tensor cores stay idle. "
            f"Build it with: {again}",
            RuntimeWarning,
            stacklevel=4,
        )
    return code


_TENSOR_CORES = 80  # kernels/common/primitives.h: kTensorCoresSince
_JETSONS = (87,)  # of one major version with desktop cards, whose machine code they do not run


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def get_device(device: str | Device | None = None) -> Device:
    """Return the device of a name.

    Parameters
    ----------
    device : str, Device or None
        ``"cpu"``, ``"emulator"``, ``"cuda"`` (= ``"cuda:0"``), ``"cuda:N"``; None: ``cuda:0`` where it works,
        else ``cpu``.

    Raises
    ------
    ValueError
        Not a device name.
    TypeError
        Neither a string nor a Device.
    DeviceUnavailableError
        The named device does not work on this machine.
    """
    if isinstance(device, Device):
        return device
    if device is None:
        try:
            return cuda(0)
        except DeviceUnavailableError:
            return cpu()
    if not isinstance(device, str):
        raise TypeError(f"device must be a string such as 'cpu' or 'cuda:0', got {type(device).__name__}")
    if device == "cpu":
        return cpu()
    if device == "emulator":
        return emulator()
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", device)
    if match:
        return cuda(int(match[1] or 0))
    raise ValueError(f"device must be 'cpu', 'emulator', 'cuda' or 'cuda:N', got {device!r}")


def available_devices() -> list[tuple[str, str | None]]:
    """Return every device with the reason why it does not work, or None where it does.

    Returns
    -------
    list of (name, reason)
        ``cuda:0`` stands for all CUDA devices where there are none.
    """
    result: list[tuple[str, str | None]] = []
    try:
        count = _extension("_cuda", os.environ.get("PYCONVNET_CUDA")).device_count()[0]
    except DeviceUnavailableError:
        count = 0
    probes = [(f"cuda:{i}", functools.partial(cuda, i)) for i in range(max(1, count))]
    for name, probe in [*probes, ("cpu", cpu), ("emulator", emulator)]:
        try:
            probe()
            result.append((name, None))
        except DeviceUnavailableError as error:
            result.append((name, str(error)))
    return result


def peer_access(a: Device, b: Device) -> bool | str:
    """Tell whether device `a` can read and write the memory of `b` without going through the host.

    Returns
    -------
    True, or why not
        True for a device and itself. ``PYCONVNET_PEER=0`` turns it off between devices, for machines whose
        driver promises more than the hardware keeps.
    """
    if a == b:
        return True
    for device in (a, b):
        if device.kind != "cuda":
            return f"{device.name} is not a CUDA device"
    if os.environ.get("PYCONVNET_PEER") == "0":
        return "PYCONVNET_PEER=0 is set"
    if a.xp.cuda.runtime.deviceCanAccessPeer(a.index, b.index):
        return True
    return f"the driver offers none from {a.name} to {b.name}"


def enable_peer_access(a: Device, b: Device) -> bool | str:
    """Make copies and kernels of `a` reach the memory of `b` directly; True, or why that cannot be.

    Copies between CUDA devices work without it too, but then CUDA takes them through the host.
    """
    able = peer_access(a, b)
    if able is not True or a == b:
        return able
    runtime = a.xp.cuda.runtime
    try:
        with a.activate():
            runtime.deviceEnablePeerAccess(b.index)
    except runtime.CUDARuntimeError as error:
        if error.status != _PEER_ACCESS_ALREADY_ENABLED:
            return f"enabling it failed: {error}"
    return True


_PEER_ACCESS_ALREADY_ENABLED = 704  # cudaErrorPeerAccessAlreadyEnabled


def peer_matrix() -> dict[str, dict[str, bool | str]]:
    """Return each working CUDA device's :func:`peer_access` to the others: ``matrix["cuda:0"]["cuda:1"]``."""
    names = [name for name, reason in available_devices() if reason is None]
    found = [device for device in map(get_device, names) if device.kind == "cuda"]
    return {a.name: {b.name: peer_access(a, b) for b in found if b != a} for a in found}


@functools.cache
def _extension(name: str, path: str | None):
    """Import a compiled module, from `path` where one is given (a sanitized build, say)."""
    try:
        if not path:
            return importlib.import_module(f"pyconvnet.{name}")
        loader = importlib.machinery.ExtensionFileLoader(f"pyconvnet.{name}", path)
        spec = importlib.util.spec_from_loader(loader.name, loader)
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module
    except ImportError as error:
        if "ISA level" in str(error):  # glibc's words; kernels/emulation/flavours.cmake has the module marked
            raise DeviceUnavailableError(
                f"pyconvnet.{name} was compiled for a newer processor than this machine's ({error}); build "
                "it here with: pip install . or, to run everywhere, with: "
                "CMAKE_ARGS=-DPYCONVNET_EMULATOR_MARCH=x86-64 pip install ."
            ) from None
        if name == "_cuda" and not path and importlib.util.find_spec("pyconvnet._emulator"):
            raise DeviceUnavailableError(
                "pyconvnet was built without its CUDA module, as on a machine with neither nvcc nor a GPU "
                f"({error}); build it, too, with: CMAKE_ARGS=-DPYCONVNET_CUDA=ON pip install ."
            ) from None
        raise DeviceUnavailableError(
            f"pyconvnet.{name} cannot be imported ({error}); build it with: pip install . "
            "(and run Python from another folder than the source tree, or use pip install -e .)"
        ) from None
