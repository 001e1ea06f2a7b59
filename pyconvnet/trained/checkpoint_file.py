"""A safetensors file with one JSON text and a checksum over everything in it. Never pickle."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import write_atomically
from ..common.text import cut, reason

_FORMAT = 1
_KEY = "pyconvnet"
_CHECKSUM = "pyconvnet_crc32"
_TYPES = {"<f8": ("F64", 8), "<f4": ("F32", 4), "<f2": ("F16", 2)}  # of parameters, momenta, sums


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or comes from a newer version."""


@contextlib.contextmanager
def damage(path: Path, how: str = "is damaged") -> Iterator[None]:
    """Make any error over a file's contents inside a CheckpointError that names the file and is short."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"load: {path} {how}: {reason(error)}") from error


def write_file(path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    """Write a JSON-ready header and named tensors to ``path``, atomically.

    Other threads run meanwhile, and no copy of the tensors is made.
    """
    text = json.dumps({"format": _FORMAT, **header})
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return write_atomically(path, _serialise(arrays, {_KEY: text, _CHECKSUM: str(_crc(text, arrays))}))


def _serialise(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Iterable[Any]:
    """List the pieces of a safetensors file: length of its header, header, the arrays' own memory.

    The bytes are those of ``safetensors.numpy.save``, which copies all arrays three times and lets no other
    thread run until it has. The format: eight bytes of little-endian length, JSON padded with blanks to a
    multiple of eight bytes, the data without gaps; widest dtype first, then by name.
    """
    order = sorted(tensors, key=lambda name: (-_TYPES[tensors[name].dtype.str][1], name))
    described: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in order:
        value = tensors[name]
        begin, end = end, end + value.nbytes
        kind = _TYPES[value.dtype.str][0]
        described[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [begin, end]}
    head = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    yield len(head).to_bytes(8, "little")
    yield head
    for name in order:
        yield tensors[name].reshape(-1).view(np.uint8).data


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read (header, tensors) of a file, whole and undamaged.

    Raises
    ------
    FileNotFoundError
        No such file.
    CheckpointError
        The file is damaged, no checkpoint, or of a format that this version does not know.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise FileNotFoundError(f"load: no such file: {path}") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"load: {path} is damaged or no safetensors file: {reason(error)}") from None
    header = _header(path, metadata)
    if metadata.get(_CHECKSUM) != str(_crc(metadata[_KEY], tensors)):
        raise CheckpointError(f"load: {path} is damaged: its checksum does not match")
    return header, tensors


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a file alone, unchecked; raises as :func:`read_file`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise FileNotFoundError(f"load: no such file: {path}") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"load: {path} is damaged or no safetensors file: {reason(error)}") from None
    return _header(path, metadata)


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise CheckpointError(f"load: {path} is a safetensors file, but no checkpoint of pyconvnet")
    with damage(path, "has damaged metadata"):
        header = json.loads(metadata[_KEY])
        version = header["format"]
    if version != _FORMAT:
        raise CheckpointError(
            f"load: {path} has format {cut(repr(version))}, this version of pyconvnet reads format {_FORMAT}"
        )
    return header


def check_floats(what: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise TypeError unless all arrays hold real floating-point numbers."""
    for name, value in arrays.items():
        if value.dtype.kind != "f":
            raise TypeError(f"{what} {name} must be of floating-point numbers, got {value.dtype}")


def _crc(text: str, tensors: Mapping[str, np.ndarray]) -> int:
    """Return the checksum over the JSON text and the arrays in order of name: safetensors itself notices no
    flipped bit.
    """
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        crc = zlib.crc32(f"{name}{value.dtype.str}{value.shape}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(np.uint8), crc)
    return crc
