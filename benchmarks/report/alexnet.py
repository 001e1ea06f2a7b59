"""Which kernels may run AlexNet's convolutions and fully connected layers on a GPU, and which do where
nothing was tuned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from shapes import alexnet_convs, alexnet_linears

BATCH = 128
PRECISIONS = ("fp32", "tf32", "bf16")
CELLS = ("layer", "op", "precision", "row", "splits", "shared", "cost")  #: of a row of :func:`rows`
OPS = ("conv2d", "conv2d_dgrad", "conv2d_wgrad")


def layers(batch: int = BATCH) -> list[tuple[str, dict[str, Any]]]:
    """List (name, shapes and options) of the convolutions as a plan runs them: the first one on images in the
    space-to-depth layout, a fully connected one on images of one pixel.
    """
    from pyconvnet import ops

    found = []
    for s in alexnet_convs(batch):
        shapes = {"x": s.x, "w": s.w, "stride": s.stride, "pad": s.pad, "groups": s.groups}
        if s.name == "conv1":
            depth = ops.space_to_depth.Depth(s.w[1:3], s.stride, s.pad)
            x = (batch, *depth.shape("conv1", s.x[1:], "float32"))
            w = ops.space_to_depth.filters_shape(s.w, s.stride, "float32")
            shapes = {"x": x, "w": w, "stride": 1, "pad": 0, "groups": 1}
        found.append((s.name, shapes))
    for s in alexnet_linears(batch):
        x, w = (s.x[0], 1, 1, s.x[1]), (s.w[0], 1, 1, s.w[1])
        found.append((s.name, {"x": x, "w": w, "stride": 1, "pad": 0, "groups": 1}))
    return found


def step() -> list[dict[str, str]]:
    """List a row per layer and operation: the kernel of each precision."""
    from pyconvnet import ops

    rows = []
    for name, op, shapes in operations():
        options = {key: shapes[key] for key in ("stride", "pad", "groups")}
        row = {"layer": name, "op": op}
        for precision in PRECISIONS:
            found = ops.kernels(
                op, shapes["x"], shapes["w"], **options, precision=precision, device="emulator"
            )
            row[precision] = found[0]
        rows.append(row)
    return rows


def operations(batch: int = BATCH) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (layer, operation, shapes and options) of a step's products."""
    for name, shapes in layers(batch):
        for op in OPS:
            if (name, op) != ("conv1", "conv2d_dgrad"):  # nothing reads the images' gradient
                yield name, op, shapes


def rows(batch: int = BATCH) -> list[dict[str, Any]]:
    """List every row that may take a product of the step and multiplies in its precision: pieces of the
    reduction; tiles that blocks share (stream-K), and how many blocks; cost by the heuristic, cheapest first.
    Rows for any shape are left out.
    """
    from pyconvnet.common import devices
    from pyconvnet.ops import core

    dev, found = devices.emulator(), []
    for layer, op, shapes in operations(batch):
        options = {key: shapes[key] for key in ("stride", "pad", "groups")}
        out = math.prod(result_shape(op, shapes))
        for precision in PRECISIONS:
            listed = core.listed(op, dev, shapes["x"], shapes["w"], **options, precision=precision)
            costs = getattr(dev.ext, f"{listed.table}_costs")(listed.shape)
            kernels = getattr(dev.ext, f"{listed.table}_kernels")
            workspace, uncut = dict(kernels(listed.shape)), dict(kernels(listed.shape.cut(1)))
            shared = dict(getattr(dev.ext, f"{listed.table}_shared")(listed.shape))
            for name, cost in costs:
                if name.endswith("_generic") or (precision != "fp32" and "mma" not in name):
                    continue
                pieces = (workspace[name] - uncut[name]) // (4 * out)
                splits = max(pieces, 1) if shared[name] == (0, 0) else 1
                row = (layer, op, precision, name, splits, [*shared[name]], round(cost))
                found.append(dict(zip(CELLS, row, strict=True)))
    return found


def result_shape(op: str, shapes: dict[str, Any]) -> tuple[int, ...]:
    """Shape of what an operation makes of these shapes."""
    if op == "conv2d":
        return output_shape(shapes)
    return shapes["x"] if op == "conv2d_dgrad" else shapes["w"]


def output_shape(shapes: dict[str, Any]) -> tuple[int, ...]:
    """Shape of the convolution's y; padding and stride as the benchmarks give them, alike on all sides."""
    (n, h, w, _), (k, r, s, _) = shapes["x"], shapes["w"]
    stride, pad = shapes["stride"], shapes["pad"]
    return n, (h + 2 * pad - r) // stride + 1, (w + 2 * pad - s) // stride + 1, k
