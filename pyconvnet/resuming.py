"""What ``last.safetensors`` holds beyond the model: all that a run needs to go on where it stopped."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import checkpoint
from .data import Statistics
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
