"""Files of other tools: which format one has, read from its content, and the way in from each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...common.text import reason
from ..checkpoint_file import CheckpointError
from ..model import Model
from . import description
from .draft import NotInstalledError
from .options import Options

_CHECKPOINT = "pyconvnet"  # what the metadata of our own files hold
_ZIP = b"PK\x03\x04"
_OLD_PTH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # PyTorch before 1.6: its pickled magic number
_IR_VERSIONS = range(1, 100)
_ONNX_TAGS = {
    5 << 3,
    *(number << 3 | 2 for number in (2, 3, 4, 6, 7, 8, 14, 20, 25, 26)),
}  # after the version
_SAFETENSORS = 100_000_000  # the format's own limit of its header


def kind_of(path: Path) -> str | None:
    """Return the format of a file by its content: "safetensors", "pth", "onnx", "caffemodel", or None where
    it is none of them.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        if head.startswith((_ZIP, _OLD_PTH)):
            return "pth"
        if len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _SAFETENSORS:
            return "safetensors"
        return _message_kind(file, os.path.getsize(path))


def read(path: Path, options: Options) -> Model:
    """Read a model from a file of another tool's.

    Raises
    ------
    CheckpointError
        (a ValueError) The file is damaged, or holds a layer that this library does not have, which is named.
    ImportError
        The package that reads the format is not installed; it is named.
    """
    kind = kind_of(path)
    if kind is None:
        raise CheckpointError(
            f"load: {path} is damaged or no safetensors file, and no .pth, .onnx or .caffemodel either"
        )
    if kind == "safetensors":
        from .pytorch import read_state

        with _telling(path, "is damaged or no safetensors file"):
            state, metadata = _safetensors(path)
        with _telling(path, "is a safetensors file, but no checkpoint of pyconvnet"):
            return read_state(state, metadata, _own(metadata, options))
    if kind == "pth":
        from .pytorch import read_pickle, read_state

        with _telling(path, "is damaged, or not what PyTorch writes"):
            state, metadata = read_pickle(path)
        with _telling(path, "cannot be read as a state dict of PyTorch's"):
            return read_state(state, metadata, _own(metadata, options))
    if kind == "onnx":
        from . import onnx_read

        with _telling(path, "cannot be read as ONNX"):
            return onnx_read.read(path, options)
    from . import caffe

    with _telling(path, "cannot be read as Caffe's"):
        return caffe.read(path, options)


def is_checkpoint(path: Path) -> bool:
    """Tell whether a file is for :func:`pyconvnet.trained.checkpoint.read` to read, or to refuse."""
    from safetensors import safe_open

    try:
        if kind_of(path) != "safetensors":
            return False
        with safe_open(path, framework="numpy") as file:
            return _CHECKPOINT in (file.metadata() or {})
    except Exception:  # whatever is wrong, reading it tells what
        return True


def _safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read (arrays, metadata)."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _own(metadata: dict[str, str], options: Options) -> Options:
    """Return the options; raise ValueError where the file tells itself what they say."""
    if description.KEY in metadata and options.given:
        raise ValueError(f"the file says itself what {', '.join(options.given)} would")
    return options


@contextlib.contextmanager
def _telling(path: Path, how: str) -> Iterator[None]:
    """Make any error over a file's contents inside a CheckpointError that names the file and is short; one
    over a package that is missing stays.
    """
    try:
        yield
    except (CheckpointError, NotInstalledError):
        raise
    except Exception as error:
        raise CheckpointError(f"load: {path} {how}: {reason(error)}") from error


def _message_kind(file: BinaryIO, size: int) -> str | None:
    """Return which of the two protobuf messages a file holds by the fields on its top level.

    ``onnx.ModelProto`` begins with field 1, ir_version, a small number; ``caffe.NetParameter`` has a name
    there, and layers as fields 2 (the older form) or 100.
    """
    file.seek(0)
    while True:
        tag = _varint(file)
        if tag is None or tag >> 3 == 0:
            return None
        number, wire = tag >> 3, tag & 7
        if number == 1 and wire == 0:
            version, tag = _varint(file), _varint(file)
            return "onnx" if version in _IR_VERSIONS and tag in _ONNX_TAGS else None
        if number in (2, 100) and wire == 2:
            return "caffemodel"
        if wire not in (0, 2) or number not in (1, 3, 4, 5, 6, 8):
            return None
        length = _varint(file)
        if length is None:
            return None
        if wire == 2:
            file.seek(length, os.SEEK_CUR)
            if file.tell() > size:
                return None


def _varint(file: BinaryIO) -> int | None:
    """Read a number of at most ten bytes; None: there is none."""
    value = 0
    for position in range(10):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value if value < 2**63 else None
    return None
