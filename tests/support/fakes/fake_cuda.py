"""A machine with CUDA devices that are not there: CuPy's interface, the emulator's kernels, CUDA's order.

``Machine(count)`` stands in for CuPy and for the compiled module, so that the very code that drives GPUs runs
without one. Arrays lie in NumPy's memory. Whatever CUDA would do later (kernels, copies, events, graphs) is
only noted, and done as ``fake_order`` says.

Beyond wrong bits, two accesses to one memory, one of them writing, that nothing orders raise :class:`Race` in
any run. What CUDA forbids raises :class:`CUDARuntimeError` as it does there. Freed memory must not be in a
graph that is launched. Not modelled: time, and what a kernel does wrong inside.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from support.fakes.fake_array import FakeArray
from support.fakes.fake_order import (
    CAPTURED_EVENT,
    ISOLATION,
    Capture,
    CUDARuntimeError,
    FakePinned,
    Order,
    Race,
    StreamState,
    Work,
)  # fmt: skip

from pyconvnet.common import devices
from pyconvnet.ops import arrays as _arrays

__all__ = ["CUDARuntimeError", "FakeArray", "Machine", "Race", "on_device"]


class Machine(Order):
    """The devices and the ``cupy`` and ``_cuda`` made of them.

    Parameters
    ----------
    count : int
        Devices.
    peer : bool
        Whether they reach each other's memory.
    seed : int
        Draws the order of what is not ordered.

    Attributes
    ----------
    xp, ext : stand-ins for the modules ``cupy`` and ``pyconvnet._cuda``
    enabled : set of (int, int)
        Between which devices peer access has been enabled.
    free : int
        Bytes that the runtime says are free on each device.
    """

    def __init__(self, count: int = 1, peer: bool = True, seed: int = 0):
        super().__init__(count, seed)
        self.count, self.peer, self.free = count, peer, 80 << 30
        self.enabled: set[tuple[int, int]] = set()
        self.xp = FakeCupy(self)
        self.ext = FakeExtension(self)
        self._devices = [devices.Device("cuda", i, self.xp, self.ext) for i in range(count)]

    def new_stream(self) -> int:
        """The handle of a stream that is not there yet."""
        return 1000 + len(self.streams)

    def device(self, index: int = 0) -> devices.Device:
        if index >= self.count:
            raise devices.DeviceUnavailableError(f"cuda:{index} is not available: there are {self.count}")
        return self._devices[index]

    def install(self, monkeypatch: Any) -> Machine:
        """Make ``cuda:0``, ``cuda:1`` ... mean this machine's devices."""
        find, cuda = devices._extension, self._cuda()
        extension = lambda name, path: self.ext if name == "_cuda" else find(name, path)  # noqa: E731
        monkeypatch.setattr(devices, "_extension", extension)
        monkeypatch.setattr(devices, "cuda", cuda)
        monkeypatch.setattr(_arrays, "cuda", cuda)
        linear = importlib.import_module("pyconvnet.ops.linear")  # the name is also a function's
        monkeypatch.setattr(linear, "_cublas_works", lambda dev: False)
        return self

    def _cuda(self) -> Callable[[int], devices.Device]:
        """What ``devices.cuda`` is to be."""
        return self.device


class FakeExtension:
    """The compiled module: launches are enqueued, and done by the emulator."""

    _writes: ClassVar[dict[tuple[str, int], bool]] = {}  # by function and position

    def __init__(self, machine: Machine):
        self._machine = machine

    @functools.cached_property
    def _ext(self) -> Any:
        return devices.emulator().ext

    def device_count(self) -> tuple[int, str]:
        return self._machine.count, ""

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._ext, name)
        if (
            isinstance(function, type)
            or name.endswith(("_kernels", "_costs", "_shared", "_table"))
            or not callable(function)
        ):
            return function
        return lambda *args: self._launch(name, function, args)

    def _launch(self, name: str, function: Callable, args: tuple) -> None:
        m, pointer = self._machine, args[-1]
        if m.state(pointer).device != m.current:
            raise CUDARuntimeError(400, f"{name}: the stream is not of the current device")
        for array in (a for a in args if isinstance(a, FakeArray)):
            if array.device.id != m.current:
                raise ValueError(
                    f"{name}: array on device cuda:{array.device.id}, the current one is cuda:{m.current}"
                )
        plain = [a._host if isinstance(a, FakeArray) else a for a in args[:-1]] + [0]
        touches = [
            m.touch(a.data.ptr, a.nbytes, self._is_written(name, function, plain, i))
            for i, a in enumerate(args)
            if isinstance(a, FakeArray)
        ]
        m.enqueue(pointer, args[0], self._work(name, args, plain), tuple(touches))

    def _work(self, name: str, args: tuple, plain: list) -> Callable[[], None]:
        """What a launch does when its turn has come; `plain`: the arguments with arrays as NumPy's."""
        return lambda: getattr(self._ext, name)(*plain)

    def _is_written(self, name: str, function: Callable, args: list, position: int) -> bool:
        """Whether the module insists on writing an argument: found out with copies."""
        if (name, position) not in self._writes:
            copies = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
            copies[position].flags.writeable = False
            try:
                function(*copies)
                self._writes[name, position] = False
            except ValueError as error:
                if "writable" not in str(error):
                    raise
                self._writes[name, position] = True
        return self._writes[name, position]


class FakeStream:
    """``cupy.cuda.Stream``."""

    null: FakeStream

    def __init__(self, machine: Machine, null: bool = False, non_blocking: bool = False):
        self._machine = machine
        self.ptr, self.device_id = 0, -1
        if not null:
            self.ptr, self.device_id = machine.new_stream(), machine.current
            machine.streams[self.ptr] = state = StreamState(machine.current, not non_blocking)
            state.priority = machine.random.random()

    def __enter__(self) -> FakeStream:
        m, stacks = self._machine, self._machine.xp.cuda.stacks
        if self.device_id not in (-1, m.current):
            raise RuntimeError("the stream's device is not the current device")
        stacks[m.current].append(self)
        m.xp.cuda.entered.append(m.current)
        return self

    def __exit__(self, *_: Any) -> None:
        cuda = self._machine.xp.cuda
        cuda.stacks[cuda.entered.pop()].pop()

    def synchronize(self) -> None:
        m, state = self._machine, self._machine.state(self.ptr)
        if state.capture is not None:
            m.refuse_during_capture("synchronize")
        work = m.enqueue(self.ptr, "host waits") if self.ptr == 0 else state.last
        m.wait(work, f"stream of device {state.device}")

    def record(self, event: FakeEvent) -> FakeEvent:
        event.record(self)
        return event

    def wait_event(self, event: FakeEvent) -> None:
        m, state = self._machine, self._machine.state(self.ptr)
        work, capture = event.work, event.capture
        if work is None:
            return
        if state.capture is not None and capture is not state.capture:
            state.capture.broken = True
            raise CUDARuntimeError(ISOLATION, "dependency created on uncaptured work in another stream")
        if capture is not None and capture.ended:
            raise CUDARuntimeError(CAPTURED_EVENT, "event was last recorded in a capturing stream")
        if capture is not None:
            assert self.ptr != 0, "the legacy stream cannot join a capture"
            state.capture = capture
            state.tails = [*state.tails, work]
            return
        m.enqueue(self.ptr, "wait for event", after=work)

    def begin_capture(self, mode: int | None = None) -> None:
        self._machine.begin(self.ptr)

    def end_capture(self) -> FakeGraph:
        return FakeGraph(self._machine, self._machine.end(self.ptr))

    def is_capturing(self) -> bool:
        return self._machine.state(self.ptr).capture is not None


class FakeEvent:
    """``cupy.cuda.Event``."""

    def __init__(self, machine: Machine, block: bool = False, disable_timing: bool = False):
        self._machine, self._device, self.timed = machine, machine.current, not disable_timing
        self.work: Work | None = None
        self.capture: Capture | None = None
        self.seconds: float | None = None  # of the host's clock, when its turn came

    def record(self, stream: FakeStream | None = None) -> None:
        m = self._machine
        stream = stream or m.xp.cuda.get_current_stream()
        if m.state(stream.ptr).device != self._device:
            raise CUDARuntimeError(400, "invalid resource handle: the event is of another device")
        self.seconds = None
        self.work = m.enqueue(stream.ptr, "event", self._happen if self.timed else None)
        self.capture = m.state(stream.ptr).capture

    def _happen(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        if self.capture is not None:
            self._machine.refuse_during_capture("synchronize with an event")
        self._machine.wait(self.work, "event")


class FakeGraph:
    """``cupy.cuda.Graph``."""

    def __init__(self, machine: Machine, nodes: list[Work]):
        self._machine, self.nodes, self.last = machine, nodes, None

    def launch(self, stream: FakeStream | None = None) -> None:
        stream = stream or self._machine.xp.cuda.get_current_stream()
        self._machine.launch(self, stream.ptr)


class FakeRuntime:
    """``cupy.cuda.runtime``."""

    CUDARuntimeError = CUDARuntimeError
    cudaDevAttrMultiProcessorCount, cudaDevAttrL2CacheSize = 16, 38
    memcpyHostToDevice, memcpyDeviceToHost, memcpyDeviceToDevice, memcpyDefault = 1, 2, 3, 4

    def __init__(self, machine: Machine):
        self._machine = machine

    def getDeviceProperties(self, index: int) -> dict[str, Any]:
        return {"name": b"not a GPU"}

    def deviceGetAttribute(self, attribute: int, index: int) -> int:
        return {self.cudaDevAttrMultiProcessorCount: 1, self.cudaDevAttrL2CacheSize: 0}[attribute]

    def memGetInfo(self) -> tuple[int, int]:
        return self._machine.free, 2 * self._machine.free

    def runtimeGetVersion(self) -> int:
        return 0

    driverGetVersion = runtimeGetVersion

    def deviceCanAccessPeer(self, a: int, b: int) -> int:
        return int(self._machine.peer and a != b)

    def deviceEnablePeerAccess(self, peer: int) -> None:
        pair = (self._machine.current, peer)
        if not self.deviceCanAccessPeer(*pair):
            raise CUDARuntimeError(217, "peer access is not supported between these two devices")
        if pair in self._machine.enabled:
            raise CUDARuntimeError(704, "peer access is already enabled")
        self._machine.enabled.add(pair)

    def memcpyAsync(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        m = self._machine
        writes, reads = m.touch(target, nbytes, True), m.touch(source, nbytes, False)
        a, b = reads[0].device, writes[0].device
        if None not in (a, b) and a != b:
            assert (a, b) in m.enabled, (
                "a copy between devices without peer access takes its way through the host"
            )
        into, out = writes[0].bytes[slice(*writes[1:3])], reads[0].bytes[slice(*reads[1:3])]
        name = f"copy {'host' if a is None else a} -> {'host' if b is None else b}"
        m.enqueue(stream, name, lambda: np.copyto(into, out), (writes, reads))


class FakeDevice:
    """``cupy.cuda.Device``: current inside a ``with`` block."""

    compute_capability = "90"

    def __init__(self, machine: Machine, index: int):
        self._machine, self._index = machine, index
        self._before: list[int] = []

    def __enter__(self) -> FakeDevice:
        self._before.append(self._machine.current)
        self._machine.current = self._index
        return self

    def __exit__(self, *_: Any) -> None:
        self._machine.current = self._before.pop()


class FakeCuda:
    """``cupy.cuda``."""

    def __init__(self, machine: Machine):
        self._machine = machine
        self.runtime = FakeRuntime(machine)
        self.null = FakeStream(machine, null=True)
        self.stacks: list[list[FakeStream]] = [[self.null] for _ in range(machine.count)]
        self.entered: list[int] = []
        self.allocator: Callable[[int], Any] | None = None

    def Stream(self, null: bool = False, non_blocking: bool = False) -> FakeStream:
        return FakeStream(self._machine, null, non_blocking)

    def Event(self, block: bool = False, disable_timing: bool = False) -> FakeEvent:
        return FakeEvent(self._machine, block, disable_timing)

    def Device(self, index: int) -> FakeDevice:
        return FakeDevice(self._machine, index)

    def set_allocator(self, allocator: Callable[[int], Any] | None = None) -> None:
        """None: memory is taken from the runtime at each allocation. Here it always has its exact extent."""
        assert allocator is None, "as the code under test has it"

    def get_elapsed_time(self, first: FakeEvent, last: FakeEvent) -> float:
        """Milliseconds of the host's clock: of the stand-in's work, not of a card's."""
        if not (first.timed and last.timed and first.work and last.work):
            raise CUDARuntimeError(400, "invalid resource handle: an event without a time, or not recorded")
        if first.seconds is None or last.seconds is None:
            raise CUDARuntimeError(600, "device not ready: an event has not happened yet")
        return 1e3 * (last.seconds - first.seconds)

    @contextlib.contextmanager
    def using_allocator(self, allocator: Callable[[int], Any]) -> Any:
        before, self.allocator = self.allocator, allocator
        try:
            yield
        finally:
            self.allocator = before

    def get_current_stream(self, device_id: int = -1) -> FakeStream:
        return self.stacks[self._machine.current if device_id == -1 else device_id][-1]

    def alloc_pinned_memory(self, nbytes: int) -> FakePinned:
        self._machine.refuse_during_capture("alloc_pinned_memory")
        size = 1 << max(9, (nbytes - 1).bit_length())
        memory = self._machine.allocate(None, size, f"{nbytes} pinned bytes")
        pinned = memory.bytes.view(FakePinned)
        pinned.memory = memory
        return pinned


class FakeCupy:
    """``cupy``."""

    float32 = np.float32

    def __init__(self, machine: Machine):
        self._machine, self.cuda = machine, FakeCuda(machine)
        self.random = SimpleNamespace(default_rng=lambda seed: FakeGenerator(self, seed))
        self.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 0)

    def empty(self, shape: Any, dtype: Any = np.float32) -> FakeArray:
        m, dtype = self._machine, np.dtype(dtype)
        shape = (shape,) if np.isscalar(shape) else tuple(shape)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self.cuda.allocator is not None:
            self.cuda.allocator(nbytes)
        m.refuse_during_capture("cudaMalloc")
        stream = self.cuda.get_current_stream().ptr
        memory = m.allocate(m.current, nbytes, f"{dtype} {shape} on cuda:{m.current}", stream)
        return FakeArray(m, memory, memory.bytes[:nbytes].view(dtype).reshape(shape))

    def zeros(self, shape: Any, dtype: Any = np.float32) -> FakeArray:
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def ones(self, shape: Any, dtype: Any = np.float32) -> FakeArray:
        array = self.empty(shape, dtype)
        array.fill(1)
        return array

    def arange(self, count: int) -> FakeArray:
        return self.asarray(np.arange(count))

    def asarray(self, value: Any, dtype: Any = None) -> FakeArray:
        if isinstance(value, FakeArray):
            return value
        if hasattr(value, "__cuda_array_interface__"):
            return self._described(value.__cuda_array_interface__)
        value = np.asarray(value, dtype)
        array = self.empty(value.shape, value.dtype)
        array.set(value)
        return array

    def asnumpy(self, array: FakeArray) -> np.ndarray:
        return array.get()

    def from_dlpack(self, value: Any) -> FakeArray:
        """A capsule is simply the array."""
        array = value.__dlpack__(stream=self.cuda.get_current_stream().ptr)
        assert array.device.id == self._machine.current, "exported from another device than the current one"
        return array

    def _described(self, interface: dict[str, Any]) -> FakeArray:
        if interface["typestr"] == "<V2":
            raise ValueError("Unsupported dtype |V2")
        dtype, shape = np.dtype(interface["typestr"]), interface["shape"]
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        memory, first, last, *_ = self._machine.touch(interface["data"][0], nbytes, False)
        return FakeArray(self._machine, memory, memory.bytes[first:last].view(dtype).reshape(shape))

    def clip(self, array: FakeArray, low: int, high: int) -> FakeArray:
        return array._computed("clip", lambda x: np.clip(x, low, high))

    def not_equal(self, array: FakeArray, value: int) -> FakeArray:
        return array._computed("not equal", lambda x: np.not_equal(x, value))

    def isfinite(self, array: FakeArray) -> FakeArray:
        return array._computed("isfinite", np.isfinite)

    def dot(self, a: FakeArray, b: FakeArray) -> FakeArray:
        assert a is b, "as the code under test has it"
        return a._computed("dot", lambda x: np.dot(x, x))


class FakeGenerator:
    """``cupy.random.Generator``, with NumPy's numbers."""

    def __init__(self, xp: FakeCupy, seed: int):
        self._xp, self._rng = xp, np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Callable[..., FakeArray]:
        return lambda *args, **kw: self._xp.asarray(getattr(self._rng, name)(*args, **kw))


def on_device(machine: Machine, array: np.ndarray, index: int = 0) -> FakeArray:
    """A copy of an array on one of the machine's devices, there when this returns."""
    copy = machine.device(index).asarray(array)
    machine.device(index).synchronize()
    return copy
