"""Pictures of a run: training curves, first-layer filters, predictions with probability bars, confusions.

Every function writes a PNG and returns its path. Needs matplotlib: ``pip install "pyconvnet[plots]"``. The
figures follow the paper's: filters as in its figure 3, predictions as in its figure 4.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.checks import either, integer
from ..common.files import write_atomically
from ..common.text import cut
from ..data import Loader
from .evaluate import Evaluation, as_model, best_classes, matching_data
from .model import Model
from .probabilities import log_probabilities, view_draws

_TRAIN, _VALIDATION = "black", "crimson"
_GAP = (0.72, 0.82, 0.95)  # between grey filters; coloured ones are on white


class NotInstalledError(ImportError):
    """There is no matplotlib."""


def training_curves(run: Any, path: str | Path | None = None) -> Path:
    """Plot loss and error of training and validation over the epochs.

    Parameters
    ----------
    run : Run, folder of a run, or its log.jsonl
    path : path, optional
        PNG to write. Default: ``curves.png`` beside the log.

    Raises
    ------
    FileNotFoundError
        No log there.
    ValueError
        The log holds no finished epoch, or is damaged.
    """
    log = log_path(run)
    path = log.parent / "curves.png" if path is None else Path(path)
    history = read_log(log)
    if not history["train"]:
        raise ValueError(f"plot: {log} holds no finished epoch yet")
    figure = make_figure(9, 3.8)
    sides = figure.subplots(1, 2)
    for axis, quantity, factor in ((sides[0], "loss", 1), (sides[1], "error", 100)):
        values = []
        for kind, colour in (("train", _TRAIN), ("validation", _VALIDATION)):
            records = [r for r in history[kind] if r.get(quantity) is not None]
            if records:
                x, y = [r["epoch"] for r in records], [factor * r[quantity] for r in records]
                values += y
                axis.plot(x, y, color=colour, label=kind, marker="o" if len(x) < 40 else None, markersize=3)
        if quantity == "loss" and values and min(values) > 0 and max(values) > 30 * min(values):
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        for before, after in zip(history["train"], history["train"][1:], strict=False):
            if before.get("lr") and after.get("lr") and after["lr"] != before["lr"]:
                axis.axvline(after["epoch"] - 0.5, color="0.8", linewidth=1, zorder=0)
        axis.set_xlabel("epoch (grey lines: learning rate changes)" if _rate_changes(history) else "epoch")
        axis.set_ylabel("loss" if quantity == "loss" else "error, %")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        axis.legend()
    name = history["network"] or log.parent.name
    errors = [r["error"] for r in history["validation"] if r.get("error") is not None]
    figure.suptitle(f"{name}: validation error {100 * min(errors):.2f}% at best" if errors else name)
    return write_figure(figure, path)


def filters(model_or_run: Any, path: str | Path, layer: str | None = None) -> Path:
    """Draw filters of a convolution that sees an image (paper, figure 3).

    Filters of 3 channels are drawn in colour, others as one grey picture per channel for up to 4 channels,
    else the first 4; each scaled from its own least to its greatest value. The order is the layer's. Where
    the next layers look at the filters' outputs in groups, as the paper's two towers do, each group stands
    apart from the one above it.

    Parameters
    ----------
    model_or_run : Model, Run or path
    path : path
        PNG to write.
    layer : str, optional
        Default: the first convolution.

    Raises
    ------
    ValueError
        No such layer, or none with filters.
    """
    model = as_model(model_or_run)
    picture, title = filter_picture(model, layer)
    scale = max(1, math.ceil(900 / picture.shape[1]))
    picture = np.kron(picture, np.ones((scale, scale, 1)))
    side = 8.0
    figure = make_figure(side, side * picture.shape[0] / picture.shape[1] + 0.4)
    axis = figure.subplots()
    axis.imshow(picture, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=10)
    return write_figure(figure, path)


def filter_picture(model: Model, layer: str | None = None) -> tuple[np.ndarray, str]:
    """Lay a convolution's filters side by side, (h, w, 3) in [0, 1], and say what they are: see `filters`."""
    name, weight = _filters_of(model, layer)
    count, height, width, channels = weight.shape
    low = weight.min(axis=(1, 2, 3), keepdims=True)
    span = weight.max(axis=(1, 2, 3), keepdims=True) - low
    tiles = (weight - low) / np.where(span > 0, span, 1)
    if channels != 3:
        tiles = tiles[..., : min(channels, 4)].transpose(0, 3, 1, 2).reshape(-1, height, width)[..., None]
        tiles = np.repeat(tiles, 3, axis=-1)
    towers = _towers(model.network, name)
    parts = np.split(tiles, towers)
    wide = _columns(len(tiles), channels) if towers == 1 else _columns_of_tower(len(parts[0]), channels)
    colour = 1.0 if channels == 3 else _GAP
    pictures = [_grid(part, wide, colour) for part in parts]
    apart = np.empty((max(3, height // 2), *pictures[0].shape[1:]))
    apart[:] = 1.0
    picture = np.concatenate([pictures[0], *(p for part in pictures[1:] for p in (apart, part))])
    title = f"{model.network.name}: {name}, {count} filters {height}x{width}x{channels}"
    return picture, title + (f", {towers} towers" if towers > 1 else "")


def predictions(
    model_or_run: Any,
    data: Any,
    path: str | Path,
    *,
    count: int = 8,
    only_errors: bool = False,
    views: int = 1,
    seed: int = 0,
    device: Any = None,
) -> Path:
    """Draw images with the probabilities of the five most probable classes (paper, figure 4).

    The true class is written under the image, its bar is green; the other bars are red.

    Parameters
    ----------
    model_or_run : Model, Run or path
    data : Dataset, name, path or (x, y)
        Where it brings validation images, these are shown.
    path : path
        PNG to write.
    count : int
        Images, drawn at random with `seed`.
    only_errors : bool
        Only images whose true class is not the most probable one.
    views : 1 or 10
    device : optional

    Raises
    ------
    ValueError
        `count` is no positive integer, the data do not fit the model, or there is no error to show.
    """
    model = as_model(model_or_run)
    with either():
        count = integer("plot", "count", count, 1, 400)
    dataset = matching_data(model, data)
    shown: list[tuple[np.ndarray, int, list]] = []
    draws = view_draws(model, views)
    plan = model.plan(device, min(len(dataset), 128 if only_errors else count))
    with Loader(dataset, plan.batch_size, seed=seed) as loader:
        for batch in loader.epoch(0):
            p = np.exp(log_probabilities(plan, batch.images, draws))
            for image, index, row in zip(batch.images, batch.indices, p, strict=True):
                if not only_errors or row.argmax() != dataset.labels[index]:
                    shown.append((image, int(dataset.labels[index]), best_classes(model, row, 5)))
            if len(shown) >= count:
                break
    if not shown:
        raise ValueError(f"plot: the model makes no error on {dataset.name}")
    return write_figure(_prediction_figure(model, shown[:count]), path)


def confusion(evaluation: Evaluation, path: str | Path) -> Path:
    """Draw a confusion matrix: what each true class (row) was taken for (column), in per cent of the row."""
    if not isinstance(evaluation, Evaluation):
        raise TypeError(f"plot: confusion needs what evaluate() returns, got {type(evaluation).__name__}")
    counts = evaluation.confusion.astype(float)
    rows = counts.sum(axis=1, keepdims=True)
    share = 100 * counts / np.where(rows > 0, rows, 1)
    size = len(counts)
    side = min(16.0, max(4.5, 0.55 * size + 2))
    figure = make_figure(side, side)
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if size <= 40:
        names = [_label(name, 18) for name in evaluation.classes]
        axis.set_xticks(range(size), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axis.set_yticks(range(size), names)
    if size <= 20:
        for i, j in np.argwhere(counts > 0):
            colour = "white" if share[i, j] > 50 else "black"
            axis.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axis.set_xlabel("taken for")
    axis.set_ylabel("true class")
    axis.set_title(f"per cent of each class; error {100 * evaluation.error:.2f}%", fontsize=10)
    figure.colorbar(image, shrink=0.75)
    return write_figure(figure, path)


def read_log(path: str | Path) -> dict[str, Any]:
    """Read the epochs in a log.jsonl.

    Returns
    -------
    dict
        network (name or None); train and validation, lists of records with epoch, loss, error and more.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A line is no JSON object.
    """
    result: dict[str, Any] = {"network": None, "train": [], "validation": []}
    for record in read_events(path):
        event = record["event"]
        if event == "start":
            result["network"] = record.get("network")
        if event in ("train", "validation") and "epoch" in record:
            result[event].append(record)
    return result


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """Read all events of a log.jsonl, without a last line that is cut; raises as :func:`read_log`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"plot: no such log: {path}")
    events = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["event"]
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break  # the last line of a run that was killed while writing it
            raise ValueError(f"plot: {path}, line {number}: not a log record") from None
        events.append(record)
    return events


def log_path(run: Any) -> Path:
    """Find the log of a run, given as a Run, its folder or the log itself."""
    place = getattr(run, "out", run)
    if not isinstance(place, (str, os.PathLike)):
        raise TypeError(f"plot: run must be a Run, a folder or a log.jsonl, got {type(run).__name__}")
    place = Path(place)
    return place / "log.jsonl" if place.is_dir() else place


def _rate_changes(history: dict[str, Any]) -> bool:
    return len({r.get("lr") for r in history["train"]}) > 1


def _filters_of(model: Model, layer: str | None) -> tuple[str, np.ndarray]:
    convolutions = [n.removesuffix(".weight") for n, w in model.parameters.items() if w.ndim == 4]
    if not convolutions:
        raise ValueError(f"plot: network {model.network.name!r} has no convolution, so no filters to show")
    name = convolutions[0] if layer is None else layer
    if name not in convolutions:
        raise ValueError(f"plot: layer must be one of {', '.join(convolutions)}, got {layer!r}")
    weight = model.parameters[f"{name}.weight"]
    if weight.shape[1] * weight.shape[2] == 1:
        raise ValueError(f"plot: the filters of {name!r} are 1x1: there is nothing to see")
    return name, weight


def _towers(network: Any, layer: str) -> int:
    """Return in how many groups the convolutions that see a layer's filters next look at their outputs."""
    seen, groups = {layer}, 1
    for node in network:
        if seen.isdisjoint(node.inputs):
            continue
        if node.parameters():
            groups = max(groups, getattr(node.layer, "groups", 1))
        else:
            seen.add(node.name)
    return groups if network[layer].output_shape[-1] % groups == 0 else 1


def _columns_of_tower(tiles: int, channels: int) -> int:
    """Choose the tiles a row such that rows are full: the most up to 16, as in the paper; of few a row."""
    together = 1 if channels == 3 else min(channels, 4)
    filters = tiles // together
    full = [n for n in range(1, 17) if filters % n == 0 and n * n >= filters]
    return together * (full[-1] if full else min(16, filters))


def _columns(tiles: int, channels: int) -> int:
    """Choose the tiles a row: about twice as many as rows, at most 16 as in the paper; channels together."""
    together = 1 if channels == 3 else min(channels, 4)
    return together * max(1, min(16, math.ceil(math.sqrt(2 * tiles))) // together)


def _grid(tiles: np.ndarray, columns: int, colour: Any, gap: int = 1) -> np.ndarray:
    """Lay tiles (n, h, w, 3) in rows, `gap` pixels of `colour` between them."""
    count, height, width, _ = tiles.shape
    rows = math.ceil(count / columns)
    picture = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3))
    picture[:] = colour
    for i, tile in enumerate(tiles):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        picture[y : y + height, x : x + width] = tile
    return picture


def _prediction_figure(model: Model, shown: Sequence[tuple[np.ndarray, int, list]]) -> Any:
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = make_figure(2.5 * columns, 3.7 * rows)
    cells = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.1, 1] * rows)
    for axis in cells.flat:
        axis.set_axis_off()
    for i, (image, label, guess) in enumerate(shown):
        top, bottom = cells[2 * (i // columns), i % columns], cells[2 * (i // columns) + 1, i % columns]
        true = model.class_name(label)
        top.imshow(displayable(image), interpolation="nearest" if image.shape[0] < 64 else "antialiased")
        colour = "darkgreen" if guess[0][0] == true else "crimson"
        top.set_title(_label(true, 24), y=-0.17, fontsize=9, color=colour, fontweight="bold")
        bottom.set_axis_on()
        names, shares = [g[0] for g in guess], [g[1] for g in guess]
        colours = ["seagreen" if name == true else "lightcoral" for name in names]
        bottom.barh(range(len(guess)), shares, color=colours, height=0.85)
        for row, name in enumerate(names):
            bottom.text(0.02, row, _label(name, 28), va="center", fontsize=7.5)
        bottom.set_xlim(0, 1)
        bottom.set_ylim(len(guess) - 0.4, -0.6)
        bottom.set_xticks([])
        bottom.set_yticks([])
    return figure


def displayable(image: np.ndarray) -> np.ndarray:
    """Prepare an image for matplotlib: uint8 as is, floats stretched to [0, 1]; grey if not 3 channels."""
    picture = image if image.shape[2] == 3 else image[..., 0]
    if picture.dtype == np.uint8:
        return picture if image.shape[2] == 3 else np.repeat(picture[..., None], 3, axis=-1)
    low, high = float(picture.min()), float(picture.max())
    picture = (picture - low) / (high - low if high > low else 1.0)
    return picture if image.shape[2] == 3 else np.repeat(picture[..., None], 3, axis=-1)


def _label(name: str, length: int) -> str:
    """Return ``name`` as text to draw: names of folders need not be UTF-8."""
    return cut(name.encode("utf-8", "replace").decode(), length)


def make_figure(width: float, height: float) -> Any:
    """Make a figure that belongs to no window and no global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":  # it is there, but cannot find something
            raise
        raise NotInstalledError('plots need matplotlib; run: pip install "pyconvnet[plots]"') from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure as PNG."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"plot: the picture's name must end in .png, got {path}")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return write_atomically(path, picture.getvalue())
