"""Whether images go together: those of validation with those of training, and either with a model.

Class names decide by one rule. Names that were made up (the numbers of arrays' labels) say nothing: such
labels are the numbers of a model's outputs. Names that were given are looked up among the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .dataset import Dataset, Subset
from .images import image_size


def output_numbers(
    dataset: Dataset, classes: Sequence[str], given: bool, outputs: int, what: str
) -> np.ndarray:
    """Return the output that each class of a dataset means.

    Parameters
    ----------
    dataset : Dataset
    classes : sequence of str
        Names of the outputs, in order; there may be fewer than outputs, or none.
    given : bool
        False where `classes` are made up.
    outputs : int
    what : str
        What the outputs are, for messages: "the model's outputs".

    Returns
    -------
    (len(dataset.classes),) int32

    Raises
    ------
    ValueError
        A label without an output, a class that is not among the outputs', or names for outputs that have
        none and are not as many.
    """
    numbers = np.arange(len(dataset.classes), dtype=np.int32)
    if not dataset.class_names_given:
        if dataset.labels.max() >= outputs:
            raise ValueError(
                f"labels of {dataset.name} must lie in [0, {outputs}), {what}, got {dataset.labels.max()}"
            )
        return numbers
    named = given and len(classes) > 0
    known = list(classes) if named else [str(i) for i in range(outputs)]
    if dataset.classes == known[: len(dataset.classes)]:
        return numbers
    number = {name: i for i, name in enumerate(known)}
    strangers = [name for name in dataset.classes if name not in number]
    if not strangers:
        return np.array([number[name] for name in dataset.classes], np.int32)
    if named:
        raise ValueError(
            f"{dataset.name} has the class {strangers[0]!r}, which is none of {what}: {_few(known)}"
        )
    count = len(classes) or outputs
    if len(dataset.classes) != count:
        raise ValueError(
            f"{what} have no names, so the classes of {dataset.name} must be as many, {count}, or be called "
            f"0 to {outputs - 1}, got {len(dataset.classes)}: {_few(dataset.classes)}"
        )
    return numbers


def renumbered(dataset: Dataset, numbers: np.ndarray, classes: Sequence[str], given: bool) -> Dataset:
    """Return `dataset` with label i replaced by ``numbers[i]``, an index into `classes`; itself where that
    changes nothing.
    """
    classes = list(classes)
    labels = numbers[dataset.labels]
    if (
        dataset.class_names_given == given
        and dataset.classes == classes[: len(dataset.classes)]
        and np.array_equal(labels, dataset.labels)
    ):
        return dataset
    view = Subset(dataset, np.arange(len(dataset)))
    view.labels, view.classes, view.class_names_given = labels.astype(np.int32), classes, given
    return view


def matched(dataset: Dataset, classes: Sequence[str], given: bool, outputs: int, what: str) -> Dataset:
    """Return `dataset` with its labels as numbers of the outputs; arguments as of :func:`output_numbers`."""
    numbers = output_numbers(dataset, classes, given, outputs, what)
    if np.array_equal(numbers, np.arange(len(numbers))):
        return dataset
    return renumbered(dataset, numbers, classes, given)


def check_pair(train: Dataset, validation: Dataset) -> Dataset:
    """Return `validation`, checked to be images as `train`'s, with its labels as `train` numbers them.

    Raises
    ------
    ValueError
        Another shape, dtype, or classes that `train` has not.
    """
    if validation.image_shape != train.image_shape:
        raise ValueError(
            f"validation images must have the training images' shape {train.image_shape}, "
            f"got {validation.image_shape}"
        )
    if validation.dtype != train.dtype:
        raise ValueError(
            f"validation images must be {train.dtype} as the training images, got {validation.dtype}"
        )
    names, given = train.classes, train.class_names_given
    return matched(validation, names, given, len(names), "the training images' classes")


def check_reading(reading: Mapping[str, Any], asked: Mapping[str, Any], whose: str) -> None:
    """Refuse options of `ImageFolder` that are not those under which the images are read.

    Parameters
    ----------
    reading : mapping
        As `Dataset.reading`.
    asked : mapping
        Some of the options, as a user gave them.
    whose : str
        Whose images, for the message.

    Raises
    ------
    ValueError, TypeError
        Another value, none at all, or an option of files where there are none.
    """
    for option, value in asked.items():
        name = "image_size" if option == "size" else option
        value = image_size(name, value) if option == "size" else value
        if option not in reading:
            raise ValueError(f"{name} is for images that are read from files, got {value!r} for {whose}")
        if value != reading[option]:
            raise ValueError(f"{name} must be {reading[option]!r} as for {whose}, got {value!r}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
