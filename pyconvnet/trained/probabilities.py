"""The probabilities that a trained network gives the classes of images, averaged over views of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..common.checks import integer
from ..data import VIEWS, Augmentation
from ..data.images import check_max_pixels
from .images import image_sources, read_all, stack


def predict_proba(
    model: Any, images: Any, *, views: int = 1, batch_size: int = 128, device: Any = None, **how: Any
) -> np.ndarray:
    """Return the probabilities of all classes; see :meth:`pyconvnet.Model.predict_proba`, which calls it."""
    shape = model.preprocessing.image_shape
    single, sources = image_sources(images, shape)
    size = min(integer("predict_proba", "batch_size", batch_size, 1), len(sources))
    draws, largest = view_draws(model, views), check_max_pixels("predict_proba", None)
    out = np.empty((len(sources), model.outputs))
    with model.kept_plan(device, size, **how) as plan:
        for start in range(0, len(sources), size):
            pixels = stack(read_all(sources[start : start + size], shape, "raise", largest))
            np.exp(log_probabilities(plan, pixels, draws), out=out[start : start + size])
    return out[0] if single else out


def log_probabilities(plan: Any, images: np.ndarray, draws: Sequence[Any]) -> np.ndarray:
    """Return the logarithm of the mean softmax over views, (n, classes) float64.

    Parameters
    ----------
    plan : Plan
        With parameters and preprocessing set.
    images : (n, H, W, C)
        n at most the plan's batch size.
    draws : sequence of functions of n
        Each gives one view's draws, as `data.Augmentation.views` does.
    """
    n = len(images)
    per_view = []
    for draw in draws:
        plan.feed(images, draws=draw(n))
        plan.forward(n, train=False, costs=False)
        scores = plan.get_output(plan.network.output, n).astype(np.float64)
        with np.errstate(invalid="ignore"):  # a model with infinities in it: NaN, which counts as an error
            shifted = scores - scores.max(axis=-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        if log_p.ndim == 4:  # of a fully convolutional network: the mean over the places
            log_p = log_mean(log_p.reshape(n, -1, log_p.shape[-1]).swapaxes(0, 1))
        per_view.append(log_p)
    return log_mean(per_view)


def log_mean(log_p: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logarithm of the mean of probabilities, given by their logarithms."""
    if len(log_p) == 1:
        return log_p[0]
    with np.errstate(invalid="ignore"):
        return np.logaddexp.reduce(np.stack(log_p)) - np.log(len(log_p))


def view_draws(model: Any, views: Any) -> list[Any]:
    """Return functions n -> draws of the views to average over; see `evaluate`."""
    if isinstance(views, bool) or views not in (1, VIEWS):
        raise ValueError(f"views must be 1 or {VIEWS}, got {views!r}")
    pre = model.preprocessing
    augmentation = Augmentation(crop=pre.crop, mean=None)
    if views == 1:
        return [lambda n: augmentation.centre(n, pre.image_shape)]
    numbers = range(VIEWS)
    if augmentation.output_shape(pre.image_shape) == pre.image_shape:
        numbers = [view for view in numbers if view % 5 == 0]
    if (model.info.get("augment") or {}).get("mirror") is False:
        numbers = [view for view in numbers if view < 5]
    return [lambda n, view=view: augmentation.views(n, view, pre.image_shape) for view in numbers]
