"""``cupy.ndarray`` for ``fake_cuda``: NumPy's memory, and work on it that is done in CUDA's order."""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from support.fakes.fake_order import Memory


class FakePointer:
    """``cupy.cuda.MemoryPointer``; work on it goes into the current stream."""

    def __init__(self, machine: Any, memory: Memory, ptr: int):
        self._machine, self.mem, self.ptr, self.device_id = machine, memory, ptr, memory.device

    def _enqueue(self, name: str, run: Callable[[], None], *touches: tuple) -> None:
        m = self._machine
        m.enqueue(m.xp.cuda.get_current_stream().ptr, name, run, touches)

    def memset_async(self, value: int, size: int) -> None:
        touch = memory, first, last, _ = self._machine.touch(self.ptr, size, True)
        self._enqueue("memory-set", lambda: memory.bytes[first:last].fill(value), touch)

    def copy_from_device_async(self, source: FakePointer, size: int) -> None:
        m = self._machine
        into, out = m.touch(self.ptr, size, True), m.touch(source.ptr, size, False)
        (to, a, b, _), (of, c, d, _) = into, out
        self._enqueue("copy", lambda: np.copyto(to.bytes[a:b], of.bytes[c:d]), into, out)


class FakeArray:
    """What the code under test uses of ``cupy.ndarray``."""

    __module__ = "cupy"

    def __init__(self, machine: Any, memory: Memory, host: np.ndarray):
        self._machine, self._host = machine, host
        pointer = host.ctypes.data if host.size else memory.bytes.ctypes.data
        self.data = FakePointer(machine, memory, pointer)
        self.device = SimpleNamespace(id=memory.device)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: self._view(self._host.T))
    __cuda_array_interface__ = property(lambda self: self._described())

    def _described(self) -> dict[str, Any]:
        strides = None if self._host.flags.c_contiguous else self.strides
        return {
            "shape": self.shape, "typestr": self.dtype.str, "strides": strides, "version": 3,
            "data": (self.data.ptr, False),
        }  # fmt: skip

    def _view(self, host: np.ndarray) -> FakeArray:
        assert host.size == 0 or np.shares_memory(host, self._host), "a copy, not a view"
        return FakeArray(self._machine, self.data.mem, host)

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, index: Any) -> FakeArray:
        index = index if isinstance(index, tuple) else (index,)
        dots = () if any(i is ... for i in index) else (...,)  # an array, also where nothing is left of it
        if any(isinstance(i, list) for i in index):
            return self._computed("gather", lambda x: x[index + dots])
        return self._view(self._host[index + dots])

    def __setitem__(self, index: Any, value: FakeArray) -> None:
        value._computed("assign", lambda x: x, out=self[index])

    def reshape(self, *shape: Any) -> FakeArray:
        return self._view(self._host.reshape(*shape))

    def ravel(self) -> FakeArray:
        return self._view(self._host.reshape(-1))

    def view(self, dtype: Any) -> FakeArray:
        return self._view(self._host.view(dtype))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def _enqueue(self, name: str, run: Callable[[], None], writes: bool = True) -> None:
        m = self._machine
        m.enqueue(m.xp.cuda.get_current_stream().ptr, name, run, (m.touch(*self._span(), writes),))

    def _span(self) -> tuple[int, int]:
        assert self._host.flags.c_contiguous, "the fake works on contiguous arrays"
        return self.data.ptr, self.nbytes

    def fill(self, value: Any) -> None:
        host = self._host  # work holds the bytes, but not the array
        self._enqueue(f"fill with {value}", lambda: host.fill(value))

    def __iadd__(self, value: Any) -> FakeArray:
        host = self._host
        self._enqueue(f"add {value}", lambda: np.add(host, value, out=host))
        return self

    def set(self, value: np.ndarray) -> None:
        m = self._machine
        m.refuse_during_capture("the current stream is capturing, so H2D transfers are disallowed")
        assert isinstance(value, np.ndarray)
        assert (value.dtype, value.shape) == (self.dtype, self.shape)
        # From pageable memory: CUDA waits for the stream, and has read it all when it returns.
        m.xp.cuda.get_current_stream().synchronize()
        host, copy = self._host, np.ascontiguousarray(value).copy()
        self._enqueue("copy from pageable memory", lambda: np.copyto(host, copy))

    def get(self) -> np.ndarray:
        m = self._machine
        m.refuse_during_capture("the current stream is capturing, so D2H transfers are disallowed")
        self._enqueue("copy to pageable memory", None, False)
        m.xp.cuda.get_current_stream().synchronize()
        return self._host.copy()

    def _computed(self, name: str, function: Callable, *others: Any, out: Any = None) -> FakeArray:
        """What the device works out from this one and others, in a new array or in `out`."""
        m, arrays = self._machine, [a for a in (self, *others) if isinstance(a, FakeArray)]
        values = [a._host if isinstance(a, FakeArray) else a for a in (self, *others)]
        if out is None:
            with np.errstate(all="ignore"):  # what is not there yet only tells shape and kind
                like = np.asarray(function(*values))
            out = m.xp.empty(like.shape, like.dtype)
        into, stream = out._host, m.xp.cuda.get_current_stream().ptr
        touches = (*(m.touch(*a._span(), False) for a in arrays), m.touch(*out._span(), True))
        m.enqueue(stream, name, lambda: np.copyto(into, function(*values), "unsafe"), touches)
        return out

    __add__ = lambda self, other: self._computed("sum", operator.add, other)  # noqa: E731
    __mul__ = lambda self, other: self._computed("product", operator.mul, other)  # noqa: E731
    __mod__ = lambda self, other: self._computed("remainder", operator.mod, other)  # noqa: E731
    __rpow__ = lambda self, other: self._computed("power", lambda x: other**x)  # noqa: E731

    def astype(self, dtype: Any) -> FakeArray:
        return self._computed("convert", lambda x: x.astype(dtype))

    def copy(self) -> FakeArray:
        return self._computed("copy", lambda x: x)

    def all(self) -> FakeArray:
        return self._computed("all", np.all)

    def __bool__(self) -> bool:
        return bool(self.get())

    def __float__(self) -> float:
        return float(self.get())
