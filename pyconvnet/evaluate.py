"""Evaluate a model on a data set, and predict the classes of images.

The paper (section 4.1) tests on ten views of an image, the four corner patches and the centre one and their
mirror images, and averages the softmax's predictions over them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from . import checkpoint
from .data import VIEWS, Augmentation, Dataset, Loader, load_image, open_dataset
from .data.images import fit
from .devices import Device
from .model import Model
from .plan import Plan


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

    def report(self, most: int = 20) -> str:
        """Table of the classes with the highest errors, and what they are taken for."""
        confusion, errors = self.confusion, self.class_errors
        order = [i for i in np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable") if errors[i] >= 0][
            :most
        ]
        width = max([len("class"), *(len(self.classes[i]) for i in order)])
        lines = [repr(self), f"{'class':{width}}  images   error  most often taken for"]
        for i in order:
            wrong = confusion[i].copy()
            wrong[i] = 0
            taken = [
                f"{self.classes[j]} ({wrong[j]})" for j in np.argsort(-wrong, kind="stable")[:3] if wrong[j]
            ]
            figures = f"{self.classes[i]:{width}}  {confusion[i].sum():6d}  {100 * errors[i]:5.1f}%"
            lines.append(f"{figures}  {', '.join(taken)}".rstrip())
        return "\n".join(lines)


def evaluate(
    model_or_run: Any,
    data: Any,
    views: int = 10,
    *,
    batch_size: int = 128,
    device: str | Device | None = None,
    precision: str = "fp32",
    workers: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Top-1 and top-5 error, loss and confusions of a model on a data set.

    Parameters
    ----------
    model_or_run : Model, Run or path
        What `train` returned, or a checkpoint.
    data : Dataset, name, path or (x, y)
        As `data.open_dataset` takes it; where the data brings validation images, these are used.
    views : 10 or 1
        10: average the predictions over the four corners and the centre and their mirror images (paper,
        section 4.1). Views that are no different from one another or from nothing the model has seen are left
        out: where the model's crop is the whole image, the places fall together; where it was trained without
        mirroring (`Model.info` says so), nothing is mirrored. `Evaluation.views` says how many remained. 1:
        the centre.
    batch_size : int
    device : str, Device or None
    precision : "fp32", "tf32", "fp32x3" or "bf16"
        As `train` takes it; whatever the model was trained in.
    workers : int
        Processes that decode image files.
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
    model = as_model(model_or_run)
    chosen = view_draws(model, views)
    dataset, labels = matching_data(model, data)
    plan = model.plan(device, min(_positive("batch_size", batch_size), len(dataset)), precision=precision)
    predictions = np.empty(len(dataset), np.int32)
    loss = top1 = top5 = 0.0
    done = 0
    begin = time.perf_counter()
    with (
        Loader(dataset, plan.batch_size, shuffle=False, workers=workers) as loader,
        _bar(dataset, progress) as bar,
    ):
        for batch in loader.epoch(0):
            log_p = log_probabilities(plan, batch.images, chosen)
            true = labels[batch.indices]
            rank = ranks(log_p, true)
            loss -= float(log_p[np.arange(len(true)), true].sum())
            top1 += int((rank >= 1).sum())
            top5 += int((rank >= 5).sum())
            predictions[done : done + len(true)] = np.nan_to_num(log_p, nan=-np.inf).argmax(axis=1)
            done += len(true)
            bar.update(len(true))
    count = len(dataset)
    return Evaluation(
        error=top1 / count,
        top5_error=top5 / count,
        loss=loss / count,
        views=len(chosen),
        classes=[model.class_name(i) for i in range(model.network.classes)],
        labels=labels.astype(np.int32),
        predictions=predictions,
        seconds=time.perf_counter() - begin,
        skipped=dict(dataset.skipped),
    )


def predict(
    model_or_run: Any,
    images: Any,
    top: int = 5,
    *,
    views: int = 1,
    batch_size: int = 128,
    device: str | Device | None = None,
    precision: str = "fp32",
) -> list:
    """The most probable classes of images.

    Parameters
    ----------
    model_or_run : Model, Run or path
    images : one image or a sequence of them
        Paths, PIL images, or arrays (H, W, C) or (H, W); an array (n, H, W, C) is n images. Files, PIL images
        and uint8 arrays are prepared as training images are (shorter side rescaled, centre cropped); float
        arrays must have the model's image shape and are taken as they are.
    top : int
        Classes per image, at most as many as there are.
    views : 1 or 10
        As in `evaluate`.
    batch_size : int
    device : str, Device or None
    precision : "fp32", "tf32", "fp32x3" or "bf16"
        As `train` takes it; whatever the model was trained in.

    Returns
    -------
    list of (class name, probability), most probable first; for a sequence a list of such lists

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        An image that cannot be read, by name; a shape that does not fit; a bad option.
    """
    model = as_model(model_or_run)
    top = min(_positive("top", top), model.network.classes)
    size = _positive("batch_size", batch_size)
    chosen = view_draws(model, views)
    single, sources = _sources(images, model.preprocessing.image_shape)
    plan = model.plan(device, min(size, len(sources)), precision=precision)
    results = []
    for start in range(0, len(sources), plan.batch_size):
        pixels = _stack(
            [_prepare(s, model.preprocessing.image_shape) for s in sources[start : start + plan.batch_size]]
        )
        p = np.exp(log_probabilities(plan, pixels, chosen))
        results += [best_classes(model, row, top) for row in p]
    return results[0] if single else results


def best_classes(model: Model, probabilities: np.ndarray, top: int) -> list[tuple[str, float]]:
    """The `top` (class name, probability) of one image, most probable first; ties in the model's order."""
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [(model.class_name(int(i)), float(probabilities[i])) for i in best]


def as_model(model_or_run: Any) -> Model:
    """The Model in what a user passes: a Model, a Run, or the path of a checkpoint."""
    if isinstance(model_or_run, (str, os.PathLike)):
        return checkpoint.load(model_or_run)
    model = getattr(model_or_run, "model", model_or_run)
    if not isinstance(model, Model):
        raise TypeError(
            f"model must be a Model, a Run or the path of a checkpoint, got {type(model_or_run).__name__}"
        )
    return model


def matching_data(model: Model, data: Any) -> tuple[Dataset, np.ndarray]:
    """The data set in `data`, checked to fit the model, and its labels as numbers of the model's outputs."""
    height, width, channels = model.preprocessing.image_shape
    options = {"channels": channels} if channels in (1, 3) else {}
    first, second = open_dataset(data, size=(height, width), **options)
    dataset = first if second is None else second
    if dataset.image_shape != model.preprocessing.image_shape:
        raise ValueError(
            f"images of {dataset.name} must have the model's shape {model.preprocessing.image_shape}, "
            f"got {dataset.image_shape}"
        )
    known = model.classes
    if known and dataset.classes != known[: len(dataset.classes)] and set(dataset.classes) <= set(known):
        number = {name: i for i, name in enumerate(known)}
        return dataset, np.array([number[name] for name in dataset.classes], np.int32)[dataset.labels]
    strangers = [name for name in dataset.classes if name not in known]
    if known and strangers and not _numbered(dataset.classes) and not _numbered(known):
        raise ValueError(f"{dataset.name} has the class {strangers[0]!r}, which the model does not know")
    if dataset.labels.max() >= model.network.classes:
        raise ValueError(
            f"labels of {dataset.name} must lie in [0, {model.network.classes}), the model's outputs, "
            f"got {dataset.labels.max()}"
        )
    return dataset, dataset.labels


def log_probabilities(plan: Plan, images: np.ndarray, draws: Sequence[Any]) -> np.ndarray:
    """Logarithm of the mean softmax over views, (n, classes) float64.

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
        plan.forward(n, train=False)
        scores = np.asarray(plan.device.to_numpy(plan.scores(n)), np.float64)
        with np.errstate(invalid="ignore"):  # a model with infinities in it: NaN, which counts as an error
            shifted = scores - scores.max(axis=1, keepdims=True)
        per_view.append(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
    with np.errstate(invalid="ignore"):
        return np.logaddexp.reduce(np.stack(per_view)) - np.log(len(per_view))


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the true one: (n,) ints; equal scores count by index, NaN ranks last."""
    own = scores[np.arange(len(labels)), labels][:, None]
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1] + 5, before.sum(axis=1))


def view_draws(model: Model, views: Any) -> list[Any]:
    """Functions n -> draws of the views to average over; see `evaluate`."""
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


def _sources(images: Any, image_shape: tuple[int, int, int]) -> tuple[bool, list[Any]]:
    """(True where one image was meant, the images one by one)."""
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return True, [images]
    if isinstance(images, np.ndarray):
        if images.ndim in (2, 3) and not (
            images.ndim == 3 and images.shape[1:] == image_shape[:2] and image_shape[2] == 1
        ):
            return True, [images]
        if images.ndim not in (3, 4):
            raise ValueError(
                f"predict: an array must have shape (H, W), (H, W, C) or (n, H, W, C), got {images.shape}"
            )
        images = list(images)
    if not isinstance(images, Sequence) and not isinstance(images, Iterator):
        raise TypeError(f"predict: images must be paths, PIL images or arrays, got {type(images).__name__}")
    images = list(images)
    if not images:
        raise ValueError("predict: images must not be empty")
    return False, images


def _prepare(image: Any, image_shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = image_shape
    if isinstance(image, np.ndarray):
        array = image[..., None] if image.ndim == 2 else image
        if array.shape == image_shape and array.dtype.kind == "f":
            if not np.isfinite(array).all():
                raise ValueError("predict: images must be finite, got NaN or infinity")
            return array.astype(np.float32)
        if array.ndim != 3 or array.dtype != np.uint8 or 0 in array.shape:
            raise ValueError(
                f"predict: an array must be uint8 (H, W, C), or float of the model's shape {image_shape}, "
                f"got {image.dtype} {image.shape}"
            )
        if array.shape == image_shape:
            return array
        if array.shape[2] not in (1, 3):
            raise ValueError(f"predict: an array must have 1 or 3 channels, got shape {image.shape}")
        image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))
    if channels not in (1, 3):
        raise ValueError(
            f"predict: the model takes images of {channels} channels: give arrays of shape {image_shape}"
        )
    if isinstance(image, Image.Image):
        return fit(image, (height, width), channels)
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(f"predict: images must be paths, PIL images or arrays, got {type(image).__name__}")
    return load_image(image, (height, width), channels)


def _stack(pixels: list[np.ndarray]) -> np.ndarray:
    return np.stack([p.astype(np.float32) for p in pixels] if len({p.dtype for p in pixels}) > 1 else pixels)


def _numbered(classes: Sequence[str]) -> bool:
    """True for names that `ArrayDataset` made up: the numbers themselves."""
    return list(classes) == [str(i) for i in range(len(classes))]


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def _bar(dataset: Dataset, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=len(dataset), desc="evaluating", unit=" images", disable=None if show else True, leave=False
    )
