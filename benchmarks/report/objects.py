"""The portable kernels in the object files of a build, without compiling them.

The committed report is of every file compiled by itself; a build compiles several in one unit, whose code is
the same but for registers of some FFMA tiles (up to 9 more, on 8.0) and the odd instruction outside loops.
"""

from __future__ import annotations

import concurrent.futures
import re
from pathlib import Path

from report import compiler, loops, sass

_USAGE = re.compile(r"Function (\S+):\n\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)")
#: Bytes of shared memory that 9.0 keeps of a block that has any: cuobjdump counts them, ptxas does not.
_RESERVED = 1024
#: By how much a unit's kernels may differ: registers, and the part of the instructions outside loops.
REGISTERS, REST = 12, 0.01


def usage(text: str) -> dict[str, tuple[int, int, int]]:
    """Kernel symbol -> registers, bytes of stack, of static shared memory; of ``cuobjdump -res-usage``."""
    return {
        symbol: (int(reg), int(stack), int(shared)) for symbol, reg, stack, shared in _USAGE.findall(text)
    }


def family_of(path: Path) -> str:
    """The family of an object file: of a unit, which is named after it, or of a file in its folder."""
    if "kernels" in path.parts:
        return path.parts[path.parts.index("kernels") + 1]
    name = path.name.split(".")[0]
    return name if (compiler.KERNELS / name).is_dir() else "conv"


def _read(job: tuple[str, Path, str]) -> list[dict]:
    cuobjdump, path, arch = job
    text = sass.dump(cuobjdump, "-sass", path, "-arch", f"sm_{arch}")
    counts, used = sass.count(text), usage(sass.dump(cuobjdump, "-res-usage", path, "-arch", f"sm_{arch}"))
    family, newest = family_of(path), arch == "90"
    main = loops.main_loops(text) if newest and family == "conv" else {}
    threads = sass.block_sizes(cuobjdump, path, arch) if newest else {}
    rows = []
    for symbol, found in counts.items():
        registers, stack, shared = used[symbol]
        row = {"family": family, "stem": path.name.split(".")[0], "arch": arch, "symbol": symbol}
        row |= {"registers": registers, "shared": max(0, shared - _RESERVED * newest), "sass": found}
        row |= {"spill": stack if found["LDL/STL"] else 0}
        rows.append(row | {"threads": threads.get(symbol), "loop": main.get(symbol)})
    return rows


def read(cuobjdump: str, folder: Path, archs: list[str], jobs: int) -> list[dict]:
    """Rows as the compiler's, of every kernel and architecture; RuntimeError where there is none."""
    work = [
        (cuobjdump, path, arch)
        for path in sorted((folder / "CMakeFiles" / "cuda_kernels.dir").rglob("*.o"))
        for arch in archs
    ]
    if not work:
        raise RuntimeError(f"{folder} holds no compiled kernels")
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        return [row for rows in pool.map(_read, work) for row in rows]


def as_in(committed: list[dict], rows: list[dict]) -> list[dict]:
    """Take from the committed rows what objects do not say: a kernel's file, of which a unit holds many, how
    many bytes it spills, where as many instructions do, and what may differ in a unit, where it is little.
    """
    known = {(row["family"], row["kernel"]): row for row in committed}
    found = []
    for row in rows:
        theirs = known.get((row["family"], row["kernel"]))
        if theirs is None:
            found.append(row)
            continue
        arch = {name: _adopt(theirs["arch"].get(name), made) for name, made in row["arch"].items()}
        found.append(row | {"stem": theirs["stem"], "arch": arch})
    return found


def _adopt(old: dict | None, new: dict) -> dict:
    if old is None:
        return new
    same_spill = bool(old["spill"]) == bool(new["spill"]) and old["sass"].get("LDL/STL") == new["sass"].get(
        "LDL/STL"
    )
    taken = {"spill": old["spill"]} if same_spill else {}
    if same_spill and abs(new["registers"] - old["registers"]) <= REGISTERS:
        taken["registers"] = old["registers"]
    if "loop" in old and "loop" in new:
        before, after = (made["loop"]["rest"]["issue"] for made in (old, new))
        if abs(after - before) <= REST * before:
            taken["loop"] = new["loop"] | {"rest": old["loop"]["rest"]}
    return new | taken
