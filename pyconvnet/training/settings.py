"""The options of a run: defaults, checks, and where each value comes from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..common.checks import check_number, flag, integer
from ..common.precision import check_precision
from ..common.text import reason
from ..data.augmentation import UNIT_SCALE, Augmentation
from ..layers.initialisers import Initialiser, initialiser
from ..network.network import Network
from ..network.preprocessing import Preprocessing
from . import schedules
from .class_weights import class_weights

DEFAULTS = {
    "epochs": 10,
    "batch_size": 128,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "stop_after": 0,
    "balance": False,
}


@dataclass
class Settings:
    """Everything that decides how a run goes, once all defaults are known."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Any
    seed: int
    augmentation: Any
    workers: int = 0
    keep_on_device: bool = False  # the images of the whole run
    checkpoint_minutes: float | None = 10.0
    checkpoint_batches: int | None = None
    keep: int = 1  # checkpoints
    tensorboard: bool = False
    progress: bool = True
    replicas: int = 1
    hybrid: bool = False
    precision: str = "fp32"
    balance: bool = False
    class_weights: list[float] | None = None
    validation: float | None = None  # the share of the training images that is held out
    images: Mapping[str, Any] = field(default_factory=dict)  # how files are read
    note: str = ""  # what the user has to be told
    told: str = ""  # what the user asked for, in words: a new head, say
    mean: np.ndarray | None = None  # of a loaded model, in place of the images' own
    stop_after: int = 0  # epochs without gain; 0: never
    init: Initialiser | None = None  # of the whole network; None: the layers' own

    def describe(self) -> dict[str, Any]:
        """Describe the settings, JSON-ready, for the log and the checkpoint."""
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule.describe(),
            "seed": self.seed,
            "augment": self.augmentation.as_dict(),
            "precision": self.precision,
            "balance": self.balance,
            "class_weights": self.class_weights,
            "validation": self.validation,
            "images": dict(self.images),
            "stop_after": self.stop_after,
            "init": None if self.init is None else self.init.to_dict(),
        }


RULES = {
    "epochs": "int >= 0",
    "batch_size": "positive int",
    "lr": "number >= 0",
    "momentum": "probability",
    "weight_decay": "number >= 0",
    "seed": "int >= 0",
    "stop_after": "int >= 0",
}


def check_options(given: Mapping[str, Any], precision: Any, resume: Any, progress: Any) -> None:
    """Refuse options of a wrong type or out of bounds."""
    for name, value in given.items():
        if name in RULES:
            check_number(f"train: {name}", value, RULES[name])
    integer("train", "seed", given.get("seed", 0), 0, 2**63 - 1)
    if "schedule" in given:
        schedules.schedule(given["schedule"])
    flag("train", "balance", given.get("balance", False))
    if "init" in given:
        initialiser(given["init"], "train: init")
    check_precision("train", precision)
    if not isinstance(resume, bool) and resume != "auto":
        raise ValueError(f"train: resume must be True, False or 'auto', got {resume!r}")
    flag("train", "progress", progress)


def check_rhythm(workers: Any, minutes: Any, batches: Any, keep: Any) -> None:
    """Refuse impossible numbers of workers and checkpoints, and rhythms of the latter."""
    check_number("train: keep", keep, "positive int")
    if workers is not None:
        check_number("train: workers", workers, "int >= 0")
    if minutes is not None:
        check_number("train: checkpoint_minutes", minutes, "number >= 0")
    if batches is not None:
        check_number("train: checkpoint_batches", batches, "positive int")


def make_settings(
    network: Network, given: Mapping[str, Any], augment: Any, saved: Any, dataset: Any
) -> Settings:
    """Choose each value: as given, else the resumed run's, the network's recipe, the default.

    ``saved``: what there is of the run to resume, or None.
    """
    old = saved[1]["options"] if saved is not None else {}
    values = {}
    for name, default in {**DEFAULTS, "seed": 0}.items():
        value = given[name]
        if value is None:
            value = old.get(name, network.recipe.get(name, default))
        elif saved is not None and name in ("seed", "balance"):
            before = old.get(name, default)
            if value != before:
                raise ValueError(f"train: {name} must stay {before} in a resumed run, got {value}")
        values[name] = value
    weights = given["class_weights"]
    if weights is not None:
        weights = class_weights(weights, dataset.labels, dataset.classes)
    if saved is not None:
        before = old.get("class_weights")
        if weights is not None and weights != before:
            raise ValueError(f"train: class_weights must stay {before} in a resumed run, got {weights}")
        weights = before
    values["class_weights"], values["balance"] = weights, bool(values["balance"])
    try:
        # A copy: a schedule's state is this run's, not the caller's.
        values["schedule"] = copy.copy(schedules.schedule(values["schedule"]))
    except (ValueError, TypeError) as error:
        if given["schedule"] is not None or saved is None:
            raise
        raise ValueError(
            f"train: give the schedule again, it cannot be read from {saved.path} ({reason(error)})"
        ) from None
    for name, rule in RULES.items():  # a recipe's values have not been looked at yet
        check_number(f"train: {name}", values[name], rule)
    if augment is None:
        if saved is not None:
            augment = old["augment"]
        else:
            augment = dict(network.recipe.get("augment", {}))
            if dataset.dtype != np.uint8:
                augment.pop("scale", None)  # recipes speak of pixels from 0 to 255
    if isinstance(augment, Mapping):
        try:
            augment = Augmentation(**augment)
        except TypeError as error:
            raise TypeError(f"train: augment: {error}") from None
    if not isinstance(augment, Augmentation):
        raise TypeError(
            "train: augment must be a pyconvnet.data.Augmentation, a dict or None, "
            f"got {type(augment).__name__}"
        )
    if not augment.scale_given and dataset.dtype == np.uint8 and network.wants_unit_variance:
        augment = replace(augment, scale=UNIT_SCALE)
    if saved is not None and augment.as_dict() != Augmentation(**old["augment"]).as_dict():
        raise ValueError("train: augment must stay as it was in a resumed run")
    return Settings(augmentation=augment, **values)


def make_preprocessing(dataset: Any, augmentation: Any, statistics: Any) -> Preprocessing:
    """Return what evaluation must do to an image after training with this augmentation."""
    shape = tuple(augmentation.output_shape(dataset.image_shape))
    crop = None if shape[:2] == tuple(dataset.image_shape[:2]) else shape[:2]
    return Preprocessing(dataset.image_shape, crop, augmentation.mean_of(statistics), augmentation.scale)
