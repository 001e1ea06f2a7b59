"""What ``last.safetensors`` holds beyond the model: all that a run needs to go on where it stopped."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..common.checks import check_number, check_type
from ..common.devices import Device
from ..data import Augmentation, Statistics
from ..data.files import check_options
from ..network.preprocessing import check_parameters
from ..ops import tuning
from ..trained import checkpoint
from ..trained.model import Model
from .changes import check_changes
from .class_weights import class_weights
from .settings import RULES

_MOMENTUM, _SUMS = "momentum/", "state/metrics"
_SINCE = ("stop_after",)  # options that earlier versions did not have
_LIMIT = 2**62  # of the numbers in a state
_STATISTICS = ("mean_image", "mean_pixel", "eigenvalues", "eigenvectors")


class Saved(NamedTuple):
    """A run to go on with, as its file has it.

    Attributes
    ----------
    model : Model
    state : dict
        ``epoch``, ``examples`` (of that epoch, done), ``step``, ``seconds``, ``history``, ``options``,
        ``schedule``, ``data``, ``kernels``.
    momenta : dict of str to array
    sums : (costs, 4) float64
        The epoch's metrics so far.
    statistics : Statistics or None
        Of the training images that the run began with.
    path : Path
    """

    model: Model
    state: dict[str, Any]
    momenta: dict[str, np.ndarray]
    sums: np.ndarray
    statistics: Statistics | None
    path: Path


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


def read(path: Path) -> Saved:
    """Read a training state, and see that its parts fit each other.

    Raises
    ------
    CheckpointError
        (a ValueError) The file is damaged, holds a model alone, or something no run would have written.
    """
    model, state, arrays = checkpoint.read(path)
    if state is None:
        raise checkpoint.CheckpointError(f"train: {path} holds a model, but no state of a run to resume")
    with checkpoint.damage(path):
        _check_state(model, state)
        momenta = {n.removeprefix(_MOMENTUM): a for n, a in arrays.items() if n.startswith(_MOMENTUM)}
        check_parameters("momenta", model.network, momenta)
        sums, wanted = arrays[_SUMS], (len(model.network.costs), 4)
        if sums.shape != wanted:
            raise ValueError(f"{_SUMS} must have shape {wanted}, got {sums.shape}")
        checkpoint.check_floats("array", {**momenta, _SUMS: sums})
        if state["examples"] and (sums[:, 0] != state["examples"]).any():
            raise ValueError(f"{_SUMS} must be over {state['examples']} examples, got {sums[:, 0]}")
        return Saved(model, state, momenta, sums, _statistics(model, state, arrays), path)


def _check_state(model: Model, state: dict[str, Any]) -> None:
    """Raise unless a state is as :meth:`RunState._write` makes it; earlier versions' come up to date."""
    for name in ("options", "data", "schedule"):
        check_type(name, state[name], dict)
    kernels = check_type("kernels", state.get("kernels") or {}, dict)
    for problem, kernel in check_type("kernels", kernels.get("kernels", {}), dict).items():
        check_type(f"the kernel of {problem}", kernel, str)
    options, data = state["options"], state["data"]
    _check_options(model, options)
    check_changes(state.get("changes", []))
    check_number("data: images", data["images"], "positive int", _LIMIT)
    check_type("data: train", data["train"], str)
    if "examples" not in state:  # before the position was kept in examples
        check_number("batch", state["batch"], "int >= 0", _LIMIT)
        state["examples"] = min(state["batch"] * options["batch_size"], data["images"])
    for name in ("epoch", "examples", "step"):
        check_number(name, state[name], "int >= 0", _LIMIT)
    check_number("seconds", state["seconds"], "number >= 0", _LIMIT)
    if state["examples"] > data["images"]:
        raise ValueError(f"examples must be at most {data['images']}, got {state['examples']}")
    last = _check_history(check_type("history", state["history"], list), state["epoch"])
    if state["step"] < last or (state["step"] > last) != (state["examples"] > 0):
        raise ValueError(f"step {state['step']} does not go with the examples, {state['examples']}")


def _check_options(model: Model, options: Mapping[str, Any]) -> None:
    for name, rule in RULES.items():
        if name in options or name not in _SINCE:
            check_number(name, options[name], rule, 2**31 if name == "batch_size" else _LIMIT)
    check_type("schedule", options["schedule"], str, list)
    check_type("augment", options["augment"], dict)
    shape = Augmentation(**options["augment"]).output_shape(model.preprocessing.image_shape)
    if shape != model.network.input_shape:
        raise ValueError(f"augment gives {shape}, the network takes {model.network.input_shape}")
    check_type("balance", options.get("balance", False), bool)
    share, weights = options.get("validation"), options.get("class_weights")
    if share is not None:
        check_number("validation", share, "probability")
    if weights is not None:
        class_weights(check_type("class_weights", weights, list), np.empty(0), model.classes)
    reading = check_type("images", options.get("images") or {}, dict)
    if reading:
        check_options("images", **reading)


def _check_history(history: list[Any], epochs: int) -> int:
    """Raise unless it tells of so many epochs; the step at which the last of them ended."""
    if len(history) != epochs:
        raise ValueError(f"history must have {epochs} records, got {len(history)}")
    numbers = ("epoch", "step", "lr", "train_loss", "train_error", "images_per_second", "seconds")
    last = 0
    for number, record in enumerate(history, 1):
        check_type("a record of history", record, dict)
        for name in numbers:
            check_number(f"history: {name}", record.get(name), "number", _LIMIT)
        for name in ("validation_loss", "validation_error"):
            check_type(f"history: {name}", record.get(name), int, float, type(None))
        if (record["validation_loss"] is None) != (record["validation_error"] is None):
            raise ValueError("history: a validation error without its loss, or the reverse")
        if record["epoch"] != number or record["step"] <= last:
            raise ValueError(
                f"history: record {number} must not be of epoch {record['epoch']}, step {record['step']}"
            )
        last = record["step"]
    return last


def _statistics(
    model: Model, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Statistics | None:
    """Return the statistics of the training images that the run began with, where it had any."""
    if "statistics" not in state:
        if Augmentation(**state["options"]["augment"]).needs_statistics():
            raise KeyError("statistics")
        return None
    numbers = check_type("statistics", state["statistics"], dict)
    check_number("statistics: count", numbers["count"], "positive int", _LIMIT)
    check_number("statistics: pixel_range", numbers["pixel_range"], "number >= 0", _LIMIT)
    *_, channels = shape = model.preprocessing.image_shape
    found = {name: arrays[f"state/{name}"] for name in _STATISTICS}
    checkpoint.check_floats("statistics", found)
    for (name, value), wanted in zip(
        found.items(), (shape, (channels,), (channels,), (channels, channels)), strict=True
    ):
        if value.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {value.shape}")
    return Statistics(**found, count=numbers["count"], pixel_range=numbers["pixel_range"])


def checksum(parameters: Mapping[str, np.ndarray]) -> int:
    """Return the CRC-32 of all parameters' bits, in their order."""
    result = 0
    for value in parameters.values():
        result = zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8), result)
    return result


def described(kernels: Mapping[str, str], device: Device) -> dict[str, Any]:
    """Describe the kernels of a run, and the card for which they were chosen."""
    return {"card": str(tuning.card_of(device)), "kernels": dict(kernels)}


def kernels(saved: Saved | None, device: Device) -> dict[str, str] | None:
    """Return the kernels a run has to go on with: the same give the same bits. None, to choose anew, for a
    new run and on another card.
    """
    told = {} if saved is None else saved.state.get("kernels") or {}
    return told.get("kernels") if told.get("card") == str(tuning.card_of(device)) else None
