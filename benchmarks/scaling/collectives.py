"""What collective operations cost: alpha-beta models, on one level or inside and between nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .hardware import Fabric, Link, count

#: ``auto``: the cheapest of ring, tree and doubling on each level; on paper that is doubling (libraries take
#: rings for long messages because of contention, which is not modelled). ``direct``: every GPU sends its part
#: straight to each other one, the way peer-to-peer copies without a library do.
ALGORITHMS = ("auto", "ring", "tree", "doubling", "direct")


@dataclass(frozen=True)
class Group:
    """GPUs that work together: ``per_node`` of them in each of ``nodes`` nodes."""

    per_node: int
    nodes: int

    @property
    def size(self) -> int:
        return self.per_node * self.nodes


@dataclass(frozen=True)
class Collectives:
    """Seconds of collectives over groups of a fabric's GPUs.

    Bytes are those of the whole vector: what an all-gather leaves on each GPU and a reduce-scatter takes
    from each.
    """

    fabric: Fabric
    algorithm: str = "auto"

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")

    def group(self, size: int, stride: int = 1) -> Group:
        """The group of every ``stride``-th GPU, ``size`` of them, GPUs being numbered node by node."""
        count("group: size", size)
        count("group: stride", stride)
        per_node = min(size, max(1, self.fabric.gpus_per_node // stride))
        nodes = math.ceil(size / per_node)
        # Nodes that are not full count as the full ones: the time is that of the fullest.
        return Group(per_node, nodes) if nodes > 1 else Group(size, 1)

    # ---- one level: seconds of latency and of transfer -----------------------------------------------------
    def _reduce_level(self, nbytes: float, g: int, link: Link) -> tuple[float, float]:
        if g == 1:
            return 0.0, 0.0
        steps, share = math.ceil(math.log2(g)), (g - 1) / g
        costs = {
            "ring": (2 * (g - 1) * link.latency, 2 * share * nbytes / link.bandwidth),
            "tree": (2 * steps * link.latency, 2 * nbytes / link.bandwidth),
            "doubling": (2 * steps * link.latency, 2 * share * nbytes / link.bandwidth),
        }
        return min(costs.values(), key=sum) if self.algorithm == "auto" else costs[self.algorithm]

    def _gather_level(self, nbytes: float, g: int, link: Link) -> tuple[float, float]:
        if g == 1:
            return 0.0, 0.0
        steps = g - 1 if self.algorithm == "ring" else math.ceil(math.log2(g))
        return steps * link.latency, (g - 1) / g * nbytes / link.bandwidth

    def _direct(self, nbytes: float, group: Group) -> float:
        """A part from (or to) each other GPU, one after the other: a GPU has one port."""
        inside, outside = self.fabric.inside, self.fabric.outside
        near, far = group.per_node - 1, group.size - group.per_node
        part = nbytes / group.size
        return near * (inside.latency + part / inside.bandwidth) + far * (
            outside.latency + part / outside.bandwidth
        )

    # ---- both levels: latencies add, transfers run at the same time, chunk behind chunk --------------------
    def all_reduce(self, nbytes: float, group: Group) -> float:
        """Reduce-scatter inside the node, sum each part between nodes, gather inside."""
        inside, outside = self.fabric.inside, self.fabric.outside
        if self.algorithm == "direct":
            return 2 * self._direct(nbytes, group)
        if group.nodes == 1:
            return sum(self._reduce_level(nbytes, group.per_node, inside))
        far_latency, far = self._reduce_level(nbytes / group.per_node, group.nodes, outside)
        near_latency, near = self._gather_level(nbytes, group.per_node, inside)
        return far_latency + 2 * near_latency + max(far, 2 * near)

    def all_gather(self, nbytes: float, group: Group) -> float:
        """Gather between nodes what GPUs of the same place hold, then inside."""
        if self.algorithm == "direct":
            return self._direct(nbytes, group)
        far_latency, far = self._gather_level(nbytes / group.per_node, group.nodes, self.fabric.outside)
        near_latency, near = self._gather_level(nbytes, group.per_node, self.fabric.inside)
        return far_latency + near_latency + max(far, near)

    def reduce_scatter(self, nbytes: float, group: Group) -> float:
        """The all-gather backwards: the same messages."""
        return self.all_gather(nbytes, group)

    def gather_to_one(self, nbytes: float, group: Group) -> float:
        """Everything to (or, scattered, from) one GPU, whose links bound it."""
        if self.algorithm == "direct":
            return self._direct(nbytes, group)
        far_latency, far = self._gather_level(nbytes, group.nodes, self.fabric.outside)
        near_latency, near = self._gather_level(nbytes / group.nodes, group.per_node, self.fabric.inside)
        return far_latency + near_latency + max(far, near)

    def neighbours(self, nbytes: float, group: Group) -> float:
        """Half of the bytes from the GPU before, half from the one after; one of them in another node."""
        far = self.fabric.outside if group.nodes > 1 else self.fabric.inside
        return sum(link.latency + nbytes / 2 / link.bandwidth for link in (self.fabric.inside, far))
