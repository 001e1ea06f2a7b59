"""Two kernels of convolutions as nvcc compiles them, and faults in their PTX: for the default run."""

from __future__ import annotations

import re

import pytest
from support import ROOT, ptx
from support.once import once

# (what is wrong, the kernel that has it, pattern and what takes its place)
FAULTS = [
    ("a copy less is waited for", "mma", r"cp\.async\.wait_group 1;", "cp.async.wait_group 2;"),
    ("no barrier", "mma", r"bar\.sync 0;", ""),
    ("fragments of A change places", "mma", r"(\.f32 \{[^}]*\}, \{)(%r\d+),(%r\d+)", r"\1\3,\2"),
    ("no barrier", "ffma", r"bar\.sync 0;", ""),
    ("sums begin anew", "ffma", r"(fma\.rn\.f32 %f\d+, %f\d+, %f\d+), %f\d+;", r"\1, 0f00000000;"),
]


@pytest.fixture(scope="module")
def program(stand_in, tmp_path_factory):
    """two_rows.cu, compiled for compute capability 8.0."""

    def make(folder):
        source = ROOT / "tests" / "ptx" / "two_rows.cu"
        ptx.compile_program(source, ROOT / "kernels", folder / "two_rows", architecture="compute_80")

    return once(tmp_path_factory, "ptx_two_rows", make) / "two_rows"


def run(program, stand_in, case, text=None):
    """What a case reported, in a drawn order of the warps."""
    return ptx.run_program(program, stand_in, case, text=text, PYCONVNET_PTX_ORDER="random")[case]


@pytest.mark.parametrize("case", ["ffma", "mma"])
def test_a_row_is_right(program, stand_in, case):
    found = run(program, stand_in, case)
    assert (found["error"], found["wrong"], found["words"]) == ("", 0, "")


@pytest.mark.parametrize(("what", "case", "old", "new"), FAULTS, ids=lambda x: str(x).replace(" ", "_"))
def test_a_fault_is_noticed(program, stand_in, tmp_path, what, case, old, new):
    text, count = re.subn(old, new, ptx.text_of(program))
    assert count > 0
    (tmp_path / "faulty.ptx").write_text(text)
    found = run(program, stand_in, case, tmp_path / "faulty.ptx")
    assert found["error"].startswith("cudaError") or found["wrong"], found
