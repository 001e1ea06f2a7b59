"""Which images of its kernels a compiled file holds, read from the headers of its fat binaries.

CUDA's own reader is cuobjdump, which not every machine with a compiler has. The layout is that of nvcc 13.0;
the headers are never compressed.
"""

from __future__ import annotations

import struct
from pathlib import Path

_MAGIC = struct.pack("<I", 0xBA55ED50)
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes behind it
_ENTRY = struct.Struct("<HHIQ12xI8xQ")  # kind, version, bytes of this header, bytes behind it, ..., flags
_KINDS = {1: "virtual", 2: "real"}
_SUFFIXES = {0: "", 0x100000: "a", 0x200000: "f"}


def images(path: Path) -> list[set[str]]:
    """Of each fat binary in the file, one a source, its images as CMake spells them: {"75-virtual", ...}."""
    data, found, start = path.read_bytes(), [], -1
    while (start := data.find(_MAGIC, start + 1)) >= 0:
        _, version, header, size = _CONTAINER.unpack_from(data, start)
        if (version, header) != (1, _CONTAINER.size):
            continue
        at, end, names = start + header, start + header + size, set()
        while at < end:
            kind, _, entry_header, entry_size, arch, flags = _ENTRY.unpack_from(data, at)
            names.add(f"{arch}{_SUFFIXES[flags & 0x300000]}-{_KINDS[kind]}")
            at += entry_header + entry_size
        found.append(names)
    return found


def listed(architectures: str) -> set[str]:
    """CMake's list with both forms of what names neither."""
    return {
        f"{name.partition('-')[0]}-{kind}"
        for name in architectures.replace(";", " ").split()
        for kind in ("real", "virtual")
        if name.partition("-")[2] in ("", kind)
    }
