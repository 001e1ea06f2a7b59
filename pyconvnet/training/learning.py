"""Whether a run gets anywhere: chance, which a net must beat; what to try where it does not; when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..network.network import Network
from .run import score
from .schedules import Warmup
from .settings import Settings

#: Epochs after which a net that has not beaten chance is worth a warning.
EPOCHS_TO_BEAT_CHANCE = 5

History = Sequence[Mapping[str, Any]]


def chance(labels: np.ndarray, even: bool = False) -> float:
    """Return the error of an answer that looks at no image: always the most frequent class.

    Parameters
    ----------
    labels : (n,) ints
        Of the images the error is measured on.
    even : bool
        Classes are weighted or drawn alike in training, so that the most frequent one has no advantage: the
        error of guessing evenly among the classes there are, 1 - 1 / classes.
    """
    counts = np.bincount(labels)
    return 1.0 - (1.0 / np.count_nonzero(counts) if even else counts.max() / counts.sum())


def beats_chance(history: History, chance: float, images: int) -> bool:
    """Tell whether some epoch's validation error was below chance.

    Where there is no validation, the error on the ``images`` that were trained on counts. It is noisy, from
    crops and dropout, so it has to be lower by two standard deviations of guessing.
    """
    errors = [record["validation_error"] for record in history]
    if None in errors:
        errors = [record["train_error"] for record in history]
        chance -= 2 * math.sqrt(chance * (1 - chance) / images)
    return min(errors, default=1.0) < chance


def advice(network: Network, settings: Settings, history: History, chance: float, pixels: bool) -> str:
    """Tell what to try where a net has not beaten chance; ``pixels``: the images are uint8."""
    by_fans = network.wants_unit_variance
    remedies = [f"another learning rate, a lower one first (now {settings.lr:g})"]
    if not by_fans:
        remedies.insert(0, 'initial values by fan-in (init="he")')
    elif pixels and settings.augmentation.scale == 1:
        remedies.insert(0, "images of variance about one (augment's scale=1/64)")
    if not isinstance(settings.schedule, Warmup):
        remedies.append('a warm-up (schedule="warmup:5")')
    kind = "training" if history[-1]["validation_error"] is None else "validation"
    return (
        f"after {len(history)} epochs the {kind} error is no better than that of guessing, "
        f"{100 * chance:.1f}%: the network has not begun to learn. What may help: {', '.join(remedies)}; "
        "and are the labels those of the images?"
    )


def stalled(history: History, stop_after: int) -> bool:
    """Tell whether the last ``stop_after`` epochs, or more, brought no new best one; 0: never."""
    if not stop_after or not history:
        return False
    best = min(range(len(history)), key=lambda i: score(history[i]))
    return len(history) - 1 - best >= stop_after
