"""The split of a network over devices: a pass over the graph that says who holds, reads and sends what.

Devices form a grid of R replicas x T towers, ``devices[r * T + t]``. A replica works on its part of every
batch; inside a replica each layer's channels are cut into T slices, one a tower. A layer that finds all it
reads on its own device runs there alone; one that needs more first gathers it, and the gradient of what was
gathered goes back to its owners, who add up the parts (a reduce-scatter). For AlexNet's two towers over two
devices that is the paper's scheme (section 3.5, figure 2): conv3 and the fully connected layers see both.

What a slice of a layer reads, and whether it can be made at all, the layer says
(:meth:`pyconvnet.layers.Layer.slice`). Rules, in the order of the graph:

* Layers whose slices read many channels, as convolutions and fully connected layers do: T slices of filters.
  ``groups`` divisible by T, or T by ``groups``, so that a slice reads whole groups or one group; otherwise
  the layer cannot be split. (Without parameters, as concatenation: whole where all its inputs are.)
* A layer that makes all channels at once, as a cost, lies whole where its first input does, else on tower 0.
* The layer whose output only costs read (the class scores) lies whole where the cost is, on tower 0, as in
  the 2012 code: one crossing, where a split would have two. (Not in a hybrid of at most as many
  devices as classes: there tower 0 would compute the scores of all replicas' examples alone.)
* A layer with ``device=d`` lies whole on tower d (cuda-convnet's ``gpu=``); ``device="all"`` asks for slices
  where the rules above would not make any.
* Everything else lies where its first input lies. Where its window of channels reaches into a neighbouring
  slice, as response normalisation's does, it gathers just the channels it lacks.
* ``hybrid``: from the first fully connected layer on, all R * T devices are towers of one replica (A.
  Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, scheme a).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..common.checks import check_number, flag
from ..layers import Layer, Slice
from .crossings import Crossing, crossings, table
from .node import INPUT, Graph, Node
from .regions import Local, PartitionError, Placement, Region


class Partition(Placement):
    """Where everything lies; made by :func:`partition`, printed as a table."""

    def __init__(self, network: Graph, devices: Sequence[str], replicas: int, hybrid: bool, batch_size: int):
        super().__init__(network, devices, replicas, hybrid, batch_size)
        self._fully_connected = self._after_linear()
        self._scores = self._score_layers()
        for node in network:
            self._place(node)

    # ---- where a layer lies --------------------------------------------------------------------------------
    def _after_linear(self) -> set[str]:
        names: set[str] = set()
        for node in self.network:
            if node.layer.fully_connected or names.intersection(node.inputs):
                names.add(node.name)
        return names

    def _score_layers(self) -> set[str]:
        readers: dict[str, list[Node]] = {}
        for node in self.network:
            for source in node.inputs:
                readers.setdefault(source, []).append(node)
        return {name for name, nodes in readers.items() if all(node.layer.is_cost for node in nodes)}

    def _grid(self, node: Node) -> tuple[int, int]:
        """Return (replicas, towers) as this layer sees the devices."""
        if self.hybrid and node.name in self._fully_connected:
            return 1, len(self.devices)
        return self.replicas, self.towers

    def _regions(self, node: Node, slices: Sequence[tuple[int, int] | None]) -> tuple[Region | None, ...]:
        """Return the slice of each tower, in every replica, as regions of the devices."""
        replicas, towers = self._grid(node)
        out: list[Region | None] = []
        for d in range(len(self.devices)):
            span = slices[d % towers]
            out.append(None if span is None else Region(d // towers, replicas, *span))
        return tuple(out)

    def _whole(self, node: Node, tower: int) -> list[tuple[int, int] | None]:
        towers = self._grid(node)[1]
        if not 0 <= tower < towers:
            raise PartitionError(
                f"partition: {node} has device={tower}, but there are {towers} towers, numbered from 0"
            )
        channels = node.output_shape[-1] if node.output_shape else 1
        return [(0, channels) if t == tower else None for t in range(towers)]

    def _slices(self, node: Node) -> list[tuple[int, int] | None]:
        """Choose each tower's channels of the layer's output."""
        towers, layer = self._grid(node)[1], node.layer
        if towers == 1:
            return self._whole(node, 0)
        if isinstance(layer.device, int):
            return self._whole(node, layer.device)
        homes = [self._tower_of(node, source) for source in node.inputs]
        if not _separable(node):
            if layer.device == "all":
                what = "a cost looks at all the scores" if layer.is_cost else "it makes all channels"
                raise PartitionError(f"partition: {node} cannot be split: {what} at once")
            return self._whole(node, homes[0] or 0)
        if layer.reads == "all":
            few = not self.hybrid or node.output_shape[-1] < towers
            if node.parameters() and node.name in self._scores and layer.device is None and few:
                return self._whole(node, 0)
            if not node.parameters() and layer.device is None and None not in homes and len(set(homes)) == 1:
                return self._whole(node, homes[0])
            return self._even(node, getattr(layer, "groups", 1))
        if layer.device == "all":
            return self._even(node, 1)
        first = node.inputs[0]
        if first == INPUT or self._layout(first) != self._grid(node):
            # Not worth slicing before the first layer with filters.
            return self._whole(node, 0) if first == INPUT else self._even(node, 1)
        held = self.held[first]
        return [None if held[t] is None else (held[t].start, held[t].stop) for t in range(towers)]

    def _layout(self, name: str) -> tuple[int, int]:
        return (self.replicas, self.towers) if name == INPUT else self._grid(self.network[name])

    def _tower_of(self, node: Node, source: str) -> int | None:
        """Find the tower that holds all of ``source``, where there is just one in this layer's grid."""
        if source == INPUT or self._layout(source) != self._grid(node):
            return None
        holders = [t for t in range(self._grid(node)[1]) if self.held[source][t] is not None]
        return holders[0] if len(holders) == 1 else None

    def _even(self, node: Node, groups: int) -> list[tuple[int, int] | None]:
        towers, count = self._grid(node)[1], node.output_shape[-1]
        if towers % groups and groups % towers:
            raise PartitionError(
                f"partition: {node} cannot be split over {towers} devices: its {groups} groups neither "
                f"divide nor are divided by {towers}; give it device=0 to keep it whole"
            )
        blocks = groups if groups < towers else 1  # several towers share a group
        per_block, size = towers // blocks, count // blocks
        if size < per_block:
            raise PartitionError(
                f"partition: {node} cannot be split over {towers} devices: it has {count} channels in "
                f"{groups} group{'s' if groups > 1 else ''}; give it device=0 to keep it whole"
            )
        edges = [b * size + size * i // per_block for b in range(blocks) for i in range(per_block)] + [count]
        return list(itertools.pairwise(edges))

    # ---- what a layer reads --------------------------------------------------------------------------------
    def _place(self, node: Node) -> None:
        held = self._regions(node, self._slices(node))
        self.held[node.name] = held
        if node.parameters():
            slices = tuple(None if k is None else (k.start, k.stop) for k in held)
            known = self.filters.setdefault(node.owner, slices)
            if known != slices:
                raise PartitionError(
                    f"partition: {node} cannot be split: it uses the parameters of layer {node.owner!r}, "
                    "which lies on other devices; give both the same device="
                )
        for d, region in enumerate(held):
            if region is not None:
                self.locals[d].append(self._local(node, d, region))

    def _local(self, node: Node, device: int, holds: Region) -> Local:
        found = _slice(node, holds.start, holds.stop)
        computes = holds if found.computes is None else Region(holds.part, holds.parts, *found.computes)
        taken = [(s, span) for s, span in zip(node.inputs, found.reads, strict=True) if span[0] < span[1]]
        reads = tuple(Region(holds.part, holds.parts, *span) for _, span in taken)
        return Local(node, device, found.layer, tuple(s for s, _ in taken), reads, computes, holds, node)

    # ---- description ---------------------------------------------------------------------------------------
    def crossings(self, n: int | None = None, itemsize: int = 4) -> list[Crossing]:
        """List everything that crosses between devices in one training step on ``n`` examples."""
        return crossings(self, self.batch_size if n is None else n, itemsize)

    def table(self, n: int | None = None) -> str:
        """Tell per layer each device's channels (and share of the batch), what it gathers, bytes a step."""
        return table(self, self.batch_size if n is None else n)

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__


def _separable(node: Node) -> bool:
    """Tell whether channels of the layer's output can be made without the others."""
    if not all(p.per_channel for p in node.parameters()):
        return False
    channels = node.output_shape[-1] if node.output_shape else 1
    try:
        return node.layer.slice(0, channels, *node.input_shapes) is not None
    except ValueError as error:
        raise PartitionError(f"partition: {node}: {error}") from None


def _slice(node: Node, start: int, stop: int) -> Slice:
    """Ask the layer for a slice of its output and check it; the whole is the layer itself."""
    whole = tuple((0, shape[-1]) for shape in node.input_shapes)
    if not node.output_shape or (start, stop) == (0, node.output_shape[-1]):
        return Slice(node.layer, whole)
    found = node.layer.slice(start, stop, *node.input_shapes)
    what = f"partition: {node} cannot make channels {start}:{stop}: "
    if not isinstance(found, Slice) or not isinstance(found.layer, Layer):
        raise PartitionError(f"{what}slice must return a Slice of a layer, got {found!r}")
    if len(found.reads) != len(whole) or any(
        not 0 <= first <= last <= channels
        for (first, last), (_, channels) in zip(found.reads, whole, strict=True)
    ):
        raise PartitionError(f"{what}its slice reads {found.reads} of inputs that have {whole}")
    if not any(first < last for first, last in found.reads):
        raise PartitionError(f"{what}its slice reads nothing")
    computes = found.computes or (start, stop)
    if not 0 <= computes[0] <= start < stop <= computes[1] <= node.output_shape[-1]:
        raise PartitionError(f"{what}its slice computes {computes}")
    if computes != (start, stop) and node.parameters():
        where = "and their parameters lie on other devices"
        raise PartitionError(f"{what}its slice computes {computes}, {where}")
    return found


def partition(
    network: Graph,
    devices: int | Sequence[str],
    replicas: int = 1,
    hybrid: bool = False,
    *,
    batch_size: int = 128,
) -> Partition:
    """Split a network over devices.

    Parameters
    ----------
    network : Network
    devices : int or sequence of str
        How many, or their names; names may repeat.
    replicas : int
        R: copies of the network, each working on its share of every batch; must divide the number of devices.
    hybrid : bool
        Replicate the convolutions R times, but split the fully connected layers over all devices.
    batch_size : int
        For the bytes the table tells.

    Raises
    ------
    PartitionError
        (a ValueError) A layer that cannot be split; the message names it and says why.
    ValueError, TypeError
        A bad option.
    """
    if isinstance(devices, (str, int)):
        if isinstance(devices, str):
            raise TypeError(f"partition: devices must be a list of names or a number, got {devices!r}")
        check_number("partition: devices", devices, "positive int")
        devices = [str(d) for d in range(devices)]
    names = [str(getattr(d, "name", d)) for d in devices]
    if not names:
        raise ValueError("partition: devices must name at least one device, got an empty list")
    check_number("partition: replicas", replicas, "positive int")
    check_number("partition: batch_size", batch_size, "positive int")
    hybrid = flag("partition", "hybrid", hybrid)
    if len(names) % replicas:
        raise ValueError(
            f"partition: replicas must divide the number of devices, {len(names)}, got {replicas}"
        )
    return Partition(network, names, replicas, hybrid, batch_size)
