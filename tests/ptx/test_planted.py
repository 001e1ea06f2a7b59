"""Faults in what nvcc alone compiles: the emulator cannot see them, and the executor notices every one."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess

import pytest
from support import ROOT, ptx
from support.once import once
from support.planted.planted_ptx import FAULTS

CASES = sorted({case for fault in FAULTS for case in fault.cases})

def copied(folder):
    """The sources that faults are planted in."""
    for part in ("kernels", "tests/support/emulator"):
        shutil.copytree(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def workshop(runtime, tmp_path_factory):
    """A folder with the sources and the program that has no fault."""

    def make(folder):
        ptx.compile_program(ptx.PRIMITIVES, ROOT / "kernels", copied(folder / "tree").parent / "primitives")

    return once(tmp_path_factory, "planted_ptx", make)


def planted(tree, fault):
    """A copy of the sources with the fault in it."""
    target = copied(tree) / fault.file
    target.write_text(target.read_text().replace(fault.old, fault.new))
    return tree


@functools.cache
def as_the_emulator_sees_it(tree) -> str:
    """A digest of the program's text behind g++'s preprocessor."""
    kernels = tree / "kernels"
    command = ["g++", "-E", "-P", "-xc++", "-std=c++17", "-DPCN_EMULATED", f"-I{kernels}"]
    command += [f"-I{kernels / 'emulation' / 'toolkit'}", tree / "tests/support/emulator/primitives.cu"]
    text = subprocess.run(command, capture_output=True, check=True).stdout
    return hashlib.sha256(text.replace(str(tree).encode(), b"")).hexdigest()


def test_there_are_faults_of_every_kind():
    assert len(FAULTS) >= 20
    assert len({fault.plants for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        text = (ROOT / fault.file).read_text()
        assert text.count(fault.old) == 1, f"{fault.plants}: occurs {text.count(fault.old)} times"


def test_without_a_fault_all_is_right(workshop, runtime):
    found = ptx.run_program(workshop / "primitives", runtime, *CASES)
    assert {name for name, case in found.items() if case["error"] or case["wrong"]} == set()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.plants.replace(" ", "_"))
def test_a_fault_is_noticed(workshop, runtime, tmp_path, fault):
    tree = planted(tmp_path / "tree", fault)
    program, text = workshop / "primitives", None
    whole = any(case.startswith(("wgmma", "pipeline")) for case in fault.cases)
    options = [] if whole else ["-DPRIMITIVES_WITHOUT_WGMMA"]
    if fault.host:
        source = tree / "tests/support/emulator/primitives.cu"
        program = ptx.compile_program(source, tree / "kernels", tmp_path / "primitives", *options)
    else:
        text = ptx.compile_text(ptx.PRIMITIVES, tree / "kernels", tmp_path / "primitives.ptx", *options)
    found = ptx.run_program(program, runtime, *fault.cases, text=text)
    quiet = [name for name, case in found.items() if not case["error"] and not case["wrong"]]
    assert quiet == []
    assert as_the_emulator_sees_it(tree) == as_the_emulator_sees_it(workshop / "tree")
