"""Lanes of a step on CUDA: streams, the events between them, copies between devices, graphs of whole steps.

Every shard has three lanes, ``(shard, "compute")``, ``(shard, "copy")`` and ``(shard, "update")``, each a
stream of the shard's device; shards may share a device. The host never waits here: what depends on another
lane waits for an event on the device. The streams are blocking ones in CUDA's sense, that is ordered with the
legacy default stream, on which a user's own CuPy expressions run. On host devices a lane is just a name and
everything is done at once.

A list of tasks may be captured as a CUDA graph and replayed, since all that changes from step to step is read
from device memory. Rules of capture that shaped this module: a capture begins and ends on one stream, so that
the other lanes fork from it and join it again; it must not wait for events recorded before it; CuPy's
wrappers refuse copies between host and device while a stream captures, also from pinned memory, so that
copies call the runtime itself; CuPy's memory pool would happily lend memory to a captured call and lend it
again to somebody else later, so that allocating is refused.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from .. import ops
from ..common.devices import Device, enable_peer_access, get_device

Lane = tuple[int, str]
KINDS = ("compute", "copy", "update")


class TaskLike(Protocol):
    """What is asked of a task; :class:`pyconvnet.plan.tasks.Task` has it."""

    name: str
    lane: Lane
    run: Callable[[], None]
    waits: Sequence[int]


class CaptureError(RuntimeError):
    """A list of tasks could not be made a CUDA graph; the message says why. Nothing of it has run."""


def graphs_enabled() -> bool:
    """Tell whether steps on CUDA may be captured: not with ``PYCONVNET_GRAPH=0`` or ``PYCONVNET_SYNC=1``.

    Raises
    ------
    ValueError
        ``PYCONVNET_GRAPH`` is neither 0 nor 1.
    """
    value = os.environ.get("PYCONVNET_GRAPH", "1")
    if value not in ("0", "1"):
        raise ValueError(f"PYCONVNET_GRAPH must be 0 or 1, got {value!r}")
    # PYCONVNET_SYNC makes every launch wait for its kernel, which a capture cannot.
    return value == "1" and os.environ.get("PYCONVNET_SYNC", "0")[:1] in ("", "0")


def one_kind(devices: Any) -> list[Device]:
    """Return the devices of a plan, given by name or not; ValueError where they are of several kinds."""
    if not isinstance(devices, (list, tuple)):
        return [get_device(devices)]
    if not devices:
        raise ValueError("Plan: devices must name at least one device, got an empty list")
    out = [get_device(device) for device in devices]
    kinds = {device.kind for device in out}
    if len(kinds) > 1:
        raise ValueError(f"Plan: devices must be of one kind, got {', '.join(d.name for d in out)}")
    return out


class StreamLanes:
    """The lanes of a list of shards.

    Parameters
    ----------
    devices : list of Device
        One entry per shard. All are CUDA devices or none is; a device may be there several times.

    Attributes
    ----------
    cuda : bool
        Whether the lanes are streams.

    Raises
    ------
    ValueError
        No device, or CUDA and host devices together.
    """

    def __init__(self, devices: Sequence[Device]):
        self.devices = list(devices)
        kinds = {device.kind == "cuda" for device in self.devices}
        if len(kinds) != 1:
            names = ", ".join(device.name for device in self.devices) or "none"
            raise ValueError(f"StreamLanes: devices must be all CUDA devices or all on the host, got {names}")
        self.cuda = kinds.pop()
        self._streams: dict[Lane, Any] = {}
        self._events: dict[Lane, Any] = {}
        self._peers: dict[tuple[int, int], bool | str] = {}
        if self.cuda:
            self._origin = (0, "compute")
            for shard, device in enumerate(self.devices):
                for kind in KINDS:
                    with device.activate():
                        self._streams[shard, kind] = device.xp.cuda.Stream()
                    self._events[shard, kind] = self._event(shard)

    def _event(self, shard: int) -> Any:
        # An event belongs to the device that was current when it was made, and is recorded only there.
        device = self.devices[shard]
        with device.activate():
            return device.xp.cuda.Event(disable_timing=True)

    def _lane(self, shard: int, kind: str) -> Lane:
        if not 0 <= shard < len(self.devices) or kind not in KINDS:
            raise ValueError(
                f"StreamLanes: a lane is (0 to {len(self.devices) - 1}, 'compute', 'copy' or 'update'), "
                f"got {(shard, kind)}"
            )
        return shard, kind

    def stream(self, shard: int, kind: str = "compute") -> Any:
        """Return the CuPy stream of a lane; None on the host."""
        return self._streams.get(self._lane(shard, kind))

    @contextlib.contextmanager
    def active(self, shard: int, kind: str = "compute") -> Iterator[None]:
        """Make the shard's device and its lane's stream current inside; ops run there."""
        lane = self._lane(shard, kind)
        if not self.cuda:
            with ops.on(self.devices[shard]):
                yield
            return
        with self.devices[shard].activate(), self._streams[lane]:
            yield

    # ---- order between lanes -------------------------------------------------------------------------------
    def join(self) -> None:
        """Let every lane wait, on the device, for what all lanes have been given so far."""
        if self.cuda:
            self._gather(self._origin)
            self._scatter(self._origin)

    def follow(self, shard: int, kind: str = "compute") -> None:
        """Let one lane wait, on the device, for what all lanes have been given so far."""
        lane = self._lane(shard, kind)
        if self.cuda:
            self._gather(lane)

    def _gather(self, target: Lane) -> None:
        for lane, stream in self._streams.items():
            if lane != target:
                self._events[lane].record(stream)
                self._streams[target].wait_event(self._events[lane])

    def _scatter(self, source: Lane) -> None:
        self._events[source].record(self._streams[source])
        for lane, stream in self._streams.items():
            if lane != source:
                stream.wait_event(self._events[source])

    def synchronize(self) -> None:
        """Wait, on the host, for all lanes."""
        for stream in self._streams.values():
            stream.synchronize()

    # ---- tasks ---------------------------------------------------------------------------------------------
    def run(self, tasks: Sequence[TaskLike], join: bool = True) -> None:
        """Enqueue a list of tasks, each on its lane, after the tasks it waits for; on the host, do them.

        Parameters
        ----------
        tasks :
            What :meth:`prepare` returned, if the list runs again and again; else it is prepared for this run.
        join : bool
            Begin with :meth:`join`, so that the list comes after all earlier ones.

        Raises
        ------
        ValueError
            As :meth:`prepare`.
        """
        prepared = self.prepare(tasks)
        if join:
            self.join()
        self._enqueue(prepared)

    def prepare(self, tasks: Sequence[TaskLike]) -> PreparedTasks:
        """Make what any number of runs of a list of tasks needs.

        Raises
        ------
        ValueError
            A task names a lane that is not there, or waits for one that is not before it.
        """
        return tasks if isinstance(tasks, PreparedTasks) else PreparedTasks(self, tasks)

    def _enqueue(self, tasks: PreparedTasks) -> None:
        for lane, steps in tasks.stretches:
            stream = self._streams.get(lane)
            with self.active(*lane):
                for waits, run, done in steps:
                    for event in waits:
                        stream.wait_event(event)
                    run()
                    if done is not None:
                        done.record(stream)

    # ---- graphs --------------------------------------------------------------------------------------------
    def capture(self, *lists: Sequence[TaskLike], keep: Any = None) -> Replay:
        """Record the lists of tasks, one after the other, as one CUDA graph.

        The tasks are called but nothing of theirs runs before :meth:`Replay.launch`. They must have run once
        without capture: libraries and modules that load at first use cannot do so here.

        Parameters
        ----------
        keep :
            What has to live as long as the graph beside the tasks themselves: memory they borrow, say.

        Raises
        ------
        CaptureError
            No graph came of it; the lanes are usable as before.
        ValueError
            As for :meth:`run`.
        """
        prepared = [self.prepare(tasks) for tasks in lists]
        if not self.cuda:
            raise CaptureError(f"{self.devices[0].name} has no CUDA graphs")
        device, origin = self.devices[0], self._streams[self._origin]
        failure: BaseException | None = None
        graph = None
        try:
            with device.activate():
                origin.begin_capture()
        except Exception as error:
            raise CaptureError(_reason(error)) from error
        collecting = gc.isenabled()
        gc.disable()  # a collected CUDA object may make calls that a capture forbids
        try:
            with device.xp.cuda.using_allocator(_refuse_memory):
                self._scatter(self._origin)
                for number, tasks in enumerate(prepared):
                    if number:
                        self.join()
                    self._enqueue(tasks)
                self._gather(self._origin)
        except BaseException as error:
            failure = error
        try:
            with device.activate():
                graph = origin.end_capture()
        except Exception as error:
            failure = failure or error
        finally:
            if collecting:
                gc.enable()
        if isinstance(failure, Exception):
            raise CaptureError(_reason(failure)) from failure
        if failure is not None:  # Ctrl-C, say
            raise failure
        return Replay(self, graph, (prepared, keep))

    # ---- copies --------------------------------------------------------------------------------------------
    def peer_access(self, source_shard: int, target_shard: int) -> bool | str:
        """Let one shard's device write another's memory directly; True, or why it cannot."""
        pair = source_shard, target_shard
        if pair not in self._peers:
            self._peers[pair] = enable_peer_access(self.devices[source_shard], self.devices[target_shard])
        return self._peers[pair]

    def copy_tasks(
        self, source_shard: int, source: Any, target_shard: int, target: Any
    ) -> list[tuple[Lane, Callable[[], None]]]:
        """Make what copies an array of one shard into one of another, in order: one piece of work or two.

        Within a device and between peers one asynchronous copy, on the source's copy lane. Else through
        pinned host memory, allocated here, once: one copy to it on the source's copy lane, one from it on
        the target's, which must wait for the first.

        Parameters
        ----------
        source, target : contiguous arrays of one dtype and size

        Returns
        -------
        list of (lane, callable)
            Each callable enqueues its copy on the current stream.

        Raises
        ------
        ValueError
            Arrays that are not contiguous or differ in dtype or size.
        """
        out, into = self._lane(source_shard, "copy"), self._lane(target_shard, "copy")
        if source.dtype != target.dtype or source.size != target.size:
            raise ValueError(
                "StreamLanes.copy_tasks: source and target must have one dtype and size, "
                f"got {source.dtype} {source.shape} and {target.dtype} {target.shape}"
            )
        if not (source.flags.c_contiguous and target.flags.c_contiguous):
            raise ValueError("StreamLanes.copy_tasks: source and target must be C-contiguous")
        if not self.cuda:
            return [(out, lambda: np.copyto(target, source.reshape(target.shape)))]
        a, b = self.devices[source_shard], self.devices[target_shard]
        if self.peer_access(source_shard, target_shard) is True:
            return [(out, lambda: copy_async(a, target.data.ptr, source.data.ptr, target.nbytes))]
        pinned = a.xp.cuda.alloc_pinned_memory(source.nbytes)
        return [
            (out, lambda: copy_async(a, pinned.ptr, source.data.ptr, source.nbytes)),
            (into, lambda: copy_async(b, target.data.ptr, pinned.ptr, target.nbytes)),
        ]


def copy_async(device: Device, target: int, source: int, nbytes: int) -> None:
    """Enqueue a copy between addresses on the device's current stream; host memory must be pinned.

    cudaMemcpyAsync finds out by itself what lies where; CuPy's methods refuse host memory during a capture.
    """
    runtime = device.xp.cuda.runtime
    runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDefault, device.stream())


class Replay:
    """A captured list of tasks. It holds the tasks, and with them the memory their graph refers to."""

    def __init__(self, lanes: StreamLanes, graph: Any, keep: Any):
        self._lanes, self._graph, self._keep = lanes, graph, keep

    def launch(self) -> None:
        """Enqueue the graph: after all that the lanes have been given, before what they are given next."""
        lanes = self._lanes
        lanes._gather(lanes._origin)
        with lanes.devices[0].activate():
            self._graph.launch(lanes._streams[lanes._origin])
        lanes._scatter(lanes._origin)


class PreparedTasks(tuple):
    """A list of tasks in stretches of one lane, every event made; :meth:`StreamLanes.prepare` makes it."""

    stretches: list[tuple[Lane, list[tuple[list, Callable[[], None], Any]]]]

    def __new__(cls, lanes: StreamLanes, tasks: Sequence[TaskLike]) -> PreparedTasks:
        """Check the tasks and make the events between their lanes."""
        self = super().__new__(cls, tasks)
        awaited: set[int] = set()
        for position, task in enumerate(tasks):
            lanes._lane(*task.lane)
            for other in task.waits:
                if not 0 <= other < position:
                    raise ValueError(
                        f"StreamLanes: task {position} ({task.name}) waits for task {other}, "
                        "which is not before it"
                    )
                if tasks[other].lane != task.lane:
                    awaited.add(other)
        # On the host the order of the list is enough.
        events = {p: lanes._event(tasks[p].lane[0]) for p in awaited} if lanes.cuda else {}
        self.stretches = []
        for position, task in enumerate(tasks):
            lane = tuple(task.lane)
            if not self.stretches or self.stretches[-1][0] != lane:
                self.stretches.append((lane, []))
            waits = [events[p] for p in task.waits if tasks[p].lane != task.lane] if events else []
            self.stretches[-1][1].append((waits, task.run, events.get(position)))
        return self


def _refuse_memory(nbytes: int) -> Any:
    raise MemoryError(f"a captured step must not allocate, but {nbytes} bytes were asked for")


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, MemoryError) else f"{type(error).__name__}: {text}"
