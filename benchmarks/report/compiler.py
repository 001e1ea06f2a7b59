"""What nvcc and ptxas say about every kernel, and the compiled code itself."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from report.tiles import TILES

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"

ENTRY = re.compile(r"Compiling entry function '([^']+)' for '(sm_\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
#: Warnings, and what ptxas tells of wgmma as information: that it serialises products, or adds waits.
WARNING = re.compile(r"warning|error|potential performance loss|\(C75\d\d\)", re.IGNORECASE)
RELEASE = re.compile(r"\bV(\d+\.\d+\.\d+)")


def find_nvcc() -> str | None:
    """nvcc on PATH, in CUDA_HOME or its usual place, or from NVIDIA's wheels in this environment."""
    candidates = [shutil.which("nvcc")]
    if os.environ.get("CUDA_HOME"):
        candidates.append(str(Path(os.environ["CUDA_HOME"]) / "bin" / "nvcc"))
    candidates.append("/usr/local/cuda/bin/nvcc")
    candidates += [
        str(path) for folder in sys.path for path in Path(folder or ".").glob("nvidia/cu13/bin/nvcc")
    ]
    return next((c for c in candidates if c and Path(c).is_file()), None)


@functools.cache
def version(nvcc: str) -> str:
    """Like ``13.0.88``; "?" where it does not say."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = RELEASE.search(text)
    return found[1] if found else "?"


def sources(families: list[str] | None, folder: Path) -> list[Path]:
    """The kernel files, of all families or of some; those of the tiles are written below `folder`."""
    every = [*sorted(KERNELS.rglob("*.cu")), *(tile.write(folder) for tile in TILES)]
    return [path for path in every if not families or family_of(path) in families]


def family_of(path: Path) -> str:
    """The family of a kernel file."""
    if path.is_relative_to(KERNELS):
        return path.relative_to(KERNELS).parts[0]
    return next(folder.name for folder in path.parents if folder.name != "hopper")


def default_architectures() -> list[str]:
    """The architectures that a build without a GPU covers, from cmake/Architectures.cmake."""
    text = (ROOT / "cmake" / "Architectures.cmake").read_text()
    return sorted(set(re.findall(r"\b(\d{2,3})-(?:real|virtual)\b", text)), key=int)


def with_headers(path: Path) -> list[Path]:
    """A file and every header of the library that it includes, directly or not."""
    found, todo = [], [path]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found.append(file)
        names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', file.read_text(), re.MULTILINE)
        todo += [KERNELS / name for name in names if (KERNELS / name).is_file()]
    return sorted(found)


def passes(archs: list[str]) -> list[tuple[str, list[str]]]:
    """The architecture whose PTX is made, and those whose machine code comes from it, as in a build.

    Code for sm_90 comes from compute_80, see cmake/Architectures.cmake: a pass of the compiler less.
    """
    both = [arch for arch in archs if arch in ("80", "90")]
    others = [(arch, [arch]) for arch in archs if arch not in both]
    return [*others, (both[0], both)] if both else others


def compile_file(nvcc: str, path: Path, virtual: str, archs: list[str], binary: Path) -> tuple[str, int]:
    """Compile one file for architectures of one PTX; returns what nvcc printed and its status."""
    command = [nvcc, "-std=c++17", f"-I{KERNELS}", "-Xptxas", "-v", "-fatbin", str(path), "-o", str(binary)]
    for arch in archs:
        command += ["-gencode", f"arch=compute_{virtual},code=sm_{arch}"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode


def parse(path: Path, text: str) -> tuple[list[dict], list[str]]:
    """The kernels of a compilation, and the lines that should not be there."""
    rows, complaints, row = [], [], None
    for line in text.splitlines():
        if match := ENTRY.search(line):
            row = {
                "stem": path.stem,
                "family": family_of(path),
                "arch": match[2].removeprefix("sm_"),
                "symbol": match[1],
            }
            rows.append(row)
        elif row is not None and (match := SPILL.search(line)):
            row["spill"] = int(match[2]) + int(match[3])
        elif row is not None and (match := USED.search(line)):
            row["registers"] = int(match[1])
            row["shared"] = int(found[1]) if (found := SHARED.search(line)) else 0
        elif WARNING.search(line) and "0 errors" not in line:
            complaints.append(line.strip())
    return rows, complaints


def demangle(names: list[str]) -> dict[str, str]:
    """Readable names, where c++filt is there."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return {name: name for name in names}
    lines = subprocess.run(
        [tool], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return dict(zip(names, lines, strict=True))


def short(name: str) -> str:
    """A demangled kernel's name and template arguments without namespaces and parameters."""
    name = re.sub(r"^void ", "", name.replace("(anonymous namespace)", "anon"))
    name = re.sub(r"(\w+::)+", "", name)
    depth = 0
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            name = name[:position]
            break
    return re.sub(r"\((?:int|bool|unsigned int)\)", "", name)
