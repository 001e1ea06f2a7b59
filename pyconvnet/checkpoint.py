"""Models and training states on disk: one safetensors file each, with JSON in its metadata. Never pickle.

Layout: tensors ``parameter/conv1.weight``; ``preprocessing/mean`` where there is one; a training state adds
``momentum/conv1.weight`` and ``state/...``. The metadata holds one JSON text under ``pyconvnet``: format
number, network, preprocessing, classes, info, and for a training state everything else needed to go on; and a
checksum over it all. Parameters are whole and unsplit, so a state written on one set of devices resumes on
another.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_atomically
from .model import Model, Preprocessing, read_only
from .network import Network
from .text import cut, reason

_FORMAT = 1
_KEY = "pyconvnet"
_CHECKSUM = "pyconvnet_crc32"


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or comes from a newer version."""


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
    return write(path, model)


def load(path: str | Path) -> Model:
    """Read a model from a file written by :func:`save` or by training; or from a run's folder (its best, else
    its last).

    Raises
    ------
    FileNotFoundError
        No such file.
    CheckpointError
        (a ValueError) The file is damaged or no checkpoint.
    """
    return read(find(path))[0]


def find(path: str | Path) -> Path:
    """The checkpoint a path means: the file itself, or ``best.safetensors`` or ``last.safetensors`` in a
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


def write(
    path: str | Path,
    model: Model,
    state: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a model, and with ``state`` (JSON-ready) and ``arrays`` (named ``momentum/...``, ``state/...``) a
    training state.
    """
    from safetensors.numpy import save as serialise

    tensors = {f"parameter/{name}": np.ascontiguousarray(value) for name, value in model.parameters.items()}
    if model.preprocessing.mean is not None:
        tensors["preprocessing/mean"] = model.preprocessing.mean
    for name, value in (arrays or {}).items():
        tensors[name] = np.ascontiguousarray(value)
    header = {
        "format": _FORMAT,
        "network": model.network.to_dict(),
        "preprocessing": model.preprocessing.to_dict(),
        "classes": model.classes,
        "class_names_given": model.class_names_given,
        "info": model.info,
        "state": None if state is None else dict(state),
    }
    text = json.dumps(header)
    data = serialise(tensors, {_KEY: text, _CHECKSUM: str(_crc(text, tensors))})
    return write_atomically(path, data)


def read(path: str | Path) -> tuple[Model, dict[str, Any] | None, dict[str, np.ndarray]]:
    """Read (model, training state or None, arrays that are not the model's) from one file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise FileNotFoundError(f"load: no such file: {path}") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"load: {path} is damaged or no safetensors file: {reason(error)}") from None
    if _KEY not in metadata:
        raise CheckpointError(f"load: {path} is a safetensors file, but no checkpoint of pyconvnet")
    with damage(path, "has damaged metadata"):
        header = json.loads(metadata[_KEY])
        version = header["format"]
    if version != _FORMAT:
        raise CheckpointError(
            f"load: {path} has format {cut(repr(version))}, this version of pyconvnet reads format {_FORMAT}"
        )
    if metadata.get(_CHECKSUM) != str(_crc(metadata[_KEY], tensors)):
        raise CheckpointError(f"load: {path} is damaged: its checksum does not match")
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


@contextlib.contextmanager
def damage(path: Path, how: str = "is damaged") -> Iterator[None]:
    """Make any error over a file's contents inside a CheckpointError that names the file and is short."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"load: {path} {how}: {reason(error)}") from error


def check_floats(what: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise TypeError unless all arrays hold real floating-point numbers."""
    for name, value in arrays.items():
        if value.dtype.kind != "f":
            raise TypeError(f"{what} {name} must be of floating-point numbers, got {value.dtype}")


def _crc(text: str, tensors: Mapping[str, np.ndarray]) -> int:
    """Checksum over the JSON text and the arrays in order of name: safetensors itself notices no flipped
    bit.
    """
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        crc = zlib.crc32(f"{name}{value.dtype.str}{value.shape}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(np.uint8), crc)
    return crc
