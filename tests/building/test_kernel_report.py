"""The report on compiled kernels: reading compiler and disassembler, occupancy, and noticing drift."""

import copy
import json
import sys
from pathlib import Path

import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import kernel_report
from report import alexnet, compare, compiler, objects, occupancy, render, sass
from report.reasons import REASONS
from report.tiles import TILES

COMMITTED = json.loads((ROOT / "docs" / "kernel-report.json").read_text())

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5rightPf' for 'sm_90'
ptxas info    : Function properties for _Z5rightPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 151 registers, used 1 barriers, 12800 bytes smem
ptxas info    : Compiling entry function '_Z5spillPf' for 'sm_90'
ptxas info    : Function properties for _Z5spillPf
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, 392 bytes cmem[0]
ptxas warning : something is odd
ptxas info    : (C7519) warpgroup.arrive is injected in around line 372 by compiler
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized
"""

SASS = """\
		Function : _Z5rightPf
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;          /* 0x00000a00ff017b82 */
                                                                   /* 0x000ff00000000800 */
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;  /* 0x0 */
        /*0020*/              @!P0 LDG.E R4, desc[UR4][R2.64] ;    /* 0x0 */
        /*0030*/              @P1  LDGSTS.E.BYPASS.128 [R4], desc[UR4][R2.64] ;  /* 0x0 */
        /*0040*/                   FFMA R4, R5, R6, R4 ;           /* 0x0 */
        /*0050*/                   HFMA2.MMA R6, -RZ, RZ, 0, 0 ;   /* 0x0 */
        /*0060*/                   HMMA.1688.F32.TF32 R4, R5, R6, R4 ;  /* 0x0 */
        /*0070*/                   LDSM.16.M88.4 R4, [R6] ;        /* 0x0 */
        /*0080*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;   /* 0x0 */
        /*0090*/                   HGMMA.64x128x8.F32.TF32 R4, gdesc[UR4], R4 ;  /* 0x0 */
        /*00a0*/                   UTMALDG.2D [UR8], [UR4] ;       /* 0x0 */
        /*00b0*/                   STG.E.128 desc[UR4][R2.64], R4 ;  /* 0x0 */
        /*00c0*/                   LDS.128 R4, [R6] ;              /* 0x0 */
        /*00d0*/                   UTMALDG.4D.IM2COL [UR8], [UR4], UR6 ;  /* 0x0 */
        /*00e0*/                   UTMASTG.4D [UR4], [UR8] ;       /* 0x0 */
		Function : _Z5spillPf
        /*0000*/                   STL.64 [R1], R4 ;               /* 0x0 */
        /*0010*/              @UP0 BAR.ARV 0x1, 0x80 ;             /* 0x0 */
"""

ELF = """\
.nv.info._Z5rightPf
	<0x1>
	Attribute:	EIATTR_CUDA_API_VERSION
	Format:	EIFMT_SVAL
	Value:	0x82 0x0 0x0
	<0x2>
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x20 0x4 0x1
.nv.constant0._Z5rightPf
	Attribute:	EIATTR_MAX_THREADS
	Value:	0x1 0x1 0x1
"""


def test_ptxas_is_read():
    rows, complaints = compiler.parse(ROOT / "kernels" / "pool" / "x.cu", PTXAS)
    assert [(r["symbol"], r["registers"], r["shared"], r["spill"]) for r in rows] == [
        ("_Z5rightPf", 151, 12800, 0),
        ("_Z5spillPf", 255, 0, 12),
    ]
    assert len(complaints) == 3
    assert complaints[0] == "ptxas warning : something is odd"


def test_instructions_are_counted():
    counts = sass.count(SASS)
    right = {"FFMA": 1, "HMMA": 1, "HGMMA": 1, "LDGSTS": 1, "LDSM": 1, "BAR": 1}
    right |= {"UTMALDG": 2, "UTMALDG.IM2COL": 1, "UTMASTG": 1}
    right |= {"LDG.128": 1, "STG.128": 1, "LDS.128": 1, "STS.128": 0, "LDL/STL": 0}
    assert counts["_Z5rightPf"] == right
    assert {name: n for name, n in counts["_Z5spillPf"].items() if n} == {"LDL/STL": 1, "BAR": 1}


def test_instructions_that_are_lacking_are_named():
    counts = dict.fromkeys(sass.COUNTED, 1)
    assert sass.lacking("wgmma_kernel<WgmmaTile<128, 128, 64, 6, Bf16>, 4>", counts) == []
    assert sass.lacking("wgmma_kernel<>", counts | {"UTMALDG.IM2COL": 0}) == ["UTMALDG.IM2COL"]
    assert sass.lacking("halo_kernel<>", counts | {"UTMALDG": 0, "UTMASTG": 0}) == ["UTMALDG"]
    assert sass.lacking("fprop_kernel<Tile<128, 64>>", dict.fromkeys(sass.COUNTED, 0)) == []


def test_block_sizes_are_read():
    assert sass.threads(ELF) == {"_Z5rightPf": 128}


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("void pcn::conv::fprop_kernel<pcn::conv::Tile<128, 64>, 4>(pcn::conv::FpropArgs)", None),
        ("void pcn::(anonymous namespace)::pool_kernel<(int)4, (bool)1>(float*)", "pool_kernel<4, 1>"),
        ("pcn::(anonymous namespace)::plain_kernel(float*, int)", "plain_kernel"),
    ],
)
def test_names_are_short(symbol, name):
    assert compiler.short(symbol) == (name or "fprop_kernel<Tile<128, 64>, 4>")


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "blocks", "limit"),
    [
        # 65536 registers: 64 warps of 32 registers a thread, 4 * floor(16384 / 4096) = 16 warps of 128
        (256, 32, 0, 8, "registers, threads"),
        (256, 128, 16896, 2, "registers"),
        (256, 129, 0, 1, "registers"),  # rounded up to 136: 3 warps a quarter
        (128, 40, 100 * 1024, 2, "shared memory"),
        (128, 40, 227 * 1024, 1, "shared memory"),
        (32, 16, 0, 32, "blocks"),
        (1024, 64, 0, 1, "registers"),
        (1024, 33, 0, 1, "registers, threads"),
        (33, 255, 0, 4, "registers"),  # two warps a block; a quarter holds two warps of 256
    ],
)
def test_occupancy(threads, registers, shared, blocks, limit):
    found = occupancy.sm90(threads, registers, shared)
    if (threads, registers) == (1024, 33):
        limit = "registers"  # 40 registers: 48 warps
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.percent == pytest.approx(100 * blocks * -(-threads // 32) / 64)


@pytest.mark.parametrize("wrong", [(0, 32, 0), (32, 0, 0), (32, 32, -1)])
def test_occupancy_refuses(wrong):
    with pytest.raises(ValueError, match="not a kernel"):
        occupancy.sm90(*wrong)


# ---- drift ----
def test_equal_reports_do_not_differ():
    assert compare.differences(COMMITTED, copy.deepcopy(COMMITTED)) == ([], [])


def changed(path: str, value) -> dict:
    """The committed report with one number changed in its first rows."""
    report = copy.deepcopy(COMMITTED)
    part, *keys = path.split("/")
    place = report[part][0]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return report


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("kernels/arch/90/registers", 254, r"arch\.90\.registers was \d+, is 254"),
        ("kernels/arch/90/spill", 8, r"arch\.90\.spill was 0, is 8"),
        ("kernels/arch/90/sass/HMMA", 77, r"sass\.HMMA was \d+, is 77"),
        ("accesses/counts/load/cost", 10**9, r"counts\.load\.cost was \d+, is 1000000000"),
        ("accesses/dynamic", 12345, r"dynamic was \d+, is 12345"),
    ],
)
def test_drift_is_noticed(path, value, says):
    import re

    found, notes = compare.differences(COMMITTED, changed(path, value))
    assert len(found) == 1
    assert re.search(says, found[0])
    assert notes == []


def test_some_architectures_are_compared_alone():
    some = changed("kernels/arch/90/registers", 254)
    for row in some["kernels"]:
        row["arch"] = {arch: made for arch, made in row["arch"].items() if arch == "90"}
    found, _ = compare.differences(COMMITTED, some)
    assert len(found) == 1
    assert "arch.90.registers" in found[0]


def test_code_for_two_architectures_is_made_in_one_pass():
    assert compiler.passes(["75", "80", "90"]) == [("75", ["75"]), ("80", ["80", "90"])]
    assert compiler.passes(["90"]) == [("90", ["90"])]
    assert compiler.passes(["75"]) == [("75", ["75"])]


USAGE = """\
 Function _Z5rightPf:
  REG:151 STACK:0 SHARED:12800 LOCAL:0 CONSTANT[0]:644 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z5spillPf:
  REG:255 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:644 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


def test_object_files_are_read():
    assert objects.usage(USAGE) == {"_Z5rightPf": (151, 0, 12800), "_Z5spillPf": (255, 16, 0)}
    files = {"units/norm.cu.o": "norm", "units/conv2d_fprop_mma.cu.o": "conv", "kernels/pool/x.cu.o": "pool"}
    for name, family in files.items():
        assert objects.family_of(Path("build/CMakeFiles/cuda_kernels.dir") / name) == family


@pytest.mark.parametrize(
    ("path", "value", "noticed"),
    [
        ("registers", 12, False),
        ("registers", 13, True),
        ("registers", -13, True),
        ("shared", 4, True),
        ("spill", 8, True),
        ("sass/FFMA", 1, True),
        ("sass/LDL/STL", 1, True),
        ("loop/step/issue", 1, True),
        ("loop/rest/issue", 1, False),
        ("loop/rest/issue", 99, True),
    ],
)
def test_the_kernels_of_a_unit_differ_in_little(path, value, noticed):
    """As in the committed report but for this; under the name of the unit, which holds many."""
    rows = copy.deepcopy(COMMITTED["kernels"])
    made = next(row["arch"]["90"] for row in rows if "loop" in row["arch"].get("90", {}))
    *outer, last = path.replace("LDL/STL", "LDL|STL").split("/")
    for key in outer:
        made = made[key]
    made[last.replace("|", "/")] += value
    read = objects.as_in(COMMITTED["kernels"], [row | {"stem": "unit"} for row in rows])
    found, _ = compare.differences(COMMITTED, COMMITTED | {"kernels": read})
    assert len(found) == noticed


def test_kernels_that_come_and_go_are_noticed():
    fewer = copy.deepcopy(COMMITTED)
    gone = fewer["kernels"].pop(3)
    assert compare.differences(COMMITTED, fewer)[0] == [
        f"- code {gone['stem']} {gone['kernel']}: no longer there"
    ]
    assert compare.differences(fewer, COMMITTED)[0] == [
        f"+ code {gone['stem']} {gone['kernel']}: not in the report"
    ]


def test_another_compiler_is_said_and_compared_by_what_it_must_keep():
    other = changed("kernels/arch/90/registers", 254)
    other["nvcc"] = "13.5.37"
    found, notes = compare.differences(COMMITTED, other)
    assert found == []
    assert "13.5.37" in notes[0]
    spilling = changed("kernels/arch/90/spill", 8)
    spilling["nvcc"] = "13.5.37"
    assert "spilled 0 bytes, now 8" in compare.differences(COMMITTED, spilling)[0][0]
    tensor = changed("kernels/arch/90/sass/UTMALDG", 5)
    tensor["nvcc"] = "13.5.37"
    assert "now has UTMALDG" in compare.differences(COMMITTED, tensor)[0][0]


def test_another_host_compiler_is_said_and_compared_by_exceptions():
    other = changed("accesses/counts/load/cost", 10**9)
    other["g++"] = "99.1.0"
    assert compare.differences(COMMITTED, other)[0] == []
    other["accesses"][0]["exceptions"]["load of 4 bytes at x.cu"] = {}
    found, notes = compare.differences(COMMITTED, other)
    assert "99.1.0" in notes[0]
    assert found[0].endswith("now: load of 4 bytes at x.cu")


def test_another_choice_of_kernels_is_noticed():
    other = copy.deepcopy(COMMITTED)
    other["alexnet"][0]["fp32"] = "conv2d_fprop_generic"
    assert compare.differences(COMMITTED, other)[0] == ["! alexnet: other kernels take the layers of a step"]


@pytest.mark.parametrize("part", compare.PREDICTIONS)
def test_another_prediction_is_noticed(part):
    other = copy.deepcopy(COMMITTED)
    other[part][0]["us"] += 1
    (found,) = compare.differences(COMMITTED, other)[0]
    assert found == "! predictions: they are not those of the cycle model"


def test_the_page_has_the_kernels_that_run_today():
    assert COMMITTED["alexnet"] == alexnet.step()
    stems = {row["stem"] for row in COMMITTED["kernels"]}
    assert {row[p] for row in COMMITTED["alexnet"] for p in alexnet.PRECISIONS} <= stems


def test_half_a_report_is_compared_alone():
    half = {**COMMITTED, "accesses": None, "alexnet": None, "g++": None}
    assert compare.differences(COMMITTED, half) == ([], [])


# ---- the committed report ----
def test_the_page_is_what_the_numbers_say():
    page = (ROOT / "docs" / "kernel-report.md").read_text()
    assert page == render.markdown(COMMITTED, REASONS), "python benchmarks/kernel_report.py --write"


def test_the_report_has_every_kernel_file():
    files = {path.stem for path in (ROOT / "kernels").glob("*/**/*.cu")} | {tile.stem for tile in TILES}
    assert files - {row["stem"] for row in COMMITTED["kernels"]} == set()


def test_no_kernel_spills():
    spilling = [
        row["stem"] for row in COMMITTED["kernels"] if any(arch["spill"] for arch in row["arch"].values())
    ]
    assert [stem for stem in spilling if not stem.endswith("_generic")] == []


def test_kernels_for_9_0_multiply_bring_and_leave_by_its_machinery():
    found = [row for row in COMMITTED["kernels"] if row["kernel"].partition("<")[0] in sass.NEEDED]
    # Others must not be compiled for it alone, where the linker might keep these; but its own passes.
    alone = [row for row in COMMITTED["kernels"] if list(row["arch"]) == ["90a"]]
    parts = [
        f"add_parts_kernel<{args}, {out}>" for args in ("HaloArgs", "WgmmaArgs") for out in ("Bf16", "float")
    ]
    assert [row["kernel"] for row in alone if row not in found] == [*parts, "turn_filters_kernel<32>"]
    assert all(row in alone for row in found)
    for passes in ("turn_filters", "stream_k_product"):
        texts = {path: path.read_text() for path in compiler.KERNELS.rglob("*.*")}
        includers = [path for path, text in texts.items() if f'{passes}.h"' in text]
        assert [path.parent.name for path in includers] == ["hopper"]
    stems = [tile.stem for tile in TILES if "_WGMMA" in tile.line]
    stems += [stem for stem in stems if "dgrad" not in stem]  # two widths of fprop's steps, of wgrad's blocks
    assert [row["stem"] for row in found] == sorted(stems)
    for row in found:
        assert sass.lacking(row["kernel"], row["arch"]["90a"]["sass"]) == []
        assert row["arch"]["90a"]["spill"] == 0


@pytest.mark.parametrize(
    "wrong",
    [["--write", "--only", "code"], ["--write", "--family", "pool"], ["--check", "--family", "pool"]],
)
def test_half_a_report_is_not_committed(wrong, capsys):
    with pytest.raises(SystemExit):
        kernel_report.parse_arguments(wrong)
    assert "whole report" in capsys.readouterr().err


def test_the_dump_has_a_line_a_kernel():
    text = kernel_report.dump(COMMITTED)
    assert json.loads(text) == COMMITTED
    parts = [rows for rows in COMMITTED.values() if isinstance(rows, list)]
    assert len(parts) == 6
    assert len(text.splitlines()) == sum(map(len, parts)) + 2 * len(parts) + 4
