"""The kernel tests bite: with a bug planted in a kernel, the family's own tests on the emulator fail.

Each mutation replaces one place in a copy of the sources, rebuilds the files it concerns (the copy is
compiled once), and runs part of the family's tests against that module. The same part passes with the
unchanged module. A few mutations run by default, the others with ``--slow``. ``PYCONVNET_TEST_BUILD=folder``
keeps the compiled copy, which then has to be removed by hand when a source changes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.emulator import probes
from support.kernels.tiles import TILES
from support.once import once
from support.planted.mutations import FAMILIES, MUTATIONS, Mutation


class Workshop:
    """A copy of the sources, compiled once, from which modules with a planted bug are made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tree, self.build = folder / "tree", folder / "build"
        if not (self.tree / "CMakeLists.txt").exists():
            self.tree.mkdir(parents=True, exist_ok=True)
            for name in ("kernels", "bindings", "cmake"):
                shutil.copytree(ROOT / name, self.tree / name)
            shutil.copy(ROOT / "CMakeLists.txt", self.tree)
        self._run(
            probes.tool("cmake"), "-S", self.tree, "-B", self.build, "-GNinja",
            f"-DCMAKE_MAKE_PROGRAM={probes.tool('ninja')}", f"-DPython_EXECUTABLE={sys.executable}",
            "-DPYCONVNET_CUDA=OFF", "-DPYCONVNET_UNITS=OFF", f"-DPYCONVNET_FAMILIES={';'.join(FAMILIES)}",
            "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
            # Little optimisation: most of the time goes into the compiler.
            "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=", "-DPYCONVNET_EMULATOR_OPTIMISE=-O1",
        )  # fmt: skip
        self._run(probes.tool("cmake"), "--build", self.build)
        self.module = next(self.build.glob("_emulator*.so"))
        entries = json.loads((self.build / "compile_commands.json").read_text())
        roots = (self.tree / "kernels", self.build / "units")  # the latter: the tiles, a file each
        self.commands = {
            str(path.relative_to(root)): entry
            for entry in entries
            for root in roots
            if (path := Path(entry["file"])).suffix == ".cu" and path.is_relative_to(root)
        }
        printed = self._run(probes.tool("ninja"), "-C", self.build, "-t", "commands", "_emulator")
        self.link = next(line for line in printed.splitlines() if " -shared " in line)

    @staticmethod
    def _run(*command, **options) -> str:
        done = subprocess.run(command, capture_output=True, text=True, **options)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def mutant(self, number: int, mutation: Mutation) -> Path:
        """The module with the bug in it."""
        folder = self.folder / f"mutant{number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.tree / "kernels", folder / "kernels")
        target = folder / "kernels" / mutation.file
        target.write_text(target.read_text().replace(mutation.old, mutation.new))
        link = shlex.split(self.link)
        for source in mutation.rebuild or (mutation.file,):
            entry = self.commands[source]
            compile_ = shlex.split(entry["command"])
            old = compile_[compile_.index("-o") + 1]
            made = str(folder / (Path(source).name + ".o"))
            replaced = [
                part.replace(str(self.tree / "kernels"), str(folder / "kernels")) for part in compile_
            ]
            replaced[replaced.index("-o") + 1] = made
            self._run(*replaced, cwd=entry["directory"])
            places = [i for i, part in enumerate(link) if part == old or part.endswith("/" + old)]
            assert len(places) == 1, f"{old} is linked {len(places)} times"
            link[places[0]] = made
        module = folder / self.module.name
        link[link.index("-o") + 1] = str(module)
        link = link[link.index("&&") + 1 :] if link[0] == ":" else link
        link = link[: link.index("&&")] if "&&" in link else link
        self._run(*link, cwd=self.build)
        return module

    def judge(self, number: int, mutation: Mutation) -> tuple[int, str]:
        """Exit status and output of the family's tests with the bug."""
        return run_tests(self.mutant(number, mutation), mutation.tests)


def run_tests(module: Path, tests: tuple[str, str]) -> tuple[int, str]:
    """Part of a test file, up to the first failure, with this compiled emulator."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line"]
    environment = dict(os.environ, PYCONVNET_EMULATOR=str(module), CUDA_VISIBLE_DEVICES="")
    for name in ("PYCONVNET_REQUIRE", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)
    done = subprocess.run(
        [*command, "-k", tests[1], str(next((ROOT / "tests").rglob(tests[0])))],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    missing = probes.missing_tools("ninja")
    if missing:
        pytest.skip(f"building mutants needs {', '.join(missing)}")
    kept = os.environ.get("PYCONVNET_TEST_BUILD")
    place = Path(kept) / "planted" if kept else None
    made = once(tmp_path_factory, "planted", lambda folder: Workshop(place or folder))
    return Workshop(place or made)


def parts() -> list:
    """What the mutations run of the tests; slow where only slow mutations do."""
    quick = {m.tests for m in MUTATIONS if not m.slow}
    every = dict.fromkeys(m.tests for m in MUTATIONS)
    return [
        pytest.param(t, id=f"{t[0]}: {t[1]}", marks=[] if t in quick else [pytest.mark.slow]) for t in every
    ]


@pytest.mark.parametrize("tests", parts())
def test_unchanged_kernels_pass(workshop, tests):
    status, output = run_tests(workshop.module, tests)
    assert status == 0, output
    assert re.search(r"\d+ passed", output), output


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(i, id=m.name.replace(" ", "_"), marks=[pytest.mark.slow] if m.slow else [])
        for i, m in enumerate(MUTATIONS)
    ],
)
def test_planted_bug_is_caught(workshop, number):
    status, output = workshop.judge(number, MUTATIONS[number])
    assert status == 1, output
    assert re.search(r"\d+ failed", output), output


def test_the_table_is_sound():
    tiles = {f"{tile.stem}.cu" for tile in TILES}
    for m in MUTATIONS:
        text = (ROOT / "kernels" / m.file).read_text()
        assert text.count(m.old) == 1, f"{m.name}: the text to replace occurs {text.count(m.old)} times"
        assert m.old != m.new
        assert all(source in tiles or (ROOT / "kernels" / source).exists() for source in m.rebuild)
        assert m.rebuild or m.file.endswith(".cu"), f"{m.name}: a header needs the files to rebuild"
    names = [m.name for m in MUTATIONS]
    assert len(set(names)) == len(names)
    assert {m.family for m in MUTATIONS if not m.slow} == set(FAMILIES)
