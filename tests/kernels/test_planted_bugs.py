"""The kernel tests bite: with a bug planted in a kernel, the family's own tests on the emulator fail.

Each mutation replaces one place in a copy of a source, compiles the files it concerns, and runs part of the
family's tests against that module. The same parts pass with the unchanged module. A few mutations run by
default, the others with ``--slow``. ``PYCONVNET_TEST_BUILD=folder`` keeps what was compiled, which then has
to be removed by hand when a source changes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, TESTS
from support.emulator import probes
from support.kernels.tiles import TILES
from support.once import once
from support.planted.mutations import FAMILIES, MUTATIONS
from support.planted.workshop import KERNELS, Workshop, prepare


def run_tests(module: Path, parts: list[tuple[str, str]], *options: str) -> tuple[int, str]:
    """Parts of test files with this compiled emulator: exit status and output."""
    # No plugins: they take longer to start than many a part.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *options]
    environment = {
        **os.environ, "PYCONVNET_EMULATOR": str(module), "CUDA_VISIBLE_DEVICES": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }  # fmt: skip
    for name in ("PYCONVNET_REQUIRE", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    files = [next(TESTS.rglob(name)) for name in dict.fromkeys(name for name, _ in parts)]
    expression = " or ".join(f"({name} and ({some}))" for name, some in parts)
    done = subprocess.run(
        [*command, "-k", expression, *files],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def mutations(request):
    """What this session plants."""
    return [m for m in MUTATIONS if not m.slow or request.config.getoption("--slow")]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, mutations):
    missing = probes.missing_tools("ninja")
    if missing:
        pytest.skip(f"building mutants needs {', '.join(missing)}")
    kept = os.environ.get("PYCONVNET_TEST_BUILD")
    place = Path(kept) / f"planted{len(mutations)}" if kept else None

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "made.json").exists():
            prepare(folder, mutations)

    made = once(tmp_path_factory, "planted", lambda folder: make(place or folder))
    return Workshop(place or made)


def test_unchanged_kernels_pass(workshop, mutations):
    parts = list(dict.fromkeys(m.tests for m in mutations))
    status, output = run_tests(workshop.module("unchanged"), parts)
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
    status, output = run_tests(workshop.mutant(number, MUTATIONS[number]), [MUTATIONS[number].tests], "-x")
    assert status == 1, output
    assert re.search(r"\d+ failed", output), output


def test_the_table_is_sound():
    tiles = {f"{tile.stem}.cu" for tile in TILES}
    for m in MUTATIONS:
        text = (KERNELS / m.file).read_text()
        assert text.count(m.old) == 1, f"{m.name}: the text to replace occurs {text.count(m.old)} times"
        assert m.old != m.new
        assert m.file.split("/")[0] in FAMILIES, f"{m.name}: a header that is precompiled"
        assert all(source in tiles or (KERNELS / source).exists() for source in m.concerned)
        assert m.rebuild or m.file.endswith(".cu"), f"{m.name}: a header needs the files to rebuild"
    names = [m.name for m in MUTATIONS]
    assert len(set(names)) == len(names)
    assert {m.family for m in MUTATIONS if not m.slow} == set(FAMILIES)
