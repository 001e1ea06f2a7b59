"""Kernel times from a file that ``run.py`` or a ``bench_FAMILY.py`` wrote, in place of the roofline's.

A kernel that was timed at the network's own shape gets the ratio of its fastest time to the roofline's; that
ratio is kept where batch or width differ. A kernel whose function was timed at other shapes only gets the
ratio of the one nearest in bytes. What was not timed at all keeps the roofline's time. Where the file holds
the whole training step (``bench_alexnet.py``), all times are scaled so that one GPU's step takes that long.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .strategies import Setting, Strategy, predict
from .work import Kernel


@dataclass
class Report:
    """What a measured file gave and what it lacked."""

    file: str
    device: str
    clock: str
    batch: int
    matched: list[str] = field(default_factory=list)
    nearest: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    step_us: float | None = None
    layers_us: float | None = None

    @property
    def scale(self) -> float:
        """Measured step over the sum of the kernels: what all times are multiplied by."""
        return self.step_us / self.layers_us if self.step_us and self.layers_us else 1.0

    def text(self) -> str:
        """For people."""
        lines = [f"measured file {self.file}: {self.device}, clock: {self.clock}, batch {self.batch}"]
        lines.append(f"  timed at the network's own shapes: {len(self.matched)} kernels")
        if self.nearest:
            lines.append(f"  from the nearest shape of the same function: {', '.join(self.nearest)}")
        if self.missing:
            lines.append(f"  not in the file, so the roofline's: {', '.join(self.missing)}")
        if self.step_us is None:
            lines.append("  no training step of this network at this batch: the sum of the kernels stands")
        else:
            lines.append(
                f"  training step {self.step_us:.0f} us, sum of the kernels {self.layers_us:.0f} us: "
                f"all times are multiplied by {self.scale:.3f}"
            )
        return "\n".join(lines)


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"measured: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"measured: {path} is no JSON: {error}") from None
    documents = content.get("documents", [content]) if isinstance(content, dict) else []
    good = [
        d
        for d in documents
        if isinstance(d, dict) and d.get("rows") and {"family", "device", "batch", "clock"} <= set(d)
    ]
    if not good:
        raise ValueError(
            f"measured: {path} holds no benchmark with rows; run.py, bench_alexnet.py and bench_FAMILY.py "
            'write such files ({"family", "device", "batch", "clock", "rows", ...})'
        )
    for name in ("device", "batch", "clock"):
        found = {d[name] for d in good}
        if len(found) > 1:
            raise ValueError(f"measured: {path}: {name} must be the same throughout, got {sorted(found)}")
    if good[0]["device"] == "emulator":
        raise ValueError(f"measured: {path} was timed on the emulator, whose times say nothing about a GPU")
    return good


def read(path: str | Path, setting: Setting) -> tuple[Setting, Report]:
    """The setting with the file's times in place of the roofline's.

    Raises
    ------
    ValueError
        The file is no benchmark's, mixes devices or batches, is the emulator's, or has no row for this
        network.
    """
    documents = _documents(Path(path))
    first = documents[0]
    report = Report(str(path), first["device"], first["clock"], first["batch"])
    rows = [
        row
        for d in documents
        for row in d["rows"]
        if row.get("median_us") and not row.get("error") and _speaks(row, setting.precision)
    ]
    works = [
        dataclasses.replace(
            work,
            forward=[_timed(k, work.name, rows, report, setting) for k in work.forward],
            backward=[_timed(k, work.name, rows, report, setting) for k in work.backward],
        )
        for work in setting.works
    ]
    update = _update_ratio(rows, report, setting)
    for work in works:
        work.update = dataclasses.replace(work.update, ratio=update)
    steps = [
        row["median_us"]
        for row in rows
        if row["op"] == "training step"
        and row["name"] == setting.network.name
        and row["shape"] == f"batch {report.batch}"
        and _same_flops(row, sum(k.flops for w in works for k in (*w.forward, *w.backward)) * report.batch)
    ]
    if not report.matched and not steps:
        raise ValueError(
            f"measured: {path} has no row at the shapes of {setting.network.name!r} "
            "(was it made with --tiny?)"
        )
    changed = dataclasses.replace(setting, works=works)
    report.layers_us = 1e6 * predict(changed, Strategy("data"), 1, report.batch).step
    if steps:
        report.step_us = min(steps)
        for work in works:
            work.forward = [_scaled(k, report.scale) for k in work.forward]
            work.backward = [_scaled(k, report.scale) for k in work.backward]
            work.update = _scaled(work.update, report.scale)
    return changed, report


def _speaks(row: dict[str, Any], precision: str) -> bool:
    """Whether a row's time is that of a network in this precision; files without precisions are float32's.

    A network in TF32 multiplies in it and does everything else in float32.
    """
    own = row.get("precision", "fp32")
    multiplies = row["op"].startswith(("conv2d", "linear")) or row["op"] in ("training step", "inference")
    return own == precision or (own == "fp32" and (precision == "tf32" and not multiplies))


def _scaled(kernel: Kernel, factor: float) -> Kernel:
    return dataclasses.replace(kernel, ratio=kernel.ratio * factor)


def _same_flops(row: dict[str, Any], flops: float) -> bool:
    # Shapes alone do not tell groups or strides apart; the multiply-adds do.
    return math.isclose(row["flops"] or 0, flops, rel_tol=1e-6)


def _roofline(setting: Setting, flops: float, nbytes: float) -> float:
    return sum(setting.gpu.seconds(setting.precision, flops, nbytes))


def _timed(kernel: Kernel, layer: str, rows: list[dict], report: Report, setting: Setting) -> Kernel:
    """The kernel with its measured ratio."""
    label, n = f"{layer} {kernel.op}", report.batch
    same = [row for row in rows if row["op"] == kernel.op]
    shape = kernel.shape.format(n=n)
    own = [
        row["median_us"]
        for row in same
        if row["shape"] == shape and (not kernel.flops or _same_flops(row, n * kernel.flops))
    ]
    if own:
        report.matched.append(label)
        base = sum(dataclasses.replace(kernel, ratio=1.0).seconds(setting.gpu, setting.precision, n))
        return dataclasses.replace(kernel, ratio=1e-6 * min(own) / base)
    same = [row for row in same if row["bytes"]]
    if not same:
        report.missing.append(label)
        return kernel
    nbytes = n * (kernel.x + kernel.y) + kernel.fixed
    near = min(same, key=lambda row: (abs(math.log(row["bytes"] / nbytes)), row["median_us"]))
    report.nearest.append(label)
    ratio = 1e-6 * near["median_us"] / _roofline(setting, near["flops"] or 0, near["bytes"])
    return dataclasses.replace(kernel, ratio=ratio)


def _update_ratio(rows: list[dict], report: Report, setting: Setting) -> float:
    same = [row for row in rows if row["op"] == "sgd_momentum" and row["bytes"]]
    if not same:
        report.missing.append("update sgd_momentum")
        return 1.0
    nbytes = sum(work.update.fixed for work in setting.works)
    near = min(same, key=lambda row: (abs(math.log(row["bytes"] / nbytes)), row["median_us"]))
    exact = math.isclose(near["bytes"], nbytes, rel_tol=1e-6)
    (report.matched if exact else report.nearest).append("update sgd_momentum")
    return 1e-6 * near["median_us"] / _roofline(setting, 0, near["bytes"])
