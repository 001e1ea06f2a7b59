"""What devices hold, read and make of a network's values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..layers import Layer
from .node import INPUT, Graph, Node

_ALIGN = 64  # elements: every parameter starts on a 256-byte boundary, which vector loads and TMA want


def padded(size: int) -> int:
    """Count the elements that a parameter of ``size`` takes up, with the gap after it."""
    return -(-size // _ALIGN) * _ALIGN


@dataclass(frozen=True)
class Region:
    """A part of a value: rows ``part`` of ``parts`` equal parts of the batch, channels [start, stop)."""

    part: int
    parts: int
    start: int
    stop: int

    @property
    def channels(self) -> int:
        return self.stop - self.start

    def rows(self, n: int) -> tuple[int, int]:
        """Return the first and last-plus-one example of a batch of ``n``."""
        return n * self.part // self.parts, n * (self.part + 1) // self.parts

    def count(self, n: int) -> int:
        """Count the examples of a batch of ``n``."""
        first, last = self.rows(n)
        return last - first

    def capacity(self, batch_size: int) -> int:
        """Return the most examples the part can hold for any batch up to ``batch_size``."""
        return -(-batch_size // self.parts)


@dataclass(frozen=True)
class Contribution:
    """What one device, ``source``, contributes to a gathered copy."""

    source: int
    region: Region


@dataclass(frozen=True)
class Local:
    """One layer's share on one device.

    Attributes
    ----------
    layer : Layer
        With the hyper-parameters of the share (filters, groups).
    reads : tuple of Region
        What it takes of each input, in the order of ``node.inputs`` less those it takes nothing of.
    sources : tuple of str
        The inputs' names, one for each of ``reads``.
    computes, holds : Region
        What it computes, and what of that it holds: the former has more, a halo, only where a window of
        channels reaches over those of its neighbours.
    learner : Node
        Whose parameters it uses: ``node``, or a layer whose work it does too.
    """

    node: Node
    device: int
    layer: Layer
    sources: tuple[str, ...]
    reads: tuple[Region, ...]
    computes: Region
    holds: Region
    learner: Node


class PartitionError(ValueError):
    """A network that cannot be split as asked; the message names the layer and the reason."""


def gradient_names(network: Graph, input_gradient: bool = False) -> list[str]:
    """List the outputs that need a gradient, in the order of the graph: on the way from a trainable parameter
    (or the images) to a cost.
    """
    learns = {INPUT: input_gradient}
    for node in network:
        learns[node.name] = trainable(network, node) or any(learns[source] for source in node.inputs)
    reaches = {source for node in network if node.layer.is_cost for source in node.inputs}
    for node in reversed(list(network)):
        if node.name in reaches:
            reaches.update(node.inputs)
    return [name for name in [INPUT, *(n.name for n in network)] if learns[name] and name in reaches]


def trainable(network: Graph, node: Node) -> bool:
    """Tell whether backward computes gradients of the parameters the layer uses."""
    if getattr(node.layer, "frozen", False):
        return False
    return any(p.lr_mult > 0 for p in network[node.owner].parameters())


class Placement:
    """What lies where, and what has to be gathered.

    Attributes
    ----------
    network : Network
    devices : tuple of str
    batch_size : int
    replicas, towers : int
        R and T.
    hybrid : bool
    held : dict of str to tuple of Region or None
        What each device holds of each output (and of the images, under "input").
    locals : list of list of Local
        Each device's layers, in the order of the graph.
    filters : dict of str to tuple
        By layer with parameters, the slice of channels whose parameters each device holds, or None.
    fused : dict of str to str
        By layer whose output is never written, the layer that does its work too.
    relu_by_readers : set of str
        Layers through whose ReLU those who read their output send the gradient back.
    gradient_aliases : dict of str to str
        By ReLU layer that has nothing to do in backward, its input, whose gradient is its own.
    """

    def __init__(self, network: Graph, devices: Sequence[str], replicas: int, hybrid: bool, batch_size: int):
        self.network, self.devices, self.batch_size = network, tuple(devices), batch_size
        self.replicas, self.towers, self.hybrid = replicas, len(devices) // replicas, hybrid
        channels = network.input_shape[-1]
        self.held: dict[str, tuple[Region | None, ...]] = {
            INPUT: tuple(Region(d // self.towers, replicas, 0, channels) for d in range(len(devices)))
        }
        self.filters: dict[str, tuple[tuple[int, int] | None, ...]] = {}
        self.locals: list[list[Local]] = [[] for _ in devices]
        self.fused: dict[str, str] = {}
        self.relu_by_readers: frozenset[str] = frozenset()
        self.gradient_aliases: dict[str, str] = {}

    @property
    def rectified(self) -> frozenset[str]:
        """``relu_by_readers`` by its name until 0.1."""
        return self.relu_by_readers

    @property
    def passed(self) -> dict[str, str]:
        """``gradient_aliases`` by its name until 0.1."""
        return self.gradient_aliases

    def contributions(self, name: str, device: int, region: Region) -> list[Contribution]:
        """List what each device contributes to ``region`` of a value on ``device``: by rows, then channels.

        The images lie on several devices at once; the device's own copy is taken first.
        """
        found: list[Contribution] = []
        seen: set[tuple[int, int]] = set()
        order = range(len(self.devices))
        for d in sorted(order, key=lambda d: (d != device, d)) if name == INPUT else order:
            held = self.held[name][d]
            if held is None or (region.parts == held.parts and region.part != held.part):
                continue
            start, stop = max(region.start, held.start), min(region.stop, held.stop)
            if start < stop and (held.part, start) not in seen:
                seen.add((held.part, start))
                found.append(Contribution(d, Region(held.part, held.parts, start, stop)))
        return sorted(found, key=lambda p: (p.region.part, p.region.start))

    def gathers(self, device: int) -> Iterator[tuple[str, Region, Node]]:
        """Yield the copies that ``device`` has to assemble, each with the first layer that reads it."""
        seen = set()
        for local in self.locals[device]:
            for source, region in zip(local.sources, local.reads, strict=True):
                if self.held[source][device] != region and (source, region) not in seen:
                    seen.add((source, region))
                    yield source, region, local.node

    def sharing(self, owner: str) -> list[list[int]]:
        """List the groups of devices that hold the same slice of a layer's parameters."""
        groups: dict[tuple[int, int], list[int]] = {}
        for d, channels in enumerate(self.filters[owner]):
            if channels is not None:
                groups.setdefault(channels, []).append(d)
        return list(groups.values())

    def parameters(self, device: int) -> int:
        """Count the parameters a device holds."""
        total = 0
        for owner, slices in self.filters.items():
            if slices[device] is not None:
                total += sum(p.part(*slices[device]).size for p in self.network[owner].parameters())
        return total
