"""What crosses between the devices of a split, to the byte, and the table that tells it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..common.text import columns
from .node import INPUT, Node
from .regions import Placement, Region, gradient_names, padded, trainable


@dataclass(frozen=True)
class Crossing:
    """Bytes that go from one device to another in a training step, and the layer that needs them.

    ``kind``: "gather" (forward), "gradient" (of what was gathered, back to its owner) or "weights"
    (gradients of parameters that replicas share).
    """

    layer: str
    kind: str
    source: int
    target: int
    nbytes: int


def crossings(partition: Placement, n: int, itemsize: int = 4) -> list[Crossing]:
    """List everything that crosses between devices in one training step on ``n`` examples, with ``itemsize``
    bytes for an activation: 4, or 2 in bfloat16. Gradients of parameters are float32 at least.
    """
    needed, out = set(gradient_names(partition.network)), []
    for d in range(len(partition.devices)):
        for source, region, node in partition.gathers(d):
            shape = (
                partition.network.input_shape if source == INPUT else partition.network[source].output_shape
            )
            back = source in needed and _returns(partition, d, source, region, needed)
            for share in partition.contributions(source, d, region):
                values = share.region.count(n) * math.prod(shape[:-1]) * share.region.channels
                if share.source != d and values:
                    nbytes = values * itemsize
                    out.append(Crossing(node.name, "gather", share.source, d, nbytes))
                    if back:
                        out.append(Crossing(node.name, "gradient", d, share.source, nbytes))
    return out + list(_shared(partition, max(4, itemsize)))


def _returns(partition: Placement, device: int, source: str, region: Region, needed: set[str]) -> bool:
    """Tell whether any reader of a gathered copy puts a gradient into it."""
    return any(
        (source, region) in zip(local.sources, local.reads, strict=True)
        and (local.node.layer.is_cost or local.node.name in needed)
        for local in partition.locals[device]
    )


def _shared(partition: Placement, itemsize: int) -> Iterator[Crossing]:
    """Yield the gradients that replicas add up: each owns an equal share of the sum, collects the others'
    parts of it and sends the sum back.
    """
    for owner in partition.filters:
        if not trainable(partition.network, partition.network[owner]):
            continue
        parameters = partition.network[owner].parameters()
        for group in partition.sharing(owner):
            channels = partition.filters[owner][group[0]]
            values = sum(padded(p.part(*channels).size) for p in parameters)  # gaps travel along
            for i, d in enumerate(group):
                share = values * (i + 1) // len(group) - values * i // len(group)
                for other in group:
                    if other != d and share:
                        yield Crossing(owner, "weights", other, d, share * itemsize)
                        yield Crossing(owner, "weights", d, other, share * itemsize)


def table(partition: Placement, n: int) -> str:
    """Tell per layer each device's channels (and share of the batch), what it gathers, bytes a step."""
    names = [f"{d}: {name}" for d, name in enumerate(partition.devices)]
    rows = [("layer", "kind", "output", *names, "gathers", "forward", "backward", "weights")]
    everything = crossings(partition, n)
    for node in partition.network:
        mine = [c for c in everything if c.layer == node.name]
        reads = {
            s for d in range(len(partition.devices)) for s, _, first in partition.gathers(d) if first == node
        }
        shape = "x".join(map(str, node.output_shape)) or "loss"
        held = [_place_text(node, region, n) for region in partition.held[node.name]]
        if node.name in partition.fused:
            held = [f"in {partition.fused[node.name]}"] * len(held)
        by_kind = [sum(c.nbytes for c in mine if c.kind == k) for k in ("gather", "gradient", "weights")]
        moved = [f"{b:,}" if b else "" for b in by_kind]
        gathered = ", ".join(sorted(reads)) if any(by_kind[:2]) else ""
        rows.append((node.name, type(node.layer).__name__, shape, *held, gathered, *moved))
    totals = [
        f"{sum(c.nbytes for c in everything if c.kind == k):,}" for k in ("gather", "gradient", "weights")
    ]
    held = [f"{partition.parameters(d):,}" for d in range(len(partition.devices))]
    rows.append(("total", "", "parameters", *held, "bytes a step", *totals))
    lines = columns(rows)
    grid = f"{partition.replicas} replica{'s' if partition.replicas > 1 else ''} x {partition.towers} tower"
    grid += "s" if partition.towers > 1 else ""
    title = f"{partition.network.name} over {len(partition.devices)} devices, {grid}"
    title += f"{', fully connected layers over all' if partition.hybrid else ''}, batch {n}, float32"
    rule = "-" * max(map(len, lines))
    return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _place_text(node: Node, region: Region | None, n: int) -> str:
    if region is None:
        return "-"
    first, last = region.rows(n)
    rows = f"rows {first}:{last} " if region.parts > 1 else ""
    return f"{rows}{region.start}:{region.stop}" if node.output_shape else f"{rows}cost"
