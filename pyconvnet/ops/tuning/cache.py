"""Measured choices on disk: a JSON file with one entry a line.

    {"schema": 1,
     "entries": [
      {"card": "NVIDIA H200", "capability": "9.0", "driver": "580.65", "op": "conv2d_wgrad",
       "shape": "n=128 h=27 ...", "precision": "tf32", "kernel": "conv2d_wgrad_mma64x64/16", "us": 81.2,
       "heuristic": "conv2d_wgrad_mma128x128", "heuristic_us": 97.5, "tried": {...}, "failed": {...},
       "rows": "1f0a77c3", "version": "0.1.0", "date": "2026-11-23"},
      ...
    ]}

Several processes may write: each reads the file again under a lock, adds its own entries, and replaces the
file as a whole. What cannot be read is set aside and named, never overwritten.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...common.devices import Device
from ...common.files import locked, naming, write_atomically

SCHEMA = 1
_ABOUT = "Kernels chosen by measuring; see docs/tuning.md of pyconvnet."


@dataclass(frozen=True)
class Card:
    """A device as far as times depend on it."""

    name: str
    capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability}, driver {self.driver})"


@dataclass(frozen=True)
class Entry:
    """One measured choice. ``tried`` has the median microseconds of every kernel timed."""

    card: str
    capability: str
    driver: str
    op: str
    shape: str
    precision: str
    kernel: str
    us: float
    heuristic: str
    heuristic_us: float | None
    rows: str
    version: str
    date: str
    tried: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        return self.card, self.capability, self.driver, self.op, self.shape, self.precision

    def fits(self, card: Card, any_driver: bool = False) -> bool:
        same = (self.card, self.capability) == (card.name, card.capability)
        return same and (any_driver or self.driver == card.driver)


def card_of(device: Device) -> Card:
    """Name what is measured on: the card, its capability and driver."""
    if device.kind != "cuda":
        capability = int(os.environ.get("PYCONVNET_EMULATOR_CAPABILITY", "90"))
        return Card(device.kind, f"{capability // 10}.{capability % 10}", "none")
    return _cuda_card(device)


@functools.lru_cache(maxsize=64)
def _cuda_card(device: Device) -> Card:
    cuda = device.xp.cuda
    name = cuda.runtime.getDeviceProperties(device.index)["name"]
    capability = str(cuda.Device(device.index).compute_capability)
    name = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return Card(name, f"{capability[:-1]}.{capability[-1]}", _driver(cuda.runtime))


def _driver(runtime: Any) -> str:
    """Read the driver's own version, or else the CUDA version it brings."""
    with contextlib.suppress(OSError):
        found = re.search(r"Kernel Module\s.*?(\d+\.[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
        if found:
            return found[1]
    version = int(runtime.driverGetVersion())
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def default_path() -> Path:
    """Return ``PYCONVNET_TUNE_CACHE``, or tuning.json where the platform keeps caches."""
    named = os.environ.get("PYCONVNET_TUNE_CACHE")
    if named:
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "darwin":
        folder = home / "Library" / "Caches"
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return folder / "pyconvnet" / "tuning.json"


class CacheError(ValueError):
    """A file that is no cache; the message says what is wrong."""


class SchemaError(CacheError):
    """A cache of another version of pyconvnet."""


def parse(text: str, source: str) -> list[Entry]:
    """Parse a file's text into its entries.

    Raises
    ------
    CacheError
        Not JSON, not this schema (SchemaError), or an entry that lacks something.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise CacheError(f"{source} is no JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("entries"), list):
        raise CacheError(f"{source} holds no list of entries")
    if document.get("schema") != SCHEMA:
        raise SchemaError(
            f"{source} has schema {document.get('schema')!r}, this version of pyconvnet reads {SCHEMA}"
        )
    return [_entry(item, f"{source}, entry {number}") for number, item in enumerate(document["entries"])]


def _entry(item: Any, source: str) -> Entry:
    if not isinstance(item, dict):
        raise CacheError(f"{source} is no object")
    kinds = {"us": (int, float), "heuristic_us": (int, float, type(None)), "tried": dict, "failed": dict}
    for one in fields(Entry):
        value = item.get(one.name, {} if kinds.get(one.name) is dict else ...)
        if not isinstance(value, kinds.get(one.name, str)) or isinstance(value, bool):
            got = "nothing" if value is ... else repr(value)
            raise CacheError(f"{source}: {one.name} must be {one.type}, got {got}")
    return Entry(**{one.name: item[one.name] for one in fields(Entry) if one.name in item})


def text_of(entries: Iterable[Entry]) -> str:
    """Write entries as a file's text: ordered, one entry a line."""
    lines = [json.dumps(asdict(entry)) for entry in sorted(entries, key=lambda entry: entry.key)]
    body = ",\n  ".join(lines)
    head = f'{{\n "schema": {SCHEMA},\n "about": {json.dumps(_ABOUT)},\n "entries": ['
    return f"{head}\n  {body}\n ]\n}}\n" if lines else f"{head}]\n}}\n"


@functools.cache
def shipped() -> tuple[Entry, ...]:
    """Read what comes with the package, measured on cards that the project has had in its hands."""
    found: list[Entry] = []
    folder = importlib.resources.files("pyconvnet.ops.tuning") / "shipped"
    if folder.is_dir():
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".json"):
                found += parse(file.read_text(encoding="utf-8"), str(file))
    return tuple(found)


class Cache:
    """The user's file.

    Parameters
    ----------
    path : Path, optional
        Default: :func:`default_path`.

    Attributes
    ----------
    entries : dict
        By key; read at first use.
    """

    def __init__(self, path: Path | None = None):
        self.path = default_path() if path is None else Path(path)
        self._entries: dict[tuple[str, ...], Entry] | None = None
        self._writable = True

    @property
    def entries(self) -> dict[tuple[str, ...], Entry]:
        if self._entries is None:
            self._entries = self._read()
        return self._entries

    def add(self, entry: Entry) -> None:
        """Remember an entry, in the file too."""
        self.entries[entry.key] = entry
        self._write({entry.key: entry})

    def clear(self, card: Card | None = None) -> int:
        """Forget all entries, or those of a card (any driver); the number of them."""
        with self._locked():
            before = self._read()
            kept = {k: e for k, e in before.items() if card is not None and not e.fits(card, any_driver=True)}
            if before:
                self._replace(kept)
            self._entries = kept
        return len(before) - len(kept)

    def _read(self) -> dict[tuple[str, ...], Entry]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnicodeDecodeError) as error:
            return self._set_aside(f"{self.path} cannot be read: {error}")
        try:
            return {entry.key: entry for entry in parse(text, str(self.path))}
        except SchemaError as error:  # another version's: it stays as it is
            self._writable = False
            warnings.warn(
                f"tuning: {error}; it is left alone. PYCONVNET_TUNE_CACHE names another file",
                RuntimeWarning,
                stacklevel=2,
            )
            return {}
        except CacheError as error:
            return self._set_aside(str(error))

    def _set_aside(self, why: str) -> dict[tuple[str, ...], Entry]:
        """Keep what cannot be read under another name."""
        for number in range(1, 1000):
            other = self.path.with_name(f"{self.path.name}.damaged-{number}")
            if other.exists():
                continue
            try:
                os.rename(self.path, other)
                why += f"; it is now {other}"
            except OSError as error:
                why += f"; it cannot be set aside ({error}), so nothing is written"
                self._writable = False
            break
        warnings.warn(f"tuning: {why}", RuntimeWarning, stacklevel=2)
        return {}

    def _write(self, new: dict[tuple[str, ...], Entry]) -> None:
        if not self._writable:
            return
        try:
            with self._locked():
                there = self._read() | new  # entries of ours that others have measured again are theirs now
                self._replace(there)
                self._entries = self.entries | there
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"tuning: {self.path} cannot be written ({error}): what is measured is forgotten with this "
                "process. PYCONVNET_TUNE_CACHE names another file",
                RuntimeWarning,
                stacklevel=2,
            )

    def _replace(self, entries: dict[tuple[str, ...], Entry]) -> None:
        if self._writable:
            write_atomically(self.path, text_of(entries.values()).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time read and write. On systems without ``flock`` the last one wins."""
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_name(f"{self.path.name}.lock")):
            yield
