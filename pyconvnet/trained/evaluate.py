"""Evaluate a model on a data set: views, errors, confusions.

The paper (section 4.1) tests on ten views of an image, the four corner patches and the centre one and their
mirror images, and averages the softmax's predictions over them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.checks import channels_first_hint, integer
from ..common.devices import Device
from ..common.text import columns
from ..data import Dataset, Loader
from ..data.dataset import reading_of
from ..data.matching import check_reading, matched
from ..data.sources import given_options, open_pair
from . import checkpoint
from .model import Model
from .probabilities import log_mean, log_probabilities, view_draws


@dataclass(frozen=True)
class Evaluation:
    """How a model did on a data set.

    Attributes
    ----------
    error : float
        Share of images whose class is not the most probable one (top-1 error).
    top5_error : float
        Share of images whose class is not among the five most probable.
    loss : float
        Mean of -log of the probability (averaged over the views) that the true class got.
    views : int
        Views averaged over.
    classes : list of str
        Names of the model's outputs.
    labels, predictions : (n,) int32
        True class and most probable class of every image, in the data set's order.
    seconds : float
    skipped : dict of str to str
        Files that could not be read, and why; each was replaced by another of its class.
    top_classes, top_probabilities : (n, 5) int32, (n, 5) float32
        The five most probable classes of every image (fewer where there are fewer), and their probabilities.
    true_probabilities : (n,) float32
        Of the true class.
    names : list of str
        The images' files, else their numbers.
    """

    error: float
    top5_error: float
    loss: float
    views: int
    classes: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    seconds: float
    skipped: dict[str, str]
    top_classes: np.ndarray | None = None
    top_probabilities: np.ndarray | None = None
    true_probabilities: np.ndarray | None = None
    names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        text = (
            f"error {100 * self.error:.2f}% (top-1), {100 * self.top5_error:.2f}% (top-5), "
            f"loss {self.loss:.4f} on {len(self)} images, "
            f"{self.views} view{'s' if self.views > 1 else ''} each"
        )
        return text + (f", {len(self.skipped)} unreadable files replaced" if self.skipped else "")

    @property
    def confusion(self) -> np.ndarray:
        """(classes, classes) int64: images of class row that were taken for class column."""
        count = len(self.classes)
        flat = np.bincount(self.labels.astype(np.int64) * count + self.predictions, minlength=count * count)
        return flat.reshape(count, count)

    @property
    def class_errors(self) -> np.ndarray:
        """(classes,) float64: top-1 error of each class, NaN for a class without images."""
        images = np.bincount(self.labels, minlength=len(self.classes)).astype(float)
        right = np.bincount(self.labels[self.labels == self.predictions], minlength=len(self.classes))
        with np.errstate(invalid="ignore"):
            return np.where(images > 0, 1 - right / images, np.nan)

    def csv(self) -> str:
        """Return a table of all images as CSV: image, true class, its probability, whether the top-1 and
        top-5 guesses are right, and the five most probable classes with their probabilities.
        """
        if self.top_classes is None:
            raise ValueError("Evaluation: no predictions of single images are held")
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        top = self.top_classes.shape[1]
        guesses = [f"{what}_{i}" for i in range(1, top + 1) for what in ("class", "probability")]
        table.writerow(["image", "true", "true_probability", "top1", "top5", *guesses])
        for i, name in enumerate(self.names):
            label, best = int(self.labels[i]), self.top_classes[i].tolist()
            pairs = zip(best, self.top_probabilities[i].tolist(), strict=True)
            table.writerow(
                [
                    name,
                    self.classes[label],
                    f"{self.true_probabilities[i]:.6g}",
                    int(best[0] == label),
                    int(label in best),
                    *(cell for c, p in pairs for cell in (self.classes[c], f"{p:.6g}")),
                ]
            )
        return text.getvalue()

    def report(self, most: int = 20) -> str:
        """Tabulate the classes with the highest errors, and what they are taken for."""
        confusion, errors = self.confusion, self.class_errors
        order = [i for i in np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable") if errors[i] >= 0][
            :most
        ]
        rows = [("class", "images", "error", "most often taken for")]
        for i in order:
            wrong = confusion[i].copy()
            wrong[i] = 0
            taken = [
                f"{self.classes[j]} ({wrong[j]})" for j in np.argsort(-wrong, kind="stable")[:3] if wrong[j]
            ]
            figures = str(confusion[i].sum()), f"{100 * errors[i]:.1f}%"
            rows.append((self.classes[i], *figures, ", ".join(taken)))
        return "\n".join([repr(self), *columns(rows, right=(1, 2))])


def evaluate(
    model_or_run: Any,
    data: Any,
    views: int = 10,
    *,
    batch_size: int = 128,
    device: str | Device | Sequence[str | Device] | None = None,
    precision: str = "fp32",
    replicas: int = 1,
    hybrid: bool = False,
    workers: int = 0,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    on_error: str | None = None,
    max_pixels: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure top-1 and top-5 error, loss and confusions of a model on a data set.

    The model keeps what the call made ready on the device, as in `predict`.

    Parameters
    ----------
    model_or_run : Model, Run, path or a list of them
        What `train` returned, or a checkpoint. Several are judged together, by the mean of their
        probabilities (paper, section 6: the average of five and of seven networks), whatever the sizes of
        their images; their classes must be the same.
    data : Dataset, name, path or (x, y)
        As `data.open_dataset` takes it; where the data brings validation images, these are used. Files are
        prepared in the model's size and channels. Classes are found by name; labels whose classes have no
        names (those of arrays) are the numbers of the model's outputs.
    views : 10 or 1
        10: average the predictions over the four corners and the centre and their mirror images (paper,
        section 4.1). Views that are no different from one another or from nothing the model has seen are left
        out: where the model's crop is the whole image, the places fall together; where it was trained without
        mirroring (`Model.info` says so), nothing is mirrored. `Evaluation.views` says how many remained. 1:
        the centre.
    batch_size : int
    device : str, Device, a list of them, or None
        Several share the network, as in `train`.
    precision : "fp32", "tf32", "fp32x3" or "bf16"
        As `train` takes it; whatever the model was trained in.
    replicas, hybrid
        How several devices are used, as in `train`.
    workers : int
        Processes that decode image files.
    image_size, channels
        What the images must be prepared to: the model's own, or an error.
    on_error : "skip" (the default) or "raise"
        Unreadable files of a folder: replace each by the next of its class, as `data.ImageFolder` does, or
        raise.
    max_pixels : int, optional
        Largest image file decoded, as in `train`.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        Images of another shape than the model's, classes that the model does not know, a bad option.
    TypeError
        Not a model.
    FileNotFoundError
        No such checkpoint or data.
    """
    models = as_models(model_or_run)
    asked = given_options(size=image_size, channels=channels)
    sets = []
    for model in models:
        check_reading(reading_of(model.preprocessing.image_shape), asked, "the model")
        sets.append(matching_data(model, data, on_error=on_error, max_pixels=max_pixels))
    dataset, labels = sets[0], sets[0].labels
    size = min(integer("evaluate", "batch_size", batch_size, 1), len(dataset))
    how = {"precision": precision, "replicas": replicas, "hybrid": hybrid}
    outputs, count = models[0].outputs, len(dataset)
    classes, probabilities = np.empty((2, count, min(5, outputs)))
    true_probabilities = np.empty(count, np.float32)
    loss = top1 = top5 = 0.0
    done = 0
    begin = time.perf_counter()
    with _bar(dataset, progress) as bar:
        for log_p, indices in _judged(models, sets, views, size, device, workers, how):
            true = labels[indices]
            rank = ranks(log_p, true)
            rows = slice(done, done + len(true))
            own = log_p[np.arange(len(true)), true]
            loss -= float(own.sum())
            true_probabilities[rows] = np.exp(own)
            top1 += int((rank >= 1).sum())
            top5 += int((rank >= 5).sum())
            best = np.argsort(-np.nan_to_num(log_p, nan=-np.inf), axis=1, kind="stable")[:, :5]
            classes[rows], probabilities[rows] = best, np.exp(np.take_along_axis(log_p, best, axis=1))
            done += len(true)
            bar.update(len(true))
    return Evaluation(
        error=top1 / count,
        top5_error=top5 / count,
        loss=loss / count,
        views=max(len(view_draws(model, views)) for model in models),
        classes=[models[0].class_name(i) for i in range(outputs)],
        labels=labels.astype(np.int32),
        predictions=classes[:, 0].astype(np.int32),
        seconds=time.perf_counter() - begin,
        skipped={path: why for some in sets for path, why in some.skipped.items()},
        top_classes=classes.astype(np.int32),
        top_probabilities=probabilities.astype(np.float32),
        true_probabilities=true_probabilities,
        names=[dataset.image_name(i) for i in range(count)],
    )


def _judged(
    models: Sequence[Model],
    sets: Sequence[Dataset],
    views: Any,
    size: int,
    device: Any,
    workers: int,
    how: dict[str, Any],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, batch by batch, the logarithm of the mean softmax over models and views, and what was read."""
    shared = len({dataset.image_shape for dataset in sets}) == 1  # then one reader serves all
    with contextlib.ExitStack() as stack:
        judges = [
            (stack.enter_context(model.kept_plan(device, size, **how)), view_draws(model, views))
            for model in models
        ]
        loaders = [
            stack.enter_context(Loader(dataset, size, shuffle=False, workers=workers))
            for dataset in (sets[:1] if shared else sets)
        ]
        for batches in zip(*(loader.epoch(0) for loader in loaders), strict=True):
            found = [
                log_probabilities(plan, batches[0 if shared else i].images, draws)
                for i, (plan, draws) in enumerate(judges)
            ]
            yield log_mean(found), batches[0].indices


def best_classes(model: Model, probabilities: np.ndarray, top: int) -> list[tuple[str, float]]:
    """Return one image's `top` (class name, probability), most probable first; ties in the model's order."""
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [(model.class_name(int(i)), float(probabilities[i])) for i in best]


def as_models(models: Any) -> list[Model]:
    """Return the Models in what a user passes to be judged together: one, or a sequence of them.

    Raises
    ------
    ValueError
        No model, or models whose outputs are not the same classes in the same order.
    TypeError
        Not a model.
    """
    if not isinstance(models, (list, tuple)):
        return [as_model(models)]
    if not models:
        raise ValueError("evaluate: models must not be empty")
    found = [as_model(model) for model in models]
    first = found[0]
    for number, model in enumerate(found[1:], 2):
        same = model.outputs == first.outputs and model.classes == first.classes
        if not same or model.class_names_given != first.class_names_given:
            raise ValueError(
                f"evaluate: all models must have the same classes in the same order, model {number} has "
                f"{_told(model)}, the first {_told(first)}"
            )
    return found


def _told(model: Model) -> str:
    names = ", ".join(model.classes[:5]) + (", …" if len(model.classes) > 5 else "")
    return f"{model.outputs} ({names})"


def as_model(model_or_run: Any) -> Model:
    """Return the Model in what a user passes: a Model, a Run, or the path of a checkpoint."""
    if isinstance(model_or_run, (str, os.PathLike)):
        return checkpoint.load(model_or_run)
    model = getattr(model_or_run, "model", model_or_run)
    if not isinstance(model, Model):
        raise TypeError(
            f"model must be a Model, a Run or the path of a checkpoint, got {type(model_or_run).__name__}"
        )
    return model


def matching_data(model: Model, data: Any, **options: Any) -> Dataset:
    """Return the data set in `data`, checked to fit the model, its labels the numbers of the model's outputs;
    `options`: on_error and max_pixels of files.
    """
    shape, asked = model.preprocessing.image_shape, given_options(**options)
    first, second = open_pair(data, None, 0, {**reading_of(shape), **asked})
    dataset = first if second is None else second
    if dataset.image_shape != shape:
        raise ValueError(
            f"images of {dataset.name} must have the model's shape {shape}, got {dataset.image_shape}"
            f"{channels_first_hint((len(dataset), *dataset.image_shape))}"
        )
    check_reading(dataset.reading, asked, dataset.name)
    outputs = model.outputs
    return matched(dataset, model.classes, model.class_names_given, outputs, "the model's outputs")


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count the classes before the true one: (n,) ints; equal scores count by index, NaN ranks last."""
    own = scores[np.arange(len(labels)), labels][:, None]
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1] + 5, before.sum(axis=1))


def _bar(dataset: Dataset, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=len(dataset), desc="evaluating", unit=" images", disable=None if show else True, leave=False
    )
