"""AlexNet's training step on an H200 as the cycle model predicts it, with what cards have measured beside it.

All of a step's kernels, as a fused plan runs them: products by :mod:`report.cycles`, the others by their
bytes. Fully connected layers by this library's kernels, though on CUDA cuBLAS may take them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling.work import ITEM, UPDATE_BYTES
from shapes import alexnet_convs, alexnet_linears, alexnet_pools

from report import cycles, overlap
from report.alexnet import BATCH, PRECISIONS, operations, output_shape

PARTS = {"conv2d": "fprop", "conv2d_dgrad": "dgrad", "conv2d_wgrad": "wgrad"}
MASKED = {"conv4", "conv5", "fc7", "fc8"}  # read the output of a ReLU, through which their dgrad goes back
PARAMETERS = 60_965_224
_NEEDED = {"name", "op", "precision", "kernel"}


def product_of(layer: str, op: str, shapes: dict[str, Any], precision: str, useful: float) -> cycles.Product:
    """The matrix product of an operation; `useful`: its flops without padding."""
    item, (n, h, w, c), (k, r, s, group_channels) = ITEM[precision], shapes["x"], shapes["w"]
    _, p, q, _ = y = output_shape(shapes)
    groups, pad = shapes["groups"], shapes["pad"]
    windows = None
    x_bytes, w_bytes, y_bytes = (item * math.prod(shape) for shape in (shapes["x"], shapes["w"], y))
    if op == "conv2d":
        extent, nbytes = (n * p * q, k // groups, r * s * group_channels), x_bytes + w_bytes + y_bytes
        windows = cycles.Windows(n, p, q, w, r, s, pad)
    elif op == "conv2d_dgrad":
        extent, nbytes = (n * h * w, c // groups, r * s * k // groups), x_bytes + w_bytes + y_bytes
        nbytes += x_bytes if layer in MASKED else 0
        windows = cycles.Windows(n, h, w, q, r, s, s - 1 - pad)
    else:
        extent, nbytes = (k // groups, r * s * group_channels, n * p * q), x_bytes + y_bytes
        nbytes += 4 * math.prod(shapes["w"])
    return cycles.Product(*extent, groups, useful, nbytes, windows)


def by_stem(kernels: list[dict]) -> dict[str, dict]:
    """Find a report's kernels by file or line; of those that have fp32x3 beside TF32, which is chosen by name
    alone, the one of TF32.
    """
    return {row["stem"]: row for row in kernels if not row["kernel"].endswith(", 3>")}


def products(kernels: list[dict], rows: list[dict], batch: int = BATCH) -> list[dict]:
    """Predict every row of :func:`report.alexnet.rows`: its cells and those of
    :func:`report.cycles.predict`."""
    stems = by_stem(kernels)
    shapes = {(layer, op): found for layer, op, found in operations(batch)}
    useful = {layer.name: layer.flops for layer in (*alexnet_convs(batch), *alexnet_linears(batch))}
    found = []
    for row in rows:
        layer, op, precision = row["layer"], row["op"], row["precision"]
        product = product_of(layer, op, shapes[layer, op], precision, useful[layer])
        out_item = 4 if op == "conv2d_wgrad" else ITEM[precision]
        cut = {"splits": row["splits"], "shared": row["shared"]}
        more = cycles.predict(stems[row["row"]], product, precision=precision, out_item=out_item, **cut)
        found.append(row | more | {"measured_us": None, "ratio": None})
    return found


def other_kernels(precision: str, batch: int = BATCH) -> Iterator[tuple[str, str, float, int]]:
    """Yield (layer, operation, bytes, launches) of what is no product in a fused step."""
    item = ITEM[precision]
    depth = next(found["x"] for layer, _, found in operations(batch) if layer == "conv1")
    yield "images", "augment", 3 * batch * 224**2 + item * math.prod(depth), 1
    yield "conv1", "filters_to_depth", 0, 1
    for pool in alexnet_pools(batch):
        x, y = math.prod(pool.x), math.prod(pool.y)
        op = "max_pool2d" if pool.name == "pool5" else "lrn_max_pool2d"
        yield pool.name, op, item * (x + y) + y, 1
        yield pool.name, f"{op}_backward", item * (2 * x + y) + y, 1  # x, or the ReLU's output, is read again
    for linear in alexnet_linears(batch):
        if linear.name != "fc8":
            yield linear.name, "bias_relu_dropout", 2 * item * math.prod(linear.y), 1
    yield "loss", "softmax_cross_entropy", 2 * item * 1000 * batch, 2
    if precision == "fp32":  # kernels on tensor cores make it in wgrad
        for layer in (*alexnet_convs(batch), *alexnet_linears(batch)):
            yield layer.name, "bias_backward", item * math.prod(layer.y), 2
    yield "conv1", "filters_from_depth", 0, 1
    yield "weights", "sgd_momentum", UPDATE_BYTES[precision] * PARAMETERS, 1


def others() -> list[dict]:
    """Predict what is no product, by bytes."""
    return [
        {"layer": layer, "op": op, "precision": precision, "bytes": nbytes, "bound": "hbm"}
        | {"us": round(cycles.memory_us(nbytes, launches), 1), "measured_us": None, "ratio": None}
        for precision in PRECISIONS
        for layer, op, nbytes, launches in other_kernels(precision)
    ]


def chosen(rows: list[dict]) -> list[dict]:
    """Of every layer, operation and precision the row that the heuristic puts first."""
    first: dict[tuple, dict] = {}
    for row in rows:
        first.setdefault((row["layer"], row["op"], row["precision"]), row)
    return list(first.values())


def updates(kernels: list[dict], rows: list[dict], batch: int = BATCH) -> dict[str, float]:
    """Predict by how many microseconds the update lengthens a step, by precision."""
    stems = by_stem(kernels)
    shapes = {(layer, op): found for layer, op, found in operations(batch)}

    def beside(row: dict) -> tuple[float, float] | None:
        precision = row["precision"]
        product = product_of(row["layer"], row["op"], shapes[row["layer"], row["op"]], precision, 0.0)
        out_item = 4 if row["op"] == "conv2d_wgrad" else ITEM[precision]
        cut = row["splits"], row["shared"]
        return overlap.beside(stems[row["row"]], product, *cut, precision, out_item, row["us"])

    own = {precision: [r for r in chosen(rows) if r["precision"] == precision] for precision in PRECISIONS}
    return {precision: overlap.update_us(rows, beside, precision) for precision, rows in own.items()}


def steps(rows: list[dict], rest: list[dict], update_us: dict[str, float]) -> list[dict]:
    """A row per precision: microseconds of convolutions, fully connected layers and the rest; what the update
    adds; of the whole step."""
    found = []
    for precision in PRECISIONS:
        own = [row for row in chosen(rows) if row["precision"] == precision]
        parts = {
            "conv_us": sum(row["us"] for row in own if row["layer"].startswith("conv")),
            "fc_us": sum(row["us"] for row in own if row["layer"].startswith("fc")),
            "other_us": sum(
                row["us"] for row in rest if row["precision"] == precision and row["op"] != "sgd_momentum"
            ),
            "update_us": update_us[precision],
        }
        us = sum(parts.values())
        useful = sum(
            layer.flops * (2 if layer.name == "conv1" else 3)
            for layer in (*alexnet_convs(BATCH), *alexnet_linears(BATCH))
        )
        found.append(
            {"precision": precision, **{name: round(value) for name, value in parts.items()}, "us": round(us)}
            | {"images_per_second": round(1e6 * BATCH / us), "error": cycles.ERROR["step"]}
            | {"percent": round(100 * cycles.limit_us(useful, 0, precision) / us, 1)}
            | {"measured_us": None, "ratio": None}
        )
    return found


def predict(kernels: list[dict], rows: list[dict], results: Path | None = None) -> dict[str, list[dict]]:
    """Predict ``products``, ``others`` and ``steps`` from a report's kernels and :func:`report.alexnet.rows`,
    with the times that the JSON files below a folder of results hold.
    """
    found_products, rest = products(kernels, rows), others()
    found = {
        "products": found_products,
        "others": rest,
        "steps": steps(found_products, rest, updates(kernels, found_products)),
    }
    for row in measured(results) if results else ():
        _fill(found, row)
    return found


# ---- measured
def measured(folder: Path) -> Iterator[dict]:
    """Yield the rows of benchmarks that ran on an H200 at this batch; :mod:`harness` says what they hold."""
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text())
        for document in content.get("documents", [content]) if isinstance(content, dict) else []:
            gpu = document.get("machine", {}).get("gpu", "")
            if "H200" in gpu and document.get("batch") == BATCH and not document.get("tiny"):
                for row in document.get("rows", []):
                    if row.get("median_us") and not row.get("error") and row.keys() >= _NEEDED:
                        yield row


def _fill(found: dict[str, list[dict]], row: dict) -> None:
    """Put a measured time where it belongs, the least where there are several."""
    name, part, stem = row["name"].split()[0], row.get("part"), row["kernel"].split("/")[0]
    for mine in found["products"]:
        if (mine["layer"], PARTS[mine["op"]], mine["precision"], mine["row"]) == (
            name,
            part,
            row["precision"],
            stem,
        ):
            _put(mine, row["median_us"])
    for mine in found["others"]:
        if (mine["layer"], mine["op"]) == (name, row["op"]) and row["precision"] in (
            mine["precision"], "fp32" if mine["precision"] == "tf32" else ""
        ):  # fmt: skip
            _put(mine, row["median_us"])
    for mine in found["steps"]:
        if row["op"] == "training step" and (name, row["precision"]) == ("alexnet", mine["precision"]):
            _put(mine, row["median_us"])


def _put(mine: dict, us: float) -> None:
    least = min(us, mine["measured_us"] or us)
    mine["measured_us"], mine["ratio"] = round(least, 1), round(least / mine["us"], 3)
