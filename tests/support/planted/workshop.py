"""Emulator modules with a bug planted in a kernel: what all share is compiled once, for each bug its files.

Compiling is most of the time. Where the build folder of ``pip install .`` holds objects of these sources, the
modules are linked of those, after the planted ones: the linker takes the first of what it finds twice. Else
little is compiled, and that quickly: of the convolutions' tiles, which are the most kernels, only those that
bugs are planted in (the tables have no others); of each family the files that bugs are planted in alone, the
rest as one unit, and so the bindings. The common headers are precompiled.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import ROOT
from support.emulator import probes
from support.kernels.tiles import TILES
from support.planted.mutations import FAMILIES, Mutation

KERNELS = ROOT / "kernels"
#: What every kernel includes. No bug is planted in it (test_planted_bugs.py).
COMMON = "common/device.h"


def _run(*command, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


class Workshop:
    """Makes modules with planted bugs in a folder that :func:`prepare` has filled."""

    def __init__(self, folder: Path):
        self.folder = folder
        made = json.loads((folder / "made.json").read_text())
        self.kernel, self.link, self.objects = made["kernel"], made["link"], made["objects"]

    def source(self, file: str) -> Path:
        """A kernel file, or the file that CMake writes of a tile."""
        return KERNELS / file if "/" in file else self.folder / "build" / "units" / file

    def compile(self, source: Path, made: Path, *first: str) -> str:
        """Compile a kernel file, or a file that includes several; returns the object's path."""
        common = self.folder / "common.h"
        _run(*self.kernel, "-xc++", *first, *self.includes, "-include", common, "-c", source, "-o", made)
        return str(made)

    @property
    def includes(self) -> tuple[str, str]:
        """The folder with the shorter list of tiles before the kernels."""
        return f"-I{self.folder}", f"-I{KERNELS}"

    def module(self, name: str, planted: dict[str, str] | None = None) -> Path:
        """Link a module, with other objects in place of those of some files."""
        planted = planted or {}
        # First, that the linker take of what many files define the planted one's.
        objects = [*planted.values(), *(made for file, made in self.objects.items() if file not in planted)]
        at = self.link.index("-o")
        module = self.folder / name / self.link[at + 1]
        module.parent.mkdir(exist_ok=True)
        _run(*self.link[:at], "-Wl,-z,muldefs", "-o", module, *objects, *self.link[at + 2 :])
        return module

    def mutant(self, number: int, mutation: Mutation) -> Path:
        """The module with the bug in it."""
        folder = self.folder / f"mutant{number}"
        target = folder / mutation.file
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (KERNELS / mutation.file).read_text()
        target.write_text(text.replace(mutation.old, mutation.new))
        planted = {}
        for file in mutation.concerned:
            source = target if file == mutation.file else self.source(file)
            planted[file] = self.compile(source, folder / f"{Path(file).name}.o", f"-I{folder}")
        return self.module(folder.name, planted)


def prepare(folder: Path, mutations: list[Mutation]) -> None:
    """Compile in a folder what the modules of those bugs have in common."""
    build = folder / "build"
    ninja = probes.tool("ninja")
    _run(
        probes.tool("cmake"), "-S", ROOT, "-B", build, "-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DPython_EXECUTABLE={sys.executable}", f"-DPYCONVNET_FAMILIES={';'.join(FAMILIES)}",
        "-DPYCONVNET_CUDA=OFF", "-DPYCONVNET_UNITS=OFF", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        # Little optimisation: most of the time goes into the compiler.
        "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=", "-DPYCONVNET_EMULATOR_OPTIMISE=-O1",
    )  # fmt: skip
    alone = {file for mutation in mutations for file in mutation.concerned}
    if not (installed := _installed()):
        _shorten_list_of_tiles(folder, alone)
    link = _link(build)
    made = {"kernel": [], "link": [part for part in link if not part.endswith(".o")], "objects": {}}
    host = _host_jobs(folder, made)
    if installed:
        made["objects"] = installed
    (folder / "made.json").write_text(json.dumps(made))
    workshop = Workshop(folder)
    header = folder / "common.h"
    _run(*made["kernel"], "-xc++-header", *workshop.includes, header, "-o", f"{header}.gch")
    if installed:
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(_run, *command, cwd=place) for command, place in host]
        for file, source in _sources(workshop, alone).items():
            made["objects"][file] = str(folder / f"{file.replace('/', '_')}.o")
            jobs.append(pool.submit(workshop.compile, source, made["objects"][file]))
        for job in jobs:
            job.result()
    (folder / "made.json").write_text(json.dumps(made))


def _link(build: Path) -> list[str]:
    """The command that links a build folder's emulator."""
    line = _run(probes.tool("ninja"), "-C", build, "-t", "commands", "_emulator").splitlines()[-1]
    return shlex.split(line[line.index("&&") + 2 : line.rindex("&&")])


def _installed() -> dict[str, str]:
    """The objects of the emulator in pip's build folder, if they are of these sources."""
    for module in ROOT.glob("build/cmake-*/_emulator*.so"):
        sources = [ROOT / "CMakeLists.txt", *(ROOT / "cmake").iterdir()]
        sources += [path for folder in ("kernels", "bindings") for path in (ROOT / folder).rglob("*.*")]
        if module.stat().st_mtime > max(path.stat().st_mtime for path in sources):
            objects = [str(module.parent / part) for part in _link(module.parent) if part.endswith(".o")]
            return dict(zip(objects, objects, strict=True))
    return {}


def _sources(workshop: Workshop, alone: set[str]) -> dict[str, Path]:
    """What is compiled of the kernels, by the file or family it holds."""
    sources = {file: workshop.source(file) for file in sorted(alone)}
    folder = workshop.folder
    for family in FAMILIES:
        names = [f"{family}/{path.name}" for path in sorted((KERNELS / family).glob("*.cu"))]
        rest = [name for name in names if name not in alone]
        if family == "conv":  # files that hide what others of them hide under the same name
            sources |= {name: workshop.source(name) for name in rest}
        elif rest:
            sources[family] = _unit(folder / f"{family}.cu", [workshop.source(name) for name in rest])
    return sources


def _unit(unit: Path, files: Iterable[Path]) -> Path:
    unit.write_text("".join(f'#include "{file}"\n' for file in files))
    return unit


def _shorten_list_of_tiles(folder: Path, alone: set[str]) -> None:
    """Write a list of the tiles alone that are compiled, which includes find before the whole one."""
    (folder / "conv").mkdir()
    gone = [f"({tile.stem}," for tile in TILES if f"{tile.stem}.cu" not in alone]
    lines = (KERNELS / "conv" / "tiles.inc").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(stem in line for stem in gone)]
    (folder / "conv" / "tiles.inc").write_text("".join(kept))


def _host_jobs(folder: Path, made: dict) -> list[tuple[list[str], str]]:
    """Commands for all that is no kernel, and their folders; notes in `made` what they make."""
    (folder / "common.h").write_text(f'#include "{COMMON}"\n')
    jobs, bindings = [], []
    for entry in json.loads((folder / "build" / "compile_commands.json").read_text()):
        command, source = shlex.split(entry["command"]), Path(entry["file"])
        into = command.index("-o")
        command[1:1] = [f"-I{folder}"]
        if source.suffix == ".cu":
            language = ("-x", "c++", "-xc++", f"-I{folder}", f"-I{KERNELS}")
            made["kernel"] = [part for part in command[: into + 1] if part not in language]
            continue
        if source.parent.name == "bindings" and not source.name.startswith("platform"):
            bindings.append(source)
            if len(bindings) > 1:
                continue
            command[command.index(str(source))] = str(folder / "bindings.cpp")
        object_ = made["objects"][str(source)] = str(folder / f"{source.name}.o")
        command[into + 2] = object_
        jobs.append((command, entry["directory"]))
    _unit(folder / "bindings.cpp", bindings)
    return jobs
