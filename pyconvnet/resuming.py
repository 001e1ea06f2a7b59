"""What ``last.safetensors`` holds beyond the model: all that a run needs to go on where it stopped."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import checkpoint, tuning
from .data import Statistics
from .devices import Device
from .model import Model

_MOMENTUM, _SUMS = "momentum/", "state/metrics"
_STATISTICS = ("mean_image", "mean_pixel", "eigenvalues", "eigenvectors")


def write(
    path: Path,
    model: Model,
    state: dict[str, Any],
    momenta: Mapping[str, np.ndarray],
    sums: np.ndarray,
    statistics: Statistics | None,
) -> None:
    """Write a training state.

    Parameters
    ----------
    path : Path
    model : Model
    state : dict
        JSON-ready: where the run stands, its options, its data.
    momenta : dict of str to array
        Whole and unsplit, by name of the parameter.
    sums : (costs, 4) float64
        The epoch's metrics so far, over all ranks.
    statistics : Statistics or None
        Of the training images.
    """
    arrays = {_MOMENTUM + name: value for name, value in momenta.items()}
    arrays[_SUMS] = sums
    if statistics is not None:
        for name in _STATISTICS:
            arrays[f"state/{name}"] = getattr(statistics, name)
        state["statistics"] = {"count": statistics.count, "pixel_range": statistics.pixel_range}
    checkpoint.write(path, model, state, arrays)


def read_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(momenta, sums) of a state's arrays."""
    momenta = {n.removeprefix(_MOMENTUM): a for n, a in arrays.items() if n.startswith(_MOMENTUM)}
    return momenta, arrays[_SUMS]


def read_statistics(state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Statistics:
    """The statistics of the training images that the run began with."""
    return Statistics(**{name: arrays[f"state/{name}"] for name in _STATISTICS}, **state["statistics"])


def checksum(parameters: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of all parameters' bits, in their order."""
    result = 0
    for value in parameters.values():
        result = zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8), result)
    return result


def described(kernels: Mapping[str, str], device: Device) -> dict[str, Any]:
    """The kernels of a run, and the card for which they were chosen."""
    return {"card": str(tuning.card_of(device)), "kernels": dict(kernels)}


def kernels(saved: tuple[Model, dict[str, Any], Any] | None, device: Device) -> dict[str, str] | None:
    """The kernels a run has to go on with: the same give the same bits. None, to choose anew, for a new run
    and on another card.
    """
    state = {} if saved is None else saved[1].get("kernels") or {}
    return state["kernels"] if state.get("card") == str(tuning.card_of(device)) else None
