"""What the plan's memory is made of: one arena for all parameters, a workspace, sums of costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.devices import Device
from ..layers import Parameter
from ..network.regions import padded


class Arena:
    """Where each parameter lies in one flat array, so that an optimiser step is one launch over all of them.

    Attributes
    ----------
    size : int
        Elements, gaps included. Gaps are zero and stay zero.
    ends : ndarray, int64
        Segment s, one per parameter in order, is [ends[s-1], ends[s]).
    """

    def __init__(self, specs: Mapping[str, Parameter]):
        self.specs = dict(specs)
        self.starts: dict[str, int] = {}
        ends, at = [], 0
        for name, spec in self.specs.items():
            self.starts[name] = at
            at += padded(spec.size)
            ends.append(at)
        self.size = at
        self.ends = np.array(ends, np.int64)

    def range(self, name: str) -> tuple[int, int]:
        """Return first and last-plus-one element of a parameter, with the gap after it."""
        start = self.starts[name]
        return start, start + padded(self.specs[name].size)

    def views(self, flat: Any) -> dict[str, Any]:
        """View each parameter in ``flat``, in its own shape."""
        return {
            n: flat[s : s + self.specs[n].size].reshape(self.specs[n].shape) for n, s in self.starts.items()
        }


class Workspace:
    """Scratch memory that ops ask for; grows to the largest request and then stays."""

    def __init__(self, device: Device):
        self._device = device
        self._buffer: Any = None

    def get(self, nbytes: int) -> Any:
        """Lend a uint8 array of ``nbytes``, valid until the next ``get``."""
        if self._buffer is None or self._buffer.size < nbytes:
            self._buffer = None
            self._buffer = self._device.empty((nbytes,), np.uint8)
        return self._buffer[:nbytes]

    @property
    def nbytes(self) -> int:
        return 0 if self._buffer is None else self._buffer.size


@dataclass
class Metrics:
    """Sums of one cost over the examples since the last reset; the properties are means."""

    examples: float = 0.0
    loss_sum: float = 0.0
    top1_errors: float = 0.0
    topk_errors: float = 0.0

    @property
    def loss(self) -> float:
        return self.loss_sum / self.examples if self.examples else float("nan")

    @property
    def error(self) -> float:
        """Share of examples whose class is not the most probable one."""
        return self.top1_errors / self.examples if self.examples else float("nan")

    @property
    def topk_error(self) -> float:
        return self.topk_errors / self.examples if self.examples else float("nan")
