"""Bank conflicts and global-memory transactions of the kernels, counted by the emulator's flavour `count`.

``counted()`` counts what is launched inside a ``with`` block::

    with accesses.counted() as found:
        with ops.on("emulator"):
            ops.relu(x)
    found.launches[0].summary()["load"].ratio

Arrays must start where a GPU's would, at a multiple of 256 bytes, for sectors to mean anything:
:func:`aligned_allocations` makes NumPy do so.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
KINDS = ("load", "store", "atomic")
#: Where the source of an access is looked for; what only passes it on does not count.
_PASSED_ON = (
    *("/emulation/", "/c++/", "/common/device.h", "/common/primitives.h"),
    *("/common/element.h", "/conv/elements.h"),
)


@dataclass
class Count:
    """Requests of warps and what they cost; ``ideal`` is what they would without conflicts or gaps."""

    requests: int = 0
    cost: int = 0
    ideal: int = 0
    worst: int = 0

    def add(self, site: Site) -> None:
        """Include a place in the program."""
        self.requests += site.requests
        self.cost += site.cost
        self.ideal += site.ideal
        self.worst = max(self.worst, site.worst)

    @property
    def ratio(self) -> float:
        """Cost over ideal; 1 where there was nothing."""
        return self.cost / self.ideal if self.ideal else 1.0


@dataclass
class Site:
    """One access of the program: see SiteCounts in kernels/emulation/control.h."""

    frames: tuple[int, ...]
    shared: bool
    kind: int
    bytes: int
    requests: int
    lanes: int
    cost: int
    ideal: int
    lines: int
    ideal_lines: int
    worst: int
    where: str = "?"

    @property
    def what(self) -> str:
        """ "load" and "store" of global memory, "shared load", "shared store"; atomics are stores."""
        kind = KINDS[min(self.kind, 1)]
        return f"shared {kind}" if self.shared else kind

    @property
    def ratio(self) -> float:
        """Cost over ideal."""
        return self.cost / self.ideal


@dataclass
class Launch:
    """One kernel launch and the places where it accessed memory."""

    stem: str
    kernel: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dynamic_bytes: int
    static_bytes: int
    sites: list[Site]
    name: str = "?"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    def summary(self) -> dict[str, Count]:
        """Counts by kind of access."""
        found = {name: Count() for name in ("load", "store", "shared load", "shared store")}
        for site in self.sites:
            found[site.what].add(site)
        return found


@dataclass
class Found:
    """What :func:`counted` fills when its block ends."""

    launches: list[Launch] = field(default_factory=list)


@contextlib.contextmanager
def counted(resolve: bool = False, blocks: int = 0) -> Iterator[Found]:
    """Count the accesses of every launch on the emulator inside the block; `resolve`: with source lines.

    With `blocks`, only so many blocks of each launch run, and results are incomplete.
    """
    from pyconvnet.common import devices

    ext = devices.emulator().ext
    ext.count_accesses(True, blocks)
    found = Found()
    try:
        yield found
        for launch in ext.access_counts():
            sites = [Site(**site) for site in launch.pop("sites")]
            found.launches.append(Launch(**launch, sites=sites))
    finally:
        ext.count_accesses(False)
    if resolve:
        add_sources(Path(ext.__file__), found.launches)


@contextlib.contextmanager
def aligned_allocations() -> Iterator[None]:
    """Make new emulator arrays start at a multiple of 256 bytes, as cudaMalloc's do."""
    from pyconvnet.common import devices

    def empty(self: Any, shape: Any, dtype: Any = np.float32) -> np.ndarray:
        shape = (shape,) if np.isscalar(shape) else tuple(shape)
        return aligned_array(shape, dtype)

    original = devices.Device.empty
    devices.Device.empty = empty
    try:
        yield
    finally:
        devices.Device.empty = original


def aligned_array(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An uninitialised array that starts at a multiple of 256 bytes."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + 256, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + nbytes].view(dtype).reshape(shape)


# ---- names and lines of the source, from the debug information ----
def add_sources(module: Path, launches: list[Launch]) -> None:
    """Fill in the names of kernels and where accesses are, as far as addr2line knows."""
    offsets: dict[int, None] = {}
    for launch in launches:
        offsets[launch.kernel] = None
        for site in launch.sites:
            offsets.update((frame - 1, None) for frame in site.frames)
    known = _addr2line(module, list(offsets))
    for launch in launches:
        if frames := known.get(launch.kernel):
            launch.name = frames[0][0]
        for site in launch.sites:
            site.where = _place(known, site.frames)


def _place(known: dict[int, list[tuple[str, str]]], frames: tuple[int, ...]) -> str:
    for frame in frames:
        for _, line in known.get(frame - 1, []):
            if "/kernels/" in line and not any(part in line for part in _PASSED_ON):
                return line.split("/kernels/")[-1].split(" ")[0]
    return "?"


def _addr2line(module: Path, offsets: list[int]) -> dict[int, list[tuple[str, str]]]:
    """Offset -> [(function, file:line)], innermost first."""
    tool = shutil.which("addr2line")
    if tool is None or not offsets:
        return {}
    text = subprocess.run(
        [tool, "-a", "-f", "-i", "-C", "-e", str(module)],
        input="\n".join(hex(offset) for offset in offsets),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found: dict[int, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        if text[position].startswith("0x"):
            current = found.setdefault(int(text[position], 16), [])
            position += 1
        else:
            current.append((text[position], text[position + 1]))
            position += 2
    return found
