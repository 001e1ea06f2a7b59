"""Images beside those that are nearest to them in what a layer makes of them (paper, figure 4, right)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.checks import either, integer
from ..common.text import cut
from .evaluate import as_model, matching_data
from .features import last_hidden_layer, nearest
from .plots import displayable, make_figure, write_figure


def neighbours(
    model_or_run: Any,
    data: Any,
    path: str | Path,
    *,
    queries: Any = None,
    layer: str | None = None,
    count: int = 6,
    rows: int = 5,
    seed: int = 0,
    device: Any = None,
) -> Path:
    """Draw images, each with those of a data set whose features are nearest to its own.

    The first column are the queries, as in the paper's figure 4, right. An image of the data set is not its
    own neighbour. Titles are classes, those of the query's class in green.

    Parameters
    ----------
    model_or_run : Model, Run or path
    data : Dataset, name, path or (x, y)
        Among which neighbours are sought; where it brings validation images, among these.
    path : path
        PNG to write.
    queries : sequence of int, optional
        Images of the data; default: ``rows`` of them at random, with ``seed``.
    layer : str, optional
        Default: the last hidden layer, the paper's fc7.
    count : int
        Neighbours of each.
    rows, seed : int
    device : optional

    Raises
    ------
    ValueError
        Fewer images than neighbours, a query that is none of the images, no such layer.
    """
    model = as_model(model_or_run)
    dataset = matching_data(model, data)
    with either():
        count = integer("plot", "count", count, 1, len(dataset) - 1)
        rows = integer("plot", "rows", rows, 1, 100)
    if queries is None:
        queries = np.random.default_rng(seed).permutation(len(dataset))[:rows]
    asked = [integer("plot", "queries", int(q), 0, len(dataset) - 1) for q in queries]
    if not asked:
        raise ValueError("plot: queries must not be empty")
    layer = layer or last_hidden_layer(model.network)
    found = model.features(dataset, layer, device=device)
    indices, _ = nearest(found, found[asked], min(count + 1, len(dataset)))
    chosen = [[q, *[int(i) for i in near if i != q][:count]] for q, near in zip(asked, indices, strict=True)]
    return _draw(model, dataset, chosen, layer, Path(path))


def _draw(model: Any, dataset: Any, chosen: Sequence[Sequence[int]], layer: str, path: Path) -> Path:
    columns = len(chosen[0])
    figure = make_figure(1.45 * columns + 0.3, 1.75 * len(chosen) + 0.3)
    widths = [1, 0.12, *[1] * (columns - 1)]  # a gap after the queries
    cells = figure.subplots(len(chosen), columns + 1, squeeze=False, width_ratios=widths)
    for axes, row in zip(cells, chosen, strict=True):
        pictures, labels = dataset.read(row), dataset.labels[list(row)]
        axes[1].set_axis_off()
        for axis, picture, label in zip((axes[0], *axes[2:]), pictures, labels, strict=True):
            how = "nearest" if picture.shape[0] < 64 else "antialiased"
            axis.imshow(displayable(picture), interpolation=how)
            name = cut(model.class_name(int(label)).encode("utf-8", "replace").decode(), 18)
            axis.set_title(name, fontsize=8, color="darkgreen" if label == labels[0] else "crimson")
            axis.set_axis_off()
    figure.suptitle(f"queries, and the images nearest to them in {layer}", fontsize=9)
    return write_figure(figure, path)
