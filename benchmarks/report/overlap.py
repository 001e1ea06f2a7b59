"""What a step sees of the update, of which all but the first layer's part runs beside backward's products.

A piece of the parameters is updated once backward is done with it (``pyconvnet/plan/buckets.py``), by
``sgd_momentum_beside`` on a stream of its own. The rules are those of docs/cycle-model.md: it moves no byte
while kernels run that memory bounds; beside a product no more than its blocks have under way, nor than the
product leaves of the memory's bandwidth; and what it moves goes through L2 like the product's operands, which
lengthens the product's steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

from scaling.work import UPDATE_BYTES

from report import cycles

#: Elements of a tile of sgd_momentum_beside, of which each multiprocessor has one block.
TILE = 512
#: Registers of a quarter of a multiprocessor, and those that a warp of the update needs in one.
QUARTER, WARP = 16384, 32 * 32
CYCLES = cycles.MULTIPROCESSORS * cycles.CLOCK * 1e-6  #: of all multiprocessors in a microsecond


def pieces() -> list[tuple[str, int]]:
    """List the pieces in which a plan updates AlexNet: after whose backward, and how many parameters."""
    from pyconvnet import models
    from pyconvnet.network.partition import partition
    from pyconvnet.plan import buckets
    from pyconvnet.plan.buffers import Arena

    net = models.alexnet()
    arena = Arena(net.parameters())
    found = buckets.pieces(partition(net, ["cpu"]), SimpleNamespace(index=0, arena=arena), [])
    sizes = [spec.size for spec in arena.specs.values()]
    return [(piece.owners[-1], sum(sizes[piece.first : piece.last])) for piece in found]


def alone(precision: str) -> float:
    """Bytes that the update moves in a microsecond, left to itself: a tile in two latencies, since the last
    of a thread's loads waits for the first one's register.
    """
    return UPDATE_BYTES[precision] * TILE / (2 * cycles.LATENCY) * CYCLES


def beside(
    row: dict,
    product: cycles.Product,
    splits: int,
    shared: Sequence[int],
    precision: str,
    out_item: int,
    us: float,
) -> tuple[float, float] | None:
    """Rate of the update beside a product that takes `us` alone, in bytes a microsecond, and the product's
    time beside it; None where there is no room for it.
    """
    rate = min(alone(precision), cycles.H200.bandwidth * 1e-6 - product.nbytes / us)
    tile = cycles.tile_of(row)
    # Of a warp; they are dealt out by 8 to a thread.
    registers = 32 * 8 * cycles.ceil_div(cycles.newest(row)["registers"], 8)
    resident = min(tile.resident, (QUARTER - WARP) // (registers * tile.warps // 4))
    if rate <= 0 or not resident:
        return None
    row = row | {"occupancy": {"blocks": resident}}
    slowed = cycles.predict(row, product, splits, precision, out_item, cycles.L2 - rate / CYCLES, shared)
    return rate, max(us, slowed["us"])


def update_us(products: list[dict], predicted: Callable[[dict], tuple | None], precision: str) -> float:
    """Microseconds by which the update lengthens a step: products that take longer beside it, what is left
    when backward ends, the last piece.

    Parameters
    ----------
    products : list of dict
        The chosen rows of a precision, in the network's order.
    predicted : callable
        What :func:`beside` says of such a row.
    """
    per = UPDATE_BYTES[precision]
    *early, (_, last) = pieces()
    ready = {layer: count * per for layer, count in early}
    rows = {(row["layer"], row["op"]): row for row in products}
    left = lost = 0.0
    for layer in dict.fromkeys(row["layer"] for row in reversed(products)):
        for op in ("conv2d_dgrad", "conv2d_wgrad"):
            row = rows.get((layer, op))
            if row and left and (found := predicted(row)):
                rate, slowed = found
                together = min(slowed, left / rate)
                lost += together * (1 - row["us"] / slowed)
                left = max(left - rate * together, 0.0)
        left += ready.get(layer, 0.0)
    return lost + left / alone(precision) + cycles.memory_us(last * per)
