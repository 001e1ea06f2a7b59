"""Factors on the loss of each class's examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..common.checks import check_number


def class_weights(spec: Any, labels: np.ndarray, classes: Sequence[str]) -> list[float]:
    """Return factors on the loss of each class's examples.

    Parameters
    ----------
    spec : sequence of numbers, dict of class name to number, or "balanced"
        One a class; of a dict, 1 for the classes it does not name. "balanced": n / (K n_k) where n_k of the n
        images are of class k and K classes have images, so that every class weighs the same and an image 1 on
        average; 1 for a class without images.
    labels : (n,) ints
    classes : sequence of str
        Their names.

    Raises
    ------
    ValueError, TypeError
        A wrong number of weights, an unknown class, a weight that is negative or not finite.
    """
    if isinstance(spec, str):
        if spec != "balanced":
            raise ValueError(f"train: class_weights must be numbers, a dict or 'balanced', got {spec!r}")
        counts = np.bincount(labels, minlength=len(classes))
        share = len(labels) / np.count_nonzero(counts)
        return [share / int(count) if count else 1.0 for count in counts]
    if isinstance(spec, Mapping):
        for name in spec:
            if name not in classes:
                known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
                raise ValueError(f"train: class_weights names the class {name!r}, the data have {known}")
        spec = [spec.get(name, 1.0) for name in classes]
    try:
        weights = list(spec)
    except TypeError:
        raise TypeError(
            f"train: class_weights must be numbers, a dict or 'balanced', got {type(spec).__name__}"
        ) from None
    if len(weights) != len(classes):
        raise ValueError(f"train: class_weights must be {len(classes)}, one a class, got {len(weights)}")
    for name, weight in zip(classes, weights, strict=True):
        check_number(f"train: the class weight of {name!r}", weight, "number >= 0")
    if not any(weights):
        raise ValueError("train: class_weights must not all be zero")
    return [float(weight) for weight in weights]
