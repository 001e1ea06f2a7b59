"""GPUs and links: presets with the source of every figure, and the rates the model reckons with.

``peak`` figures are datasheets'. The rates the model uses are *assumed* fractions of them, what a good kernel
or a long message sustains; none was measured with this library. Everything can be set from outside.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRECISIONS = ("fp32", "tf32", "bf16")


def positive(what: str, value: float, *, zero: bool = False) -> float:
    """The number, infinity included; ValueError that names it where it is not positive (or zero)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"{what} must be a number, got {value!r}")
    if value < 0 or (value == 0 and not zero):
        raise ValueError(f"{what} must be {'at least' if zero else 'above'} 0, got {value!r}")
    return float(value)


def count(what: str, value: int) -> int:
    """The whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} must be a whole number of at least 1, got {value!r}")
    return value


@dataclass(frozen=True)
class Gpu:
    """Rates of one GPU: FLOP/s by precision, bytes/s of memory, seconds a kernel costs beside its work."""

    name: str
    flops: Mapping[str, float]
    bandwidth: float
    overhead: float
    source: str

    def __post_init__(self) -> None:
        for precision, rate in self.flops.items():
            if precision not in PRECISIONS:
                raise ValueError(f"gpu: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
            positive(f"gpu: flops of {precision}", rate)
        positive("gpu: bandwidth", self.bandwidth)
        positive("gpu: overhead", self.overhead, zero=True)

    def rate(self, precision: str) -> float:
        """FLOP/s in this precision."""
        if precision not in self.flops:
            raise ValueError(
                f"precision must be one of {', '.join(self.flops)} on {self.name}, got {precision!r}"
            )
        return self.flops[precision]

    def seconds(self, precision: str, flops: float, nbytes: float) -> tuple[float, float, float]:
        """A kernel's time: arithmetic or memory, whichever is longer (the other is 0), and overhead."""
        arithmetic, memory = flops / self.rate(precision), nbytes / self.bandwidth
        return (arithmetic, 0.0, self.overhead) if arithmetic > memory else (0.0, memory, self.overhead)


@dataclass(frozen=True)
class Link:
    """What one GPU (inside a node) or one network card (between nodes) sends, and receives, at once.

    Attributes
    ----------
    bandwidth : bytes/s in each direction
    latency : seconds of one step of a collective
    """

    name: str
    bandwidth: float
    latency: float
    source: str

    def __post_init__(self) -> None:
        positive(f"link {self.name}: bandwidth", self.bandwidth)
        positive(f"link {self.name}: latency", self.latency, zero=True)


@dataclass(frozen=True)
class Fabric:
    """Nodes of ``gpus_per_node`` GPUs joined by ``inside``, each node with ``nics`` cards out of it."""

    gpus_per_node: int
    inside: Link
    between: Link
    nics: int

    def __post_init__(self) -> None:
        count("gpus_per_node", self.gpus_per_node)
        count("nics", self.nics)

    @property
    def outside(self) -> Link:
        """The link between nodes as each GPU has it when all of its node use the cards at once."""
        share = self.between.bandwidth * self.nics / self.gpus_per_node
        return dataclasses.replace(self.between, bandwidth=share)


def _gpu(
    name: str, fp32: float, tf32: float | None, bf16: float | None, gbps: float, us: float, source: str
) -> Gpu:
    rates = {"fp32": fp32, "tf32": tf32, "bf16": bf16}
    return Gpu(name, {p: 1e12 * r for p, r in rates.items() if r}, 1e9 * gbps, 1e-6 * us, source)


#: The datasheets' peaks stand in `source`; the rates are assumptions.
GPUS = {
    "h200": _gpu(
        "H200", 60, 400, 790, 4300, 3,
        "datasheet peaks (SXM, dense): 67 / 494.5 / 989 TFLOP/s, 4.8 TB/s; "
        "assumed: 60 / 400 / 790 TFLOP/s, 4.3 TB/s, 3 us a kernel in a captured graph",
    ),
    "a100": _gpu(
        "A100", 17.5, 125, 250, 1800, 3,
        "datasheet peaks (SXM, 80 GB, dense): 19.5 / 156 / 312 TFLOP/s, 2.04 TB/s; "
        "assumed: 17.5 / 125 / 250 TFLOP/s, 1.8 TB/s, 3 us a kernel in a captured graph",
    ),
    "k20": _gpu(
        "K20", 1.455, None, None, 150, 10,
        "datasheet peaks: 3.52 TFLOP/s, 208 GB/s; assumed: 150 GB/s, 10 us a kernel; 1.455 TFLOP/s is fitted "
        "to the 98.05 hours of One Weird Trick's one-GPU row, which is second-hand",
    ),
}  # fmt: skip


def _link(name: str, peak: float, rate: float, us: float, what: str) -> Link:
    source = f"datasheet peak: {peak:g} GB/s each way{what}; assumed: {rate:g} GB/s, {us:g} us a step"
    return Link(name, 1e9 * rate, 1e-6 * us, source)


#: One GPU's link to the others of its node.
INSIDE = {
    "nvlink4": _link("nvlink4", 450, 360, 3, ", H100/H200"),
    "nvlink3": _link("nvlink3", 300, 240, 3, ", A100"),
    "pcie5": _link("pcie5", 63, 50, 5, ", 16 lanes"),
    "pcie4": _link("pcie4", 31.5, 25, 5, ", 16 lanes"),
    "pcie3": _link("pcie3", 15.8, 12, 8, ", 16 lanes"),
    "pcie2": _link("pcie2", 8, 6, 10, ", 16 lanes"),
    "perfect": Link("perfect", math.inf, 0.0, "infinitely fast, for comparison"),
}
#: One network card.
BETWEEN = {
    "ndr": _link("ndr", 50, 45, 6, ", InfiniBand NDR, 400 Gb/s"),
    "hdr": _link("hdr", 25, 22.5, 6, ", InfiniBand HDR, 200 Gb/s"),
    "edr": _link("edr", 12.5, 11, 6, ", InfiniBand EDR, 100 Gb/s"),
    "eth100": _link("eth100", 12.5, 11, 15, ", 100 Gb/s Ethernet"),
    "eth25": _link("eth25", 3.125, 2.8, 25, ", 25 Gb/s Ethernet"),
    "eth10": _link("eth10", 1.25, 1.1, 30, ", 10 Gb/s Ethernet"),
    "perfect": Link("perfect", math.inf, 0.0, "infinitely fast, for comparison"),
}


def preset(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry of a table of presets; ValueError with the names there are."""
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, got {name!r}")
    return table[name]
