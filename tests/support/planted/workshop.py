"""Emulator modules with a bug planted in a kernel: what all have in common is compiled once, for each the files it
concerns.

Compiling is most of the time, so little is compiled, and that quickly: of the conv family, which has the most files,
only those that bugs are planted in (the other rows are struck from its tables); of the other families those alone,
the rest of a family as one unit; the common headers once, precompiled.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import ROOT
from support.emulator import probes
from support.planted.mutations import FAMILIES, Mutation

KERNELS = ROOT / "kernels"
#: What every kernel includes. No bug is planted in it (test_planted_bugs.py).
COMMON = "common/device.h"


def _run(*command, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def _include(unit: Path, files: Iterable[Path]) -> Path:
    unit.write_text("".join(f'#include "{file}"\n' for file in files))
    return unit


class Workshop:
    """Makes modules with planted bugs in a folder that :func:`prepare` has filled."""

    def __init__(self, folder: Path):
        self.folder = folder
        made = json.loads((folder / "made.json").read_text())
        self.kernel, self.link, self.objects = made["kernel"], made["link"], made["objects"]

    def compile(self, source: Path, made: Path, *first: str) -> str:
        """Compile a kernel file, or a file that includes several; returns the object's path."""
        prefix = self.folder / "common.h"
        _run(*self.kernel, *first, f"-I{KERNELS}", "-xc++", "-include", prefix, "-c", source, "-o", made)
        return str(made)

    def module(self, name: str, planted: dict[str, str] | None = None) -> Path:
        """Link a module whose objects of those files are others."""
        planted = planted or {}
        # First, that the linker take of what many files define the planted one's.
        objects = [*planted.values(), *(made for file, made in self.objects.items() if file not in planted)]
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        module = folder / Path(self.link[self.link.index("-o") + 1]).name
        before, after = self.link[: self.link.index("-o")], self.link[self.link.index("-o") + 2 :]
        _run(*before, "-o", module, *objects, *after)
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
            source = target if file == mutation.file else KERNELS / file
            planted[file] = self.compile(source, folder / f"{Path(file).name}.o", f"-I{folder}")
        return self.module(folder.name, planted)


def prepare(folder: Path, mutations: list[Mutation]) -> None:
    """Compile in a new folder what the modules of those bugs have in common."""
    build = folder / "build"
    cmake, ninja = probes.tool("cmake"), probes.tool("ninja")
    _run(
        cmake, "-S", ROOT, "-B", build, "-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DPython_EXECUTABLE={sys.executable}", "-DPYCONVNET_CUDA=OFF", f"-DPYCONVNET_FAMILIES={';'.join(FAMILIES)}",
        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        # Little optimisation: most of the time goes into the compiler.
        "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=", "-DPYCONVNET_EMULATOR_OPTIMISE=-O1",
    )  # fmt: skip
    alone = {file for mutation in mutations for file in mutation.concerned}
    entries = json.loads((build / "compile_commands.json").read_text())
    objects, jobs, kernel = {}, [], None
    for entry in entries:
        command, source = shlex.split(entry["command"]), entry["file"]
        if source.endswith(".cu"):
            kernel = [part for part in command[: command.index("-o")] if part not in ("-x", "c++", "-xc++")]
            kernel = [part for part in kernel if part != f"-I{KERNELS}"]
            continue
        made = objects[source] = str(folder / f"{Path(source).name}.o")
        command[command.index("-o") + 1] = made
        if source.endswith("conv_dispatch.cpp"):
            command[command.index(source)] = str(_fewer_rows(Path(source), folder, {Path(f).stem for f in alone}))
        jobs.append((command, entry["directory"]))
    (folder / "common.h").write_text(f'#include "{COMMON}"\n')
    link = _run(ninja, "-C", build, "-t", "commands", "_emulator").splitlines()[-1]
    link = [part for part in shlex.split(link[link.index("&&") + 2 : link.rindex("&&")]) if not part.endswith(".o")]
    (folder / "made.json").write_text(json.dumps({"kernel": kernel, "link": link, "objects": objects}))
    workshop = Workshop(folder)
    _run(*kernel, f"-I{KERNELS}", "-xc++-header", folder / "common.h", "-o", folder / "common.h.gch")
    sources = {file: KERNELS / file for file in sorted(alone)}
    for family in FAMILIES:
        rest = [f for f in sorted((KERNELS / family).glob("*.cu")) if f"{family}/{f.name}" not in alone]
        if rest and family != "conv":
            sources[family] = _include(folder / f"{family}.cu", rest)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        host = [pool.submit(_run, *command, cwd=place) for command, place in jobs]
        made = {
            name: pool.submit(workshop.compile, source, folder / f"{name.replace('/', '_')}.o")
            for name, source in sources.items()
        }
        for job in host:
            job.result()
        objects |= {name: job.result() for name, job in made.items()}
    (folder / "made.json").write_text(json.dumps({"kernel": kernel, "link": link, "objects": objects}))


def _fewer_rows(dispatch: Path, folder: Path, stems: set[str]) -> Path:
    """The conv family's tables with the rows alone whose files are compiled."""
    fewer = folder / dispatch.name
    row = re.compile(r"PCN_ROW(?:_OF)?\((?:\w+, )?(conv2d_\w+)\),")
    fewer.write_text(row.sub(lambda found: found[0] if found[1] in stems else "", dispatch.read_text()))
    return fewer
