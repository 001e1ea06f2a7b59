"""Kernels of convolutions as nvcc compiles them, and faults in their PTX.

Two are for the default run; the others, whose programs take nvcc long, for ``--slow``.
"""

from __future__ import annotations

import re

import pytest
from support import ROOT, ptx
from support.once import once

#: All of a matrix descriptor but its address: 128-byte swizzle, 1024 bytes from 8 rows to the next.
DESCRIPTOR = 1 << 62 | 64 << 32 | 1 << 16
#: And of pixels in planes, but for the bytes between these: 128 from 8 rows to the next, without swizzle.
PLANES = 8 << 32
# (what is wrong, the kernel that has it, pattern and what takes its place)
FAULTS = [
    ("a copy less is waited for", "mma", r"cp\.async\.wait_group 1;", "cp.async.wait_group 2;"),
    ("no barrier", "mma", r"bar\.sync 0;", ""),
    ("fragments of A change places", "mma", r"(\.f32 \{[^}]*\}, \{)(%r\d+),(%r\d+)", r"\1\3,\2"),
    ("no barrier", "ffma", r"bar\.sync 0;", ""),
    ("sums begin anew", "ffma", r"(fma\.rn\.f32 %f\d+, %f\d+, %f\d+), %f\d+;", r"\1, 0f00000000;"),
    ("results that TMA does not see", "wgmma", r"fence\.proxy\.async\.shared::cta;", ""),
    ("barriers that TMA does not see", "wgmma", r"fence\.mbarrier_init\.release\.cluster;", ""),
    ("products without a fence", "wgmma", r"wgmma\.fence\.sync\.aligned;", ""),
    ("a stage given back too soon", "wgmma", r"(wgmma\.wait_group\.sync\.aligned) 1;", r"\1 2;"),
    ("sums read too soon", "wgmma", r"(wgmma\.wait_group\.sync\.aligned) 0;", r"\1 1;"),
    ("another swizzle in descriptors", "wgmma", rf"\b{DESCRIPTOR};", f"{DESCRIPTOR - (1 << 62)};"),
    ("rows of descriptors too close", "wgmma", rf"\b{DESCRIPTOR};", f"{DESCRIPTOR - (32 << 32)};"),
    ("stores that nobody waits for", "wgmma", r"cp\.async\.bulk\.commit_group;", ""),
    ("stores that end after the block", "wgmma", r"cp\.async\.bulk\.wait_group\.read 0;", ""),
    ("no barriers of a warpgroup", "wgmma", r"bar\.sync %r\d+, %r\d+;", ""),
    ("weights that TMA does not see", "wgrad", r"fence\.proxy\.async\.shared::cta;", ""),
    ("products without a fence", "wgrad", r"wgmma\.fence\.sync\.aligned;", ""),
    ("a stage given back too soon", "wgrad", r"(wgmma\.wait_group\.sync\.aligned) 1;", r"\1 2;"),
    ("sums read too soon", "wgrad", r"(wgmma\.wait_group\.sync\.aligned) 0;", r"\1 1;"),
    ("pixels read as channels", "wgrad", r"(p, 1, 1), 1, 1;", r"\1, 0, 1;"),
    ("dy read along its filters", "wgrad", r"(p, 1, 1), 1, 1;", r"\1, 1, 0;"),
    ("no barriers of a warpgroup", "wgrad", r"bar\.sync %r\d+, %r\d+;", ""),
    ("stores that nobody waits for", "wgrad", r"cp\.async\.bulk\.commit_group;", ""),
    ("stores that end after the block", "wgrad", r"cp\.async\.bulk\.wait_group\.read 0;", ""),
    ("filters read before they are there", "dgrad", r"(?s)(\.entry \w*turn_filters.*?)bar\.sync 0;", r"\1"),
    ("products without a fence", "dgrad", r"wgmma\.fence\.sync\.aligned;", ""),
    ("sums read too soon", "dgrad", r"(wgmma\.wait_group\.sync\.aligned) 0;", r"\1 1;"),
    ("a mask told by four lanes to all", "dgrad", r"\b7199;", "31;"),
    ("a mask told by four lanes to all", "back", r"\b7199;", "31;"),
    ("results that TMA does not see", "dgrad", r"fence\.proxy\.async\.shared::cta;", ""),
    ("filters that wgmma does not see", "transposing", r"fence\.proxy\.async\.shared::cta;", ""),
    ("filters given back too soon", "transposing", r"(wgmma\.wait_group\.sync\.aligned) 1;", r"\1 2;"),
    ("one lane's sums for all", "wgrad", r"(shfl\.sync\.idx\.b32\s+%r\d+\|%p[2-9], %r\d+), %r\d+", r"\1, 0"),
    ("products without a fence", "halo", r"wgmma\.fence\.sync\.aligned;", ""),
    ("filters and pixels given back too soon", "halo", r"(wgmma\.wait_group\.sync\.aligned) 1;", r"\1 2;"),
    ("sums read too soon", "halo", r"(wgmma\.wait_group\.sync\.aligned) 0;", r"\1 1;"),
    ("outputs that pass without barriers", "halo", r"bar\.sync %r\d+, %r\d+;", ""),
    ("rows of planes too close", "halo", rf"\b{PLANES};", f"{PLANES // 2};"),
    ("planes swizzled", "halo", rf"\b{PLANES};", f"{PLANES | 1 << 62};"),
    ("outputs of half a position's row", "halo", r"(shr\.u32 %r\d+, %r\d+), 20;", r"\1, 19;"),
    ("barriers that TMA does not see", "halo", r"fence\.mbarrier_init\.release\.cluster;", ""),
    ("sums read too soon", "halo_shared", r"(wgmma\.wait_group\.sync\.aligned) 0;", r"\1 1;"),
    ("sums of a lane over another's", "halo_shared", r"(st\.global\.v2\.f32 \[%rd\d+)\+32\]", r"\1]"),
    ("a part that is not added", "halo_shared", r"(?s)(\.entry \w*add_parts.*?)add\.f32", r"\1sub.f32"),
    ("products without a fence", "halo_back", r"wgmma\.fence\.sync\.aligned;", ""),
    ("sums read too soon", "halo_back", r"(wgmma\.wait_group\.sync\.aligned) 0;", r"\1 1;"),
    ("rows of planes too close", "halo_back", rf"\b{PLANES};", f"{PLANES // 2};"),
    (
        "another swizzle in filters' descriptors",
        "halo_back",
        rf"\b{DESCRIPTOR};",
        f"{DESCRIPTOR - (1 << 62)};",
    ),
    ("a mask told by four lanes to all", "halo_back", r"\b7199;", "31;"),
    (
        "columns that wgmma does not see",
        "wgrad_tf32",
        r"fence\.proxy\.async\.shared::cta;(\s+bar\.warp\.sync)",
        r"\1",
    ),
    ("products without a fence", "wgrad_tf32", r"wgmma\.fence\.sync\.aligned;", ""),
    (
        "weights changed while they are multiplied",
        "wgrad_tf32",
        r"(wgmma\.wait_group\.sync\.aligned) 1;",
        r"\1 2;",
    ),
    ("sums read too soon", "wgrad_tf32", r"(wgmma\.wait_group\.sync\.aligned) 0;", r"\1 1;"),
    (
        "one lane's places for all",
        "wgrad_tf32",
        r"(shfl\.sync\.idx\.b32 %r\d+\|%p[2-5], %r\d+), %r\d+",
        r"\1, 0",
    ),
    ("columns of two warps of three", "wgrad_tf32", r"(mov\.u32 %r\d+), 3;(\s+mbarrier\.init)", r"\1, 2;\2"),
    ("a stage that is empty while dy is read", "wgrad_tf32", r"(mov\.u32 %r\d+), 11;", r"\1, 8;"),
    ("sums that other warps have not left", "wgrad_tf32", r"(, 96;\s+)bar\.sync %r\d+, %r\d+;", r"\1"),
    (
        "rows of 64 bytes swizzled in part",
        "wgrad_narrow",
        r"(shr\.u32 (%r\d+), %r\d+, 3;\s+and\.b32 %r\d+, \2), 48;",
        r"\1, 16;",
    ),
]
#: Case -> program, and for what it is compiled.
PROGRAMS = {
    "ffma": ("two_rows", "compute_80"),
    "mma": ("two_rows", "compute_80"),
    "wgmma": ("hopper_row", "compute_90a"),
    "wgrad": ("hopper_wgrad", "compute_90a"),
    "dgrad": ("hopper_dgrad", "compute_90a"),
    "wgrad_tf32": ("hopper_wgrad_tf32", "compute_90a"),
    "wgrad_narrow": ("hopper_wgrad_tf32", "compute_90a"),
    "tall": ("hopper_dgrad", "compute_90a"),
    "back": ("hopper_dgrad", "compute_90a"),
    "transposing": ("hopper_dgrad", "compute_90a"),
    "halo": ("hopper_halo", "compute_90a"),
    "halo_shared": ("hopper_halo", "compute_90a"),
    "halo_back": ("hopper_halo", "compute_90a"),
}


@pytest.fixture(scope="module")
def program(stand_in, tmp_path_factory):
    """``program(case)``: the case's program, compiled once a session."""

    def compiled(case):
        name, architecture = PROGRAMS[case]
        source = ROOT / "tests" / "ptx" / f"{name}.cu"

        def make(folder):
            ptx.compile_program(source, ROOT / "kernels", folder / name, architecture=architecture)

        return once(tmp_path_factory, f"ptx_{name}", make) / name

    return compiled


def run(program, stand_in, case, text=None):
    """What a case reported, in a drawn order of the warps."""
    return ptx.run_program(program(case), stand_in, case, text=text, PYCONVNET_PTX_ORDER="random")[case]


def with_marks(rows, case):
    """Rows of a table, those of the program that takes long as slow ones."""
    slow = [pytest.mark.slow]
    return [
        pytest.param(*row, marks=slow if PROGRAMS[case(row)][0].startswith("hopper") else []) for row in rows
    ]


@pytest.mark.parametrize("case", with_marks([(case,) for case in PROGRAMS], lambda row: row[0]))
def test_a_row_is_right(program, stand_in, case):
    found = run(program, stand_in, case)
    assert (found["error"], found["wrong"], found["words"]) == ("", 0, "")


@pytest.mark.parametrize(
    ("what", "case", "old", "new"),
    with_marks(FAULTS, lambda row: row[1]),
    ids=lambda x: str(x).replace(" ", "_"),
)
def test_a_fault_is_noticed(program, stand_in, tmp_path, what, case, old, new):
    text, count = re.subn(old, new, ptx.text_of(program(case)))
    assert count > 0
    (tmp_path / "faulty.ptx").write_text(text)
    found = run(program, stand_in, case, tmp_path / "faulty.ptx")
    assert found["error"].startswith("cudaError") or found["wrong"], found
