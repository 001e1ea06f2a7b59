"""Models and training states on disk: one safetensors file each, with JSON in its metadata. Never pickle.

Layout: tensors ``parameter/conv1.weight``; ``preprocessing/mean`` where there is one; a training state adds
``momentum/conv1.weight`` and ``state/...``. The metadata holds one JSON text under ``pyconvnet``: format
number, network, preprocessing, classes, info, and for a training state everything else needed to go on; and a
checksum over it all. Parameters are whole and unsplit, so a state written on one set of devices resumes on
another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..network.network import Network
from ..network.preprocessing import Preprocessing
from .checkpoint_file import CheckpointError, check_floats, damage, read_file
from .model import Model, read_only, write

__all__ = ["CheckpointError", "check_floats", "damage", "find", "load", "read", "save", "write"]


def save(model: Model, path: str | Path) -> Path:
    """Write a model to ``path`` (``.safetensors``), atomically.

    Raises
    ------
    TypeError
        ``model`` is neither a Model nor a Run.
    """
    model = getattr(model, "model", model)
    if not isinstance(model, Model):
        raise TypeError(f"save: model must be a Model or a Run, got {type(model).__name__}")
    return model.save(path)


def load(
    path: str | Path,
    *,
    mean: Any = None,
    scale: float | Sequence[float] | None = None,
    bgr: bool | None = None,
    image_size: int | tuple[int, int] | None = None,
    input_size: int | tuple[int, int] | None = None,
    classes: Sequence[str] | str | Path | None = None,
) -> Model:
    """Read a model from a file written by :func:`save` or by training; or from a run's folder (its best, else
    its last); or from another tool's file, which is known by its content: a PyTorch state dict of
    torchvision's ``alexnet`` (safetensors, or .pth where PyTorch is installed), a .caffemodel, ONNX.

    Parameters
    ----------
    path : path
    mean : number, one a channel, (H, W, C) array, or path, optional
        What is subtracted from pixels of 0 to 255, channels in the order of ``bgr``; a path: Caffe's
        ``mean.binaryproto``, or .npy. This and what follows are of another tool's files alone, for what those
        do not say: by default torchvision's mean and standard deviations for its ``alexnet``, what its own
        layers say in a .caffemodel, and otherwise pixels as they are.
    scale : number or one a channel, optional
        What the difference is multiplied by: 1 / (255 std), say.
    bgr : bool, optional
        Whether the network takes blue, green, red; default for Caffe's files alone. It takes red, green, blue
        afterwards.
    image_size : int or (height, width), optional
        Of images before the central crop.
    input_size : int or (height, width), optional
        Of the crop, where the file does not say it.
    classes : list of str or path, optional
        Names of the outputs; a path: one a line.

    Raises
    ------
    FileNotFoundError
        No such file.
    CheckpointError
        (a ValueError) The file is damaged, no checkpoint, or holds a layer that this library does not have;
        its place is told.
    ImportError
        A package that reads the format is not installed; it is named.
    """
    from .convert import files
    from .convert.options import Options

    options = Options(mean, scale, bgr, image_size, input_size, classes)
    path = find(path)
    if not files.is_checkpoint(path):
        return files.read(path, options)
    if options.given:
        raise ValueError(f"load: {path} says itself what {', '.join(options.given)} would")
    return read(path)[0]


def find(path: str | Path) -> Path:
    """Find the checkpoint a path means: the file itself, or ``best.safetensors`` or ``last.safetensors`` in a
    folder.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"load: path must be a path, got {type(path).__name__}")
    path = Path(path)
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"load: folder {path} holds neither best.safetensors nor last.safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"load: no such file: {path}")
    return path


def read(path: str | Path) -> tuple[Model, dict[str, Any] | None, dict[str, np.ndarray]]:
    """Read (model, training state or None, arrays that are not the model's) from one file."""
    path = Path(path)
    header, tensors = read_file(path)
    with damage(path):
        state, classes, info = header["state"], header["classes"], header["info"]
        for name, value, kind in (("state", state, (dict, type(None))), ("info", info, dict)):
            if not isinstance(value, kind):
                raise TypeError(f"{name} must be an object, got {value!r}")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise TypeError(f"classes must be a list of texts, got {classes!r}")
        network = Network.from_dict(header["network"])
        parameters = {
            n.partition("/")[2]: tensors.pop(n) for n in list(tensors) if n.startswith("parameter/")
        }
        check_floats("parameter", parameters)
        preprocessing = Preprocessing.from_dict(
            header["preprocessing"], tensors.pop("preprocessing/mean", None)
        )
        # Files of before this was recorded: names that are the outputs' own numbers were made up.
        given = header.get("class_names_given", classes != [str(i) for i in range(len(classes))])
        if not isinstance(given, bool):
            raise TypeError(f"class_names_given must be true or false, got {given!r}")
        model = Model(network, read_only(parameters), preprocessing, classes, info, given)
    return model, state, tensors
