"""Threads for the `cpu` device: many small independent tasks, one BLAS thread each.

NumPy lets go of the interpreter lock inside copies, ufuncs and `matmul`, so plain Python threads scale. The
work of an operation is cut into tasks by its *shape* alone (cache-sized pieces of the batch), never by the
number of threads, and BLAS is held to one thread inside a task: results therefore have the same bits for any
number of threads.

The number of threads is the first that is set of `set_num_threads()`, `PYCONVNET_NUM_THREADS`,
`OMP_NUM_THREADS`, `OPENBLAS_NUM_THREADS`, and otherwise the number of CPUs this process may run on, or whose
time its container has, if that is less.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import math
import os
import queue
import threading
from collections.abc import Callable

import numpy as np

from .checks import either, integer

__all__ = ["get_num_threads", "parallel", "ranges", "scratch", "set_num_threads", "zero_outside"]

_local = threading.local()
_lock = threading.Lock()
_helpers: list[threading.Thread] = []
_inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
_num_threads: int | None = None


# ---- how many threads --------------------------------------------------------------------------------------


def _default_num_threads() -> int:
    for name in ("PYCONVNET_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        text = os.environ.get(name, "").strip()
        if text.isdigit() and int(text) > 0:
            return int(text)
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cpus = os.cpu_count() or 1
    return max(1, min(cpus, math.ceil(_quota())))


def _quota(root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> float:
    """Return of how many CPUs the time is this process's: the least of its control groups; else a lot.

    Version 2 says it in ``cpu.max``, "max 100000" or "150000 100000", for a group and those above; version 1
    in two files, and -1 for no limit. In a container its group is the root of what it sees.
    """
    quotas = [_MANY]
    for path in ("cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us"):
        quotas.append(_share(_text(f"{root}/{path}"), _text(f"{root}/{path}".replace("quota", "period"))))
    own = next((line[3:].strip() for line in _text(groups).splitlines() if line.startswith("0::")), "")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    for depth in range(len(parts) + 1):
        words = _text("/".join([root, *parts[:depth], "cpu.max"])).split()
        quotas.append(_share(*words) if len(words) == 2 else _MANY)
    return min(quotas)


_MANY = float(1 << 20)


def _share(quota: str, period: str) -> float:
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return _MANY
    return share if share > 0 else _MANY


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def get_num_threads() -> int:
    """Return the number of threads the `cpu` device uses."""
    global _num_threads
    if _num_threads is None:
        _num_threads = _default_num_threads()
    return _num_threads


def set_num_threads(count: int) -> None:
    """Use `count` threads on the `cpu` device from now on. Results do not depend on it.

    Raises
    ------
    ValueError
        If `count` is not a positive integer.
    """
    global _num_threads
    with either():
        _num_threads = integer("set_num_threads", "count", count, 1)


# ---- BLAS --------------------------------------------------------------------------------------------------


def _find_openblas() -> tuple[Callable[[int], None], Callable[[], int]] | None:
    """Find (set, get) of the thread count of the OpenBLAS that NumPy has loaded; None for any other BLAS."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = {
                line.split(maxsplit=5)[5].strip()
                for line in maps
                if "openblas" in line.lower() and "/" in line
            }
    except OSError:
        return None
    for path in sorted(paths, key=lambda path: ("numpy" not in path, path)):  # SciPy brings one of its own
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        # NumPy's wheels rename the symbols (prefix scipy_, suffix 64_); distributions keep the plain ones.
        for prefix, suffix in itertools.product(("scipy_", ""), ("64_", "")):
            setter = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
            getter = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
            if setter is not None and getter is not None:
                return setter, getter
    return None


_openblas = _find_openblas()
_blas_users = 0
_blas_saved = 1


class _SingleThreadedBlas:
    """Hold OpenBLAS to one thread, process-wide, and give back the old number when the last user leaves."""

    def __enter__(self) -> None:
        global _blas_users, _blas_saved
        if _openblas is None:
            return
        with _lock:
            if _blas_users == 0:
                _blas_saved = _openblas[1]()
                if _blas_saved != 1:
                    _openblas[0](1)
            _blas_users += 1

    def __exit__(self, *_: object) -> None:
        global _blas_users
        if _openblas is None:
            return
        with _lock:
            _blas_users -= 1
            if _blas_users == 0 and _blas_saved != 1:
                _openblas[0](_blas_saved)


_single_threaded_blas = _SingleThreadedBlas()


# ---- tasks -------------------------------------------------------------------------------------------------


class _Job:
    """Work for a helper, which the caller withdraws where nobody has begun it when there is no more to do.

    A helper wakes up in some tens of microseconds, in which the caller may have done the work itself.
    """

    __slots__ = ("_begun", "_done", "_error", "_work")

    def __init__(self, work: Callable[[], None]):
        self._work: Callable[[], None] | None = work
        self._error: BaseException | None = None
        self._begun, self._done = threading.Lock(), threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        """Run the work, unless it was withdrawn."""
        if self._begun.acquire(blocking=False):
            try:
                self._work()
            except BaseException as error:
                self._error = error
            self._work = None  # nor what it works on: the caller may let go of that next
            self._done.release()

    def end(self) -> BaseException | None:
        """Return what it raised, at its end; where nobody has begun it, withdraw it."""
        if self._begun.acquire(blocking=False):
            self._work = None
        else:
            self._done.acquire()
        return self._error


def _help(inbox: queue.SimpleQueue[_Job | None]) -> None:
    while (job := inbox.get()) is not None:
        job.run()


def _need_helpers(count: int) -> None:
    with _lock:
        while len(_helpers) < count:
            name = f"pyconvnet-cpu-{len(_helpers)}"
            helper = threading.Thread(target=_help, args=(_inbox,), name=name, daemon=True)
            helper.start()
            _helpers.append(helper)


@atexit.register
def _end_helpers() -> None:
    """End the threads while there is an interpreter; they are daemons, for which it would not wait."""
    with _lock:
        ending = _helpers.copy()
        _helpers.clear()
    for _ in ending:
        _inbox.put(None)
    for helper in ending:
        helper.join()


def _forget_helpers() -> None:
    """Start afresh in a forked child, where the threads are gone and the lock's state is unknown."""
    global _helpers, _inbox, _lock, _local, _blas_users
    _lock = threading.Lock()
    _local = threading.local()
    _helpers, _inbox = [], queue.SimpleQueue()
    if _blas_users and _openblas is not None:
        _openblas[0](_blas_saved)
    _blas_users = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)


def parallel(task: Callable[[int], None], count: int, blas: bool = True) -> None:
    """Run `task(0) … task(count - 1)`, each once, on the `cpu` device's threads; return when all are done.

    Tasks must be independent: they may run in any order and at the same time. A task that itself calls
    `parallel` runs the inner tasks one after the other. The first exception of a task is raised here.
    `blas`: whether tasks use BLAS, which is then held to one thread each.
    """
    if getattr(_local, "inside", False):
        for index in range(count):
            task(index)
        return

    hold = _single_threaded_blas if blas else contextlib.nullcontext()
    if count == 1:  # nothing to share out
        _local.inside = True
        try:
            with hold:
                task(0)
        finally:
            _local.inside = False
        return

    upcoming = iter(range(count))  # next() on it is atomic under the interpreter lock

    def work() -> None:
        _local.inside = True
        try:
            for index in upcoming:
                task(index)
        finally:
            _local.inside = False

    with hold:
        # Without a way to hold BLAS to one thread, its own threads do the work and ours would only fight
        # them.
        helpers = min(get_num_threads(), count) - 1 if _openblas is not None or not blas else 0
        if helpers <= 0:
            work()
            return
        if len(_helpers) < helpers:
            _need_helpers(helpers)
        jobs = [_Job(work) for _ in range(helpers)]
        for job in jobs:
            _inbox.put(job)
        try:
            work()
        finally:
            errors = [job.end() for job in jobs]  # wait for every task to end, also when this thread's failed
        for error in errors:
            if error is not None:
                raise error


def ranges(extent: int, size: int) -> list[tuple[int, int]]:
    """Cut [0, extent) into the fewest pieces of at most `size`, as even as possible: [(start, stop), ...]."""
    pieces = max(1, math.ceil(extent / max(1, size)))
    return [(extent * i // pieces, extent * (i + 1) // pieces) for i in range(pieces)]


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array that belongs to the calling thread until it asks for the same name again.

    Buffers are kept and grow to the largest size asked for, so that a training step allocates nothing.
    """
    buffers = _local.__dict__.setdefault("buffers", {})
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = buffers.get(name)
    if buffer is None or buffer.nbytes < nbytes:
        raw = np.empty(nbytes + 63, np.uint8)
        buffer = buffers[name] = raw[-raw.ctypes.data % 64 :][:nbytes]
    return buffer[:nbytes].view(dtype).reshape(shape)


def zero_outside(
    name: str, shape: tuple[int, ...], dtype: np.dtype, inside: tuple[slice, slice]
) -> np.ndarray:
    """Return a scratch (N, H, W, C) that is zero outside `inside`, where only the caller writes, of H and W.

    The zeros stay from one request to the next; only another geometry has to write them again.
    """
    array = scratch(name, shape, dtype)
    geometries = _local.__dict__.setdefault("geometries", {})
    geometry = (array.ctypes.data, shape, array.dtype, inside)
    if geometries.get(name) != geometry:
        array[...] = 0
        geometries[name] = geometry
    return array
