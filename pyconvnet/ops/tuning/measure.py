"""How long each of several kernels takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...common.devices import Device

Work = Callable[[], None]

#: Rounds over the candidates: at least, at most.
MIN_ROUNDS, MAX_ROUNDS = 3, 25
#: After the first round only those within this factor of the best go on, later those within the second one.
FIRST_FACTOR, LATER_FACTOR = 2.0, 1.2
#: Times closer than this are equal; then the heuristic decides, so that two runs agree.
TIE = 1.01


class Timer(Protocol):
    """A clock."""

    def round(self, works: Sequence[Work]) -> list[float]:
        """Run each piece of work once; return the seconds that each took."""


class EventTimer:
    """CUDA events on the current stream; the L2 is flushed before each call, as a training step finds it.

    The memory-set that flushes also keeps the device busy while Python issues the call, so that the host's
    time stays outside.
    """

    def __init__(self, device: Device):
        self.device = device
        runtime = device.xp.cuda.runtime
        l2 = runtime.deviceGetAttribute(runtime.cudaDevAttrL2CacheSize, device.index)
        self._flush = device.empty((max(4 * l2, 256 << 20),), "uint8")

    def round(self, works: Sequence[Work]) -> list[float]:
        cuda = self.device.xp.cuda
        pairs = []
        for work in works:
            first, last = cuda.Event(), cuda.Event()
            self._flush.data.memset_async(0, self._flush.nbytes)
            first.record()
            work()
            last.record()
            pairs.append((first, last))
        self.device.synchronize()
        return [cuda.get_elapsed_time(a, b) * 1e-3 for a, b in pairs]


@dataclass
class Measured:
    """What came of it.

    Attributes
    ----------
    kernel : str or None
        The fastest; None where all failed.
    seconds : dict of kernel to median
        Those that were dropped early have few rounds behind them.
    failed : dict of kernel to reason
    """

    kernel: str | None
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def measure(
    works: Mapping[str, Work],
    timer: Timer,
    wait: Callable[[], None],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Time candidates in interleaved rounds, and drop the clearly slow ones early.

    Interleaved, since a card's clock rate drifts: what disturbs one disturbs all.

    Parameters
    ----------
    works : dict of kernel to callable
        In the heuristic's order. A callable that raises is left out, with its reason.
    timer : Timer
    wait : callable
        Waits for the device; what fails late, fails there.
    seconds : float
        After so long no further round begins, but there are ``MIN_ROUNDS``.
    """
    failed: dict[str, str] = {}
    stop = clock() + seconds
    for name, work in works.items():  # the first call loads code: not timed
        try:
            work()
            wait()
        except (RuntimeError, ValueError, MemoryError) as error:
            failed[name] = " ".join(str(error).split()) or type(error).__name__
    alive = [name for name in works if name not in failed]
    first = alive[:1]  # the heuristic's choice: timed to the end of MIN_ROUNDS, to tell what was gained
    times: dict[str, list[float]] = {name: [] for name in alive}
    for count in range(1, MAX_ROUNDS + 1):
        for name, value in zip(alive, timer.round([works[name] for name in alive]), strict=True):
            times[name].append(value)
        medians = {name: statistics.median(times[name]) for name in alive}
        best = min(medians.values(), default=0.0)
        factor = FIRST_FACTOR if count == 1 else LATER_FACTOR
        spared = first if count < MIN_ROUNDS else []
        alive = [name for name in alive if medians[name] <= factor * best or name in spared]
        if count >= MIN_ROUNDS and (len(alive) < 2 or clock() >= stop):
            break
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min((medians[name] for name in alive), default=0.0)
    kernel = next((name for name in alive if medians[name] <= TIE * best), None)
    return Measured(kernel, medians, failed)


def event_timer(device: Device) -> Any:
    """Make the clock that times kernels on a device; None on the host, where they are not timed."""
    return EventTimer(device) if device.kind == "cuda" else None
