"""Runs of neighbouring parameters: whose gradients are summed in one go, and which are updated in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..network.partition import Partition
from ..network.regions import trainable
from .memory import Shard

#: Elements that are summed over replicas or processes, or updated, in one go: enough for a link's bandwidth
#: and for a launch, few enough that the first begin early in backward.
BUCKET = 1 << 20


@dataclass
class Bucket:
    """A run of gradients that is summed in one go: where it lies on each device of ``group``."""

    group: tuple[int, ...]
    ranges: dict[int, tuple[int, int]]
    owners: list[str]  # its layers, the last of the network first
    number: int
    ready: int  # number of the layer after whose backward it is complete

    @property
    def size(self) -> int:
        first, last = self.ranges[self.group[0]]
        return last - first

    def continues(self, ranges: dict[int, tuple[int, int]]) -> bool:
        """Tell whether the bucket can be lengthened by what lies just before it on every device."""
        return self.size < BUCKET and all(self.ranges[d][0] == last for d, (_, last) in ranges.items())


def buckets(partition: Partition, shards: Sequence[Shard], processes: bool = False) -> list[Bucket]:
    """List the gradients to be summed, in the order in which backward completes them: those that several
    devices share; for sums over ``processes`` each device's own, all of them.
    """
    out: list[Bucket] = []
    open_: dict[tuple[int, ...], Bucket] = {}
    for owner in reversed(partition.filters):
        node = partition.network[owner]
        groups = partition.sharing(owner)
        if processes:
            groups = [[d] for group in groups for d in group]
        if not trainable(partition.network, node):
            continue
        for group in map(tuple, groups):
            if len(group) < 2 and not processes:
                continue
            for p in reversed(node.parameters()):
                ranges = {d: shards[d].arena.range(f"{owner}.{p.name}") for d in group}
                bucket = open_.get(group)
                if bucket is None or not bucket.continues(ranges):
                    bucket = open_[group] = Bucket(group, ranges, [], len(out), node.index)
                    out.append(bucket)
                else:
                    bucket.ranges = {d: (first, bucket.ranges[d][1]) for d, (first, _) in ranges.items()}
                bucket.ready = node.index
                if owner not in bucket.owners:
                    bucket.owners.append(owner)
    return sorted(out, key=lambda bucket: -bucket.ready)


@dataclass
class Piece:
    """A run of a device's parameters that is updated in one launch."""

    first: int  # number of its first parameter array on the device
    last: int  # one more than that of its last
    owners: list[str]  # its layers that learn, the last of the network first
    ready: int  # number of the layer after whose backward nobody needs the old values any more


def pieces(partition: Partition, shard: Shard, sums: Sequence[Bucket]) -> list[Piece]:
    """Cut a device's parameters into runs of at least :data:`BUCKET` elements, in the order in which backward
    is done with them; the last one is what is left, of any size.

    Parameters
    ----------
    sums : sequence of Bucket
        The gradients that are summed over devices: a piece is ready after those of its layers.
    """
    held = [owner for owner, slices in partition.filters.items() if slices[shard.index]]
    out, size, last = [], 0, len(shard.arena.ends)
    piece = Piece(last, last, [], len(partition.network))
    for owner in reversed(held):
        if size >= BUCKET:
            out.append(piece)
            size, piece = 0, Piece(piece.first, piece.first, [], piece.ready)
        node = partition.network[owner]
        names = [f"{owner}.{p.name}" for p in node.parameters()]
        piece.first -= len(names)
        size += sum(last - first for first, last in map(shard.arena.range, names))
        if any(p.lr_mult for p in node.parameters()):
            piece.owners.append(owner)
            piece.ready = node.index
    out.append(piece)
    for piece in out:
        own = [b.ready for b in sums if shard.index in b.group and not set(b.owners).isdisjoint(piece.owners)]
        piece.ready = min([piece.ready, *own])
    return out
