"""CUDA's rules of order, for ``fake_cuda``: streams, events, the legacy default stream, captures, races.

Work is noted with all it has to come after, and done when somebody waits for it, or at random before, in an
order drawn from a seed among those allowed.
"""

from __future__ import annotations

import bisect
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np


class Race(AssertionError):
    """Two pieces of work touch the same memory, one writes it, and neither has to come first."""


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


UNSUPPORTED, INVALIDATED, UNJOINED, ISOLATION, IMPLICIT, CAPTURED_EVENT = 900, 901, 904, 905, 906, 907


class Work:
    """A kernel, copy or mark in a stream (or a graph), and what has to come before it."""

    def __init__(self, name: str, run: Callable[[], None] | None, touches: tuple):
        self.name, self.run, self.touches = (
            name,
            run,
            touches,
        )  # touches: (allocation, first, last + 1, writes)
        self.number, self.ancestors, self.missing, self.done = -1, 0, 0, False
        self.next: list[Work] = []
        self.before: list[Work] = []  # of a graph's node
        self.lives: list[int] = []  # of a graph's node: how often its memory had been freed
        self.stream: Any = None


class StreamState:
    def __init__(self, device: int, blocking: bool):
        self.device, self.blocking = device, blocking
        self.last: Work | None = None
        self.capture: Capture | None = None
        self.tails: list[Work] = []
        self.priority = 0.0


class Capture:
    def __init__(self, origin: StreamState):
        self.origin, self.nodes, self.broken, self.ended = origin, [], False, False


class Allocation:
    """Memory of a device (None: pinned memory of the host) and who has used it."""

    def __init__(self, device: int | None, memory: np.ndarray):
        self.bytes = memory
        self.start = self.bytes.ctypes.data
        self.device, self.name, self.extent = device, "", 0
        self.life = 0  # grows when it is freed
        self.log: list[tuple[Work, int, int, bool]] = []


class Memory:
    """Owns an allocation: when nobody has it any more, the allocation goes back to its pool."""

    def __init__(self, allocation: Allocation, pool: list[Allocation]):
        self.device, self.bytes = allocation.device, allocation.bytes
        weakref.finalize(self, self._free, allocation, pool).atexit = False

    @staticmethod
    def _free(allocation: Allocation, pool: list[Allocation]) -> None:
        allocation.life += 1
        pool.append(allocation)


class Order:
    """What has been enqueued on ``count`` devices, and in what order it may be done.

    Attributes
    ----------
    current : int
        The current device.
    waits : list of str
        Where the host has waited for a device.
    made : list of Work
        All there has been, for tests that look at the order.
    """

    def __init__(self, count: int, seed: int):
        self.random = random.Random(seed)
        self.patient = self.random.choice([0.0, 0.3, 0.9])  # how much is done before anybody waits
        self.by_priority = self.random.random() < 0.5
        self.current = 0
        self.streams: dict[Any, StreamState] = {("legacy", d): StreamState(d, True) for d in range(count)}
        self.made: list[Work] = []
        self.ready: list[Work] = []
        self.observed = 0  # the numbers, as bits, of the work the host knows to be done
        self.waits: list[str] = []
        self.allocations: dict[int, Allocation] = {}
        self.pools: dict[tuple, list[Allocation]] = {}
        self.starts: list[int] = []

    # ---- memory --------------------------------------------------------------------------------------------
    def allocate(self, device: int | None, nbytes: int, name: str, arena: Any = None) -> Memory:
        """Memory from a pool like CuPy's: what was freed is lent again at once, on the stream (the `arena`)
        it was lent on before, whatever other streams or the host may still do with it.
        """
        size = self._size_lent(max(1, nbytes))
        pool = self.pools.setdefault((device, arena, size), [])
        if pool:
            allocation = pool.pop()
        else:
            allocation = Allocation(device, self._memory(device, size))
            bisect.insort(self.starts, allocation.start)
            self.allocations[allocation.start] = allocation
        allocation.name, allocation.extent = name, nbytes
        return Memory(allocation, pool)

    def _size_lent(self, nbytes: int) -> int:
        return -(-nbytes // 512) * 512

    def _memory(self, device: int | None, size: int) -> np.ndarray:
        """New memory, aligned as CUDA's is."""
        raw = np.full(size + 256, 0xCD, np.uint8)  # what nobody has written shows
        return raw[-raw.ctypes.data % 256 :][:size]

    def find(self, pointer: int) -> Allocation:
        """The allocation that an address lies in."""
        at = bisect.bisect_right(self.starts, pointer) - 1
        allocation = self.allocations[self.starts[at]] if at >= 0 else None
        if allocation is None or pointer >= allocation.start + allocation.bytes.nbytes:
            raise AssertionError("this address is neither device nor pinned memory")
        return allocation

    def touch(self, pointer: int, nbytes: int, writes: bool) -> tuple:
        """What a piece of work does with memory: (allocation, first byte, last + 1, writes)."""
        allocation = self.find(pointer)
        first = pointer - allocation.start
        assert first + nbytes <= allocation.extent, f"beyond the end of {allocation.name}"
        return allocation, first, first + nbytes, writes

    def _check_races(self, work: Work) -> None:
        for memory, first, last, writes in work.touches:
            if memory.log and self.observed:
                memory.log[:] = [e for e in memory.log if not self.observed >> e[0].number & 1]
            for other, a, b, wrote in memory.log:
                ordered = other is work or work.ancestors >> other.number & 1
                if a < last and first < b and (writes or wrote) and not ordered:
                    raise Race(f"{work.name!r} and {other.name!r} both use {memory.name}, in no order")
            memory.log.append((work, first, last, writes))

    # ---- work ----------------------------------------------------------------------------------------------
    def state(self, pointer: int) -> StreamState:
        return self.streams[pointer or ("legacy", self.current)]

    def enqueue(
        self,
        pointer: int,
        name: str,
        run: Callable[[], None] | None = None,
        touches: tuple = (),
        after: Work | None = None,
    ) -> Work:
        """Work for a stream: noted, or made part of the graph that is being captured."""
        state, work = self.state(pointer), Work(name, run, tuple(touches))
        if state.capture is not None:
            if state.capture.broken:
                raise CUDARuntimeError(INVALIDATED, "operation failed due to a previous error during capture")
            work.before, work.stream = state.tails, state
            work.lives = [memory.life for memory, *_ in touches]
            state.tails = [work]
            state.capture.nodes.append(work)
            return work
        legacy = self.streams["legacy", state.device]
        before = [state.last, after]
        if state is legacy:
            others = [s for s in self.streams.values() if s.device == state.device and s.blocking]
            self._refuse_implicit(others)
            before += [s.last for s in others]
        elif state.blocking:
            before.append(legacy.last)
        return self._add(work, state, before)

    def _refuse_implicit(self, others: list[StreamState]) -> None:
        for other in others:
            if other.capture is not None:
                other.capture.broken = True
                raise CUDARuntimeError(
                    IMPLICIT, "operation would make the legacy stream depend on a capturing blocking stream"
                )

    def _add(self, work: Work, state: StreamState, before: list) -> Work:
        work.number, work.ancestors, work.stream = len(self.made), self.observed, state
        self.made.append(work)
        for earlier in {w for w in before if w is not None}:
            work.ancestors |= earlier.ancestors | 1 << earlier.number
            if not earlier.done:
                work.missing += 1
                earlier.next.append(work)
        state.last = work
        self._check_races(work)
        if not work.missing:
            self.ready.append(work)
        while self.ready and self.random.random() < self.patient:
            self._do_one()
        return work

    def _do_one(self) -> None:
        if self.by_priority:  # a stream runs far ahead of the others, and now and then another does
            if self.random.random() < 0.05:
                for state in self.streams.values():
                    state.priority = self.random.random()
            at = max(range(len(self.ready)), key=lambda i: self.ready[i].stream.priority)
        else:
            at = self.random.randrange(len(self.ready))
        work = self.ready.pop(at)
        run, work.run = work.run, None
        try:
            if run is not None:
                run()
        finally:  # what comes after is not held up by what failed
            work.done = True
            for later in work.next:
                later.missing -= 1
                if not later.missing:
                    self.ready.append(later)

    def wait(self, work: Work | None, why: str) -> None:
        """The host waits until some work is done."""
        self.waits.append(why)
        if work is None:
            return
        while not work.done:
            self._do_one()
        self.observed |= work.ancestors | 1 << work.number

    def ordered(self, first: Work, second: Work) -> bool:
        """Whether ``first`` has to be done before ``second``."""
        return bool(second.ancestors >> first.number & 1)

    # ---- graphs --------------------------------------------------------------------------------------------
    def capturing(self) -> Capture | None:
        return next((s.capture for s in self.streams.values() if s.capture is not None), None)

    def refuse_during_capture(self, what: str) -> None:
        capture = self.capturing()
        if capture is not None:
            capture.broken = True
            raise CUDARuntimeError(UNSUPPORTED, f"{what}: operation not permitted when stream is capturing")

    def begin(self, pointer: int) -> None:
        state = self.state(pointer)
        if pointer == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        assert state.capture is None
        state.capture, state.tails = Capture(state), []

    def end(self, pointer: int) -> list[Work]:
        origin = self.state(pointer)
        capture = origin.capture
        assert capture is not None
        assert capture.origin is origin
        reached: set[Work] = set()
        queue = list(origin.tails)
        while queue:
            node = queue.pop()
            if node not in reached:
                reached.add(node)
                queue += node.before
        joined = True
        for state in self.streams.values():
            if state.capture is capture:
                joined &= reached.issuperset(state.tails)
                state.capture, state.tails = None, []
        capture.ended = True
        if capture.broken:
            raise CUDARuntimeError(INVALIDATED, "operation failed due to a previous error during capture")
        if not joined:
            raise CUDARuntimeError(UNJOINED, "capturing stream has unjoined work")
        return capture.nodes

    def launch(self, graph: Any, pointer: int) -> None:
        entry = self.enqueue(pointer, "graph begins")
        state, copies = self.state(pointer), {}
        for node in graph.nodes:
            for (memory, *_), life in zip(node.touches, node.lives, strict=True):
                assert memory.life == life, f"{node.name!r} of a graph uses memory which has been freed"
            copy = copies[node] = Work(node.name, node.run, node.touches)
            stream = StreamState(state.device, False)  # inside a graph only its own order counts
            stream.priority = self.random.random()
            self._add(copy, stream, [entry, graph.last, *(copies[b] for b in node.before)])
        end = Work("graph ends", None, ())
        graph.last = self._add(end, state, [entry, *copies.values()])


class FakePinned(np.ndarray):
    """``cupy.cuda.PinnedMemoryPointer``: a buffer with an address."""

    memory: Memory
    ptr = property(lambda self: self.ctypes.data)
