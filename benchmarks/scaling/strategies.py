"""How a step is shared out, and how long it then takes: a step played through on the busiest GPU."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyconvnet.network import Network

from .collectives import Collectives, Group
from .hardware import Fabric, Gpu, count, positive
from .work import ITEM, Kernel, Work, work_of

KINDS = ("data", "model", "towers", "hybrid")
HEADS = ("split", "first")
#: What a step's time consists of, in the order in which pictures and tables show it.
PARTS = ("arithmetic", "memory", "overhead", "update", "exchange", "sync")


@dataclass(frozen=True)
class Strategy:
    """How the GPUs share a step.

    Parameters
    ----------
    kind : str
        ``data``: every GPU has the whole network and its part of the batch. ``model``: every GPU has its part
        of each layer and the whole batch. ``towers``: replicas of a network split over ``split`` GPUs.
        ``hybrid``: the layers before the first fully connected one as in ``data``, the others split over
        ``split`` GPUs.
    split : int, optional
        Default: 2 for towers, all GPUs for hybrid. Never more than there are.
    fc_batch : int, optional
        Hybrid only: the fully connected layers take the gathered batch in passes of this many examples, and
        update after each ("variable batch"); default: all at once.
    head : "split" or "first"
        ``first``: the last fully connected layer is whole on the first of the GPUs that share the network, as
        in the code of 2012 (and in this library unless the layer says ``device="all"``).
    """

    kind: str
    split: int | None = None
    fc_batch: int | None = None
    head: str = "split"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"strategy must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.split is not None:
            count(f"strategy {self.kind}: split", self.split)
            if self.kind in ("data", "model"):
                raise ValueError(
                    f"strategy {self.kind}: split belongs to towers and hybrid, got {self.split}"
                )
        if self.fc_batch is not None:
            count(f"strategy {self.kind}: batch", self.fc_batch)
            if self.kind != "hybrid":
                raise ValueError(f"strategy {self.kind}: batch belongs to hybrid, got {self.fc_batch}")
        if self.head not in HEADS:
            raise ValueError(
                f"strategy {self.kind}: head must be one of {', '.join(HEADS)}, got {self.head!r}"
            )
        if self.head == "first" and self.kind == "data":
            raise ValueError("strategy data: head=first belongs to model, towers and hybrid")

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """``KIND`` or ``KIND:split=8,batch=128,head=first``."""
        kind, _, rest = text.partition(":")
        options: dict[str, str] = {}
        for item in filter(None, rest.split(",")):
            key, _, value = item.partition("=")
            if key not in ("split", "batch", "head") or key in options:
                raise ValueError(f"strategy {text!r}: options are split=, batch= and head=, once each")
            options[key] = value
        numbers = {}
        for key in ("split", "batch"):
            if key in options and not options[key].isdecimal():
                raise ValueError(f"strategy {text!r}: {key} must be a whole number, got {options[key]!r}")
            numbers[key] = int(options[key]) if key in options else None
        return cls(kind, numbers["split"], numbers["batch"], options.get("head", "split"))

    def __str__(self) -> str:
        given = {
            "split": self.split,
            "batch": self.fc_batch,
            "head": None if self.head == "split" else "first",
        }
        options = ",".join(f"{k}={v}" for k, v in given.items() if v is not None)
        return f"{self.kind}:{options}" if options else self.kind

    def towers(self, gpus: int) -> tuple[int, int]:
        """Over how many GPUs one copy of the front, and of the back, of the network is split."""
        if self.kind == "data":
            return 1, 1
        if self.kind == "model":
            return gpus, gpus
        split = min(gpus, self.split or (2 if self.kind == "towers" else gpus))
        if gpus % split:
            raise ValueError(f"{gpus} GPUs are no multiple of split={split}")
        return (split, split) if self.kind == "towers" else (1, split)


@dataclass(frozen=True)
class Setting:
    """Everything a prediction depends on beside strategy, GPUs and batch.

    Attributes
    ----------
    bucket : bytes of gradient that are summed in one all-reduce
    overlap : gradients are summed while backward goes on, and a hybrid's passes hide each other's gathers
    input_rate : images/s that a node's processors can deliver
    works : the layers; made from the network unless given (with measured ratios)
    """

    network: Network
    gpu: Gpu
    fabric: Fabric
    precision: str = "fp32"
    algorithm: str = "auto"
    bucket: float = 25e6
    overlap: bool = True
    input_rate: float = math.inf
    works: list[Work] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gpu.rate(self.precision)
        positive("bucket", self.bucket)
        positive("input_rate", self.input_rate)
        if not self.works:
            self.works.extend(work_of(self.network, self.precision))


@dataclass(frozen=True)
class Prediction:
    """A step's predicted time in seconds, and what it consists of."""

    gpus: int
    batch: int
    step: float
    parts: dict[str, float]
    sync_total: float
    input_bound: bool

    @property
    def images_per_second(self) -> float:
        return self.batch / self.step

    @property
    def bound(self) -> str:
        """The largest part."""
        return "input" if self.input_bound else max(self.parts, key=lambda part: self.parts[part])


class _Step:
    """Time on the busiest GPU: its own, and when its links are through with the gradients they were given."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.now = self.link_free = self.sync_total = 0.0
        self.parts = Counter(dict.fromkeys(PARTS, 0.0))
        self.pending: dict[Group, float] = {}
        self.collectives = Collectives(setting.fabric, setting.algorithm)

    def spend(self, part: str, seconds: float) -> None:
        self.now += seconds
        self.parts[part] += seconds

    def compute(self, kernels: Iterable[Kernel], rows: int, x: float, y: float) -> None:
        for kernel in kernels:
            parts = kernel.seconds(self.setting.gpu, self.setting.precision, rows, x, y)
            for part, seconds in zip(PARTS, parts, strict=False):
                self.spend(part, seconds)

    def exchange(self, seconds: float) -> None:
        """Activations or their gradients, which the GPU waits for; gradients under way are held up by it."""
        if self.link_free > self.now:
            self.link_free += seconds
        self.spend("exchange", seconds)

    def sum_over(self, group: Group, nbytes: float) -> None:
        """Gradients that are ready to be summed; full buckets leave."""
        if group.size == 1 or not nbytes:
            return
        self.pending[group] = self.pending.get(group, 0.0) + nbytes
        if self.setting.overlap:
            while self.pending[group] >= self.setting.bucket:
                self._send(group, self.setting.bucket)

    def _send(self, group: Group, nbytes: float) -> None:
        seconds = self.collectives.all_reduce(nbytes, group)
        self.link_free = max(self.link_free, self.now) + seconds
        self.sync_total += seconds
        self.pending[group] -= nbytes

    def finish_sums(self) -> None:
        """Wait for all gradients."""
        for group in self.pending:
            while self.pending[group] > 0.5:  # bytes; parts of a byte are rounding
                self._send(group, min(self.pending[group], self.setting.bucket))
        self.spend("sync", max(0.0, self.link_free - self.now))


class _Player:
    """Plays one step of one strategy."""

    def __init__(self, setting: Setting, strategy: Strategy, gpus: int, batch: int):
        self.setting, self.strategy, self.gpus, self.batch = setting, strategy, gpus, batch
        self.step = _Step(setting)
        self.item = ITEM[setting.precision]
        works = setting.works
        self.cut = next((i for i, w in enumerate(works) if w.kind == "Linear"), len(works))
        self.last = max((i for i, w in enumerate(works) if w.kind == "Linear"), default=-1)
        if strategy.kind == "hybrid" and self.cut == len(works):
            raise ValueError(
                f"strategy hybrid: network {setting.network.name!r} has no fully connected layer"
            )
        self.place = {w.name: i for i, w in enumerate(works)}
        self.towers = strategy.towers(gpus)
        self.replicas = tuple(gpus // t for t in self.towers)
        if batch < max(self.replicas):
            raise ValueError(
                f"a batch of {batch} leaves some of {max(self.replicas)} replicas without images"
            )
        self.rows = tuple(math.ceil(batch / r) for r in self.replicas)
        group = self.step.collectives.group
        self.split = tuple(group(t) for t in self.towers)
        self.same = tuple(group(r, t) for r, t in zip(self.replicas, self.towers, strict=True))

    # ---- one layer -----------------------------------------------------------------------------------------
    def _side(self, i: int) -> int:
        return int(i >= self.cut)

    def _on_first(self, i: int) -> bool:
        """Whole on the first GPU?"""
        return self.strategy.head == "first" and i >= self.last

    def _shares(self, i: int) -> tuple[float, float]:
        """The parts of a layer's input and output that a GPU works on."""
        work = self.setting.works[i]
        if self._on_first(i) or work.cost:
            return 1.0, 1.0
        return work.shares(self.towers[self._side(i)])

    def _exchanges(self, i: int, rows: int) -> list[tuple[int, float, bool]]:
        """(input, seconds, wants a gradient) of every input that has to come from other GPUs."""
        work, side = self.setting.works[i], self._side(i)
        if self.towers[side] == 1 or (self._on_first(i) and self._on_first(i - 1)):
            return []
        out = []
        for source, elements, wants in work.inputs:
            j = self.place.get(source, -1)  # -1: the images, which every GPU has
            if j >= 0 and not (work.local(self.towers[side]) and self._side(j) == side):
                out.append((j, self._seconds(work, i, float(self.item * elements * rows)), wants))
        return out

    def _seconds(self, work: Work, i: int, nbytes: float) -> float:
        """One exchange of what a layer reads; ``nbytes`` is all of its input."""
        collectives, group = self.step.collectives, self.split[self._side(i)]
        if self._on_first(i):
            return collectives.gather_to_one(nbytes, group)
        if work.window:
            return collectives.neighbours(nbytes * (work.window - 1) / work.channels, group)
        groups = max(1, work.groups)
        return collectives.all_gather(nbytes / groups, collectives.group(group.size // groups))

    def _forward(self, i: int, rows: int, gathered: set[int], skip_cut: bool = False) -> float:
        """One layer forward; returns the time of exchanges across the cut, spent unless skipped."""
        crossing = 0.0
        for j, seconds, _ in self._exchanges(i, rows):
            if j in gathered:
                continue
            gathered.add(j)
            if self._side(j) != self._side(i):
                crossing += seconds
                if skip_cut:
                    continue
            self.step.exchange(seconds)
        self.step.compute(self.setting.works[i].forward, rows, *self._shares(i))
        return crossing

    def _backward(self, i: int, rows: int, skip_cut: bool = False) -> float:
        crossing = 0.0
        work = self.setting.works[i]
        self.step.compute(work.backward, rows, *self._shares(i))
        for j, seconds, wants in self._exchanges(i, rows):
            if not wants or work.cost:  # every GPU makes the whole gradient of the scores itself
                continue
            if self._side(j) != self._side(i):
                crossing += seconds
                if skip_cut:
                    continue
            self.step.exchange(seconds)
        return crossing

    def _gradient_bytes(self, i: int) -> float:
        work = self.setting.works[i]
        if not work.parameters:
            return 0.0
        return 4.0 * work.parameters * self._shares(i)[1]

    def _update(self, indices: Iterable[int], times: int = 1) -> None:
        """One launch over all parameters of the layers."""
        gpu, precision = self.setting.gpu, self.setting.precision
        seconds = overhead = 0.0
        for i in indices:
            kernel = self.setting.works[i].update
            _, memory, launch = kernel.seconds(gpu, precision, 0, 1.0, self._shares(i)[1])
            seconds, overhead = seconds + memory, max(overhead, launch)
        self.step.spend("update", times * (seconds + overhead))

    # ---- the whole step ------------------------------------------------------------------------------------
    def play(self) -> Prediction:
        step, n = self.step, len(self.setting.works)
        front, back = range(self.cut), range(self.cut, n)
        passes = math.ceil(self.rows[1] / (self.strategy.fc_batch or self.rows[1]))
        gathered: set[int] = set()
        for i in front:
            self._forward(i, self.rows[0], gathered)
        if passes == 1:
            for i in back:
                self._forward(i, self.rows[1], gathered)
            for i in reversed(back):
                self._backward(i, self.rows[1])
                step.sum_over(self.same[1], self._gradient_bytes(i))
        else:
            self._passes(back, passes)
        for i in reversed(front):
            self._backward(i, self.rows[0])
            step.sum_over(self.same[0], self._gradient_bytes(i))
        step.finish_sums()
        self._update(front if passes > 1 else range(n))
        nodes = math.ceil(self.gpus / self.setting.fabric.gpus_per_node)
        least = self.batch / (nodes * self.setting.input_rate)
        return Prediction(
            gpus=self.gpus,
            batch=self.batch,
            step=max(step.now, least),
            parts=dict(step.parts),
            sync_total=step.sync_total,
            input_bound=least > step.now,
        )

    def _passes(self, back: range, passes: int) -> None:
        """The fully connected layers in equal passes, each with its own update; all take the same time."""
        step, overlap = self.step, self.setting.overlap
        rows = math.ceil(self.rows[1] / passes)
        for p in range(passes):
            start, before, gathered = step.now, step.parts["exchange"], set()
            hidden = overlap and p > 0
            gather = sum(self._forward(i, rows, gathered, skip_cut=True) for i in back)
            scatter = sum(self._backward(i, rows, skip_cut=True) for i in reversed(back))
            own = (step.now - start) - (step.parts["exchange"] - before)  # the links are idle for so long
            if hidden:
                step.exchange(max(0.0, gather + scatter - own))
            else:
                step.exchange(gather + (0.0 if overlap else scatter))
            for i in reversed(back):
                step.sum_over(self.same[1], self._gradient_bytes(i))
            step.finish_sums()  # the next pass computes with the updated weights
            self._update(back)
            if overlap and p == passes - 1:
                step.exchange(scatter)


def predict(setting: Setting, strategy: Strategy, gpus: int, batch: int) -> Prediction:
    """One training step of ``batch`` images over ``gpus`` GPUs.

    Raises
    ------
    ValueError
        The strategy cannot use so many GPUs, or the batch has fewer images than there are replicas.
    """
    count("gpus", gpus)
    count("batch", batch)
    return _Player(setting, strategy, gpus, batch).play()
