"""The figures of a run: sums of the costs over all ranks, and the loss and errors made of them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..common.devices import Device
from ..plan.buffers import Metrics
from ..plan.plan import Plan
from .ranks import Ranks


class Figures:
    """Loss and errors of the examples since the plan's sums were last reset."""

    def __init__(self, plan: Plan, ranks: Ranks):
        self.plan, self.ranks = plan, ranks
        self.costs = {node.name: node.layer.weight for node in plan.network.costs}
        self.main = plan.network.costs[-1].name  # whose errors count

    def sums(self) -> np.ndarray:
        """Add up the costs' sums, (costs, 4), over all ranks (collective)."""
        return self.ranks.sum(self.plan.get_metrics())

    def metrics(self) -> dict[str, Metrics]:
        """Return the same sums as metrics by cost (collective)."""
        return {name: Metrics(*map(float, row)) for name, row in zip(self.costs, self.sums(), strict=True)}

    def loss_error(self, metrics: dict[str, Metrics]) -> tuple[float, float]:
        """Weigh the losses, and take the last cost's error."""
        return sum(w * metrics[name].loss for name, w in self.costs.items()), metrics[self.main].error

    def named(self, kind: str, metrics: dict[str, Metrics]) -> dict[str, Any]:
        """Name the figures as the log and the history do; ``kind``: "train" or "validation"."""
        loss, error = self.loss_error(metrics)
        return {
            f"{kind}_loss": loss,
            f"{kind}_error": error,
            f"{kind}_topk_error": metrics[self.main].topk_error,
        }


def short(figures: dict[str, Any], kind: str) -> dict[str, Any]:
    """Drop the kind before each name, for an event of the log that is of one kind."""
    return {key.removeprefix(f"{kind}_"): value for key, value in figures.items()}


def finite(values: np.ndarray) -> bool:
    """Tell whether all numbers are finite, as a rule in one pass without a copy."""
    flat = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.dot(flat, flat)  # of large numbers it overflows: then they are looked at one by one
    return bool(np.isfinite(square) or np.isfinite(flat).all())


def steps_between_checks(device: Device) -> int:
    """Say how often the loss is looked at. On the host looking is free; on a GPU it makes the host wait."""
    debugging = os.environ.get("PYCONVNET_SYNC", "0") not in ("", "0")
    return 1 if device.kind != "cuda" or debugging else 50
