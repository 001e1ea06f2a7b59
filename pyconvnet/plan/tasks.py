"""A step as a list of tasks, and what waits for what.

A lane is a queue of one device: tasks of one lane run in the order of the list, tasks of different lanes at
the same time unless one waits for the other. On the host a list is run from first to last; on CUDA lanes are
streams and waits are events. Waits follow from what tasks say they read and write, so none can be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Lane = tuple[int, str]


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes
    ----------
    name : str
        E.g. ``"conv3 forward @1"``.
    lane : (int, str)
        Shard, and "compute", "copy" or "update".
    run : callable
        Does the work, or enqueues it on the lane's stream.
    waits : tuple of int
        Positions in the list of earlier tasks, of other lanes, that must be done before.
    moves : None or (layer, kind, source, target, nbytes)
        What crosses from device to device, of a task that copies.
    """

    name: str
    lane: Lane
    run: Callable[[], None]
    waits: tuple[int, ...] = ()
    moves: tuple[str, str, int, int, int] | None = None


class TaskList:
    """Collects tasks and works out their waits.

    A resource is any hashable name of a piece of memory. A task waits for the last writer of what it reads
    and writes, and for the readers since then of what it writes.
    """

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self._writer: dict[Hashable, int] = {}
        self._readers: dict[Hashable, list[int]] = {}
        #: (lane, other lane) -> the latest position of the other that a task of the lane waits for.
        self._waited: dict[tuple[Lane, Lane], int] = {}

    def add(
        self,
        name: str,
        lane: Lane,
        run: Callable[[], None],
        reads: Iterable[Hashable] = (),
        writes: Iterable[Hashable] = (),
        moves: tuple[str, str, int, int, int] | None = None,
    ) -> None:
        """Append a task."""
        reads, writes = list(reads), list(writes)
        before = {self._writer[r] for r in [*reads, *writes] if r in self._writer}
        for resource in writes:
            before.update(self._readers.get(resource, ()))
        position = len(self.tasks)
        self.tasks.append(Task(name, lane, run, self._needed(before, lane), moves))
        for resource in reads:
            self._readers.setdefault(resource, []).append(position)
        for resource in writes:
            self._writer[resource] = position
            self._readers[resource] = []

    def _needed(self, before: set[int], lane: Lane) -> tuple[int, ...]:
        """Choose what to wait for: of each other lane the latest is enough, since a lane keeps its order, and
        nothing for which an earlier task of this lane waits.
        """
        latest: dict[Lane, int] = {}
        for position in before:
            other = self.tasks[position].lane
            if other != lane and position > self._waited.get((lane, other), -1):
                latest[other] = max(position, latest.get(other, -1))
        for other, position in latest.items():
            self._waited[lane, other] = position
        return tuple(sorted(latest.values()))


def run_in_order(tasks: Sequence[Task]) -> None:
    """Run a list on the host."""
    for task in tasks:
        task.run()


def run_shuffled(tasks: Sequence[Task], rng: np.random.Generator) -> list[int]:
    """Run a list in a random one of the orders that lanes and waits allow; returns the order.

    For tests: where a wait is missing, some order gives other results.
    """
    queues: dict[Lane, list[int]] = {}
    for position, task in enumerate(tasks):
        queues.setdefault(task.lane, []).append(position)
    done: set[int] = set()
    order = []
    while queues:
        ready = [lane for lane, queue in queues.items() if done.issuperset(tasks[queue[0]].waits)]
        lane = ready[rng.integers(len(ready))]
        position = queues[lane].pop(0)
        if not queues[lane]:
            del queues[lane]
        tasks[position].run()
        done.add(position)
        order.append(position)
    return order
