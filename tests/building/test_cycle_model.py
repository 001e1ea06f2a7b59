"""The cycle model: loops read from machine code, cycles worked out by hand, what a card has measured."""

import copy
import dataclasses
import itertools
import json
import re
import sys

import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import cycle_model
from report import alexnet, cycles, loops, overlap, predictions, render, tiles
from report.reasons import REASONS

COMMITTED = json.loads((ROOT / "docs" / "kernel-report.json").read_text())
ROWS = [{cell: row[cell] for cell in alexnet.CELLS} for row in COMMITTED["products"]]


def listing(*kernels: tuple[str, list[str]]) -> str:
    """What cuobjdump prints of kernels whose instructions these are, 16 bytes each."""
    lines = []
    for name, code in kernels:
        lines += [f"\t\tFunction : {name}", '\t.headerflags\t@"EF_CUDA_SM90"']
        for number, instruction in enumerate(code):
            lines.append(f"        /*{16 * number:04x}*/    {instruction} ;   /* 0x000000600947 */")
            lines.append(" " * 60 + "/* 0x000 */")
    return "\n".join(lines)


TENSOR = [
    "LDC R1, c[0x0][0x28]",
    "@P0 BRA 0x30",  # forward: no loop
    "HMMA.1688.F32.TF32 R4, R5, R6, R4",
    "LDSM.16.M88.4 R128, [R145]",  # 0x30: the loop
    "@!PT LDS RZ, [RZ]",
    "LDGSTS.E.BYPASS.LTC128B.128 [R13], desc[UR10][R8.64], P5",
    "FSETP.GE.AND P0, PT, R1, R2, PT",
    "@P0 VIADD R6, R6, 0x1000",
    "IMAD.IADD R7, R7, 0x1, R6",
    "ULDC UR4, c[0x0][0x28]",
    "LDS R3, [R4+0x10]",
    "HMMA.1688.F32.TF32 R4, R5, R6, R4",
    "HMMA.1688.F32.TF32 R8, R5, R6, R8",
    "BAR.SYNC.DEFER_BLOCKING 0x0",
    "@!P1 BRA 0x30",
    "STG.E.64 desc[UR10][R2.64], R4",
    "BRA 0x100",
]
FFMA = [
    "LDG.E.128.CONSTANT R4, desc[UR4][R2.64]",  # the step's loop
    "LDS.128 R8, [R3]",  # 0x10: the products'
    "LDS.64 R12, [R3+0x10]",
    "FFMA R20, R8, R12, R20",
    "FFMA R21, R9, R13, R21",
    "ISETP.GE.AND P0, PT, R1, R2, PT",
    "@!P0 BRA 0x10",
    "STS.128 [R3], R4",
    "BAR.SYNC.DEFER_BLOCKING 0x0",
    "@!P1 BRA 0x0",
    "EXIT",
]


def test_the_loop_that_multiplies_is_counted():
    found = loops.main_loops(listing(("tensor", TENSOR), ("without", ["MOV R1, R2", "BRA 0x10"])))
    step = {"issue": 12, "tensor": 2, "imad": 1, "alu": 2, "shared": 3, "passes": 4 + 4 + 1, "HMMA": 2}
    step |= {"LDSM": 1, "LDS": 1, "LDGSTS": 1, "BAR": 1}
    assert found == {"tensor": {"step": step, "rest": {"issue": 5}}}
    assert step["issue"] / step["HMMA"] == 6


def test_products_in_a_loop_of_their_own_are_counted_apart():
    found = loops.main_loop(loops.read(listing(("ffma", FFMA)))["ffma"])
    assert found["inner"] == {"issue": 6, "ffma": 2, "alu": 1, "shared": 2, "passes": 3, "FFMA": 2, "LDS": 2}
    assert found["step"] == {"issue": 4, "shared": 1, "global": 1, "passes": 4, "STS": 1, "LDG": 1, "BAR": 1}
    assert found["rest"] == {"issue": 1}


def test_loops_that_overlap_are_one():
    """The copies of the next step stand before the products, whose loop jumps back between the two."""
    code = ["LDGSTS.E.BYPASS.LTC128B.128 [R13], desc[UR10][R8.64], P5", "LDGDEPBAR", "@!P0 BRA 0x0"]
    code += ["HMMA.1688.F32.TF32 R4, R5, R6, R4", "BAR.SYNC.DEFER_BLOCKING 0x0", "@!P1 BRA 0x10", "EXIT"]
    found = loops.main_loop(loops.read(listing(("turned", code)))["turned"])
    step = {"issue": 6, "tensor": 1, "shared": 1, "passes": 4, "HMMA": 1, "LDGSTS": 1, "BAR": 1}
    assert found == {"step": step, "rest": {"issue": 1}}


def test_of_two_loops_that_multiply_the_shorter_is_the_main_one():
    """Some blocks run another one, which does more beside the same products."""
    sums = ["LDS.128 R8, [R3]", "FADD R20, R20, R8"]
    products = ["HMMA.1688.F32.TF32 R4, R5, R6, R4", "BAR.SYNC.DEFER_BLOCKING 0x0"]
    longer = [*sums, *products, "@!P1 BRA 0x10"]
    code = ["@P0 BRA 0x60", *longer, *products, "@!P1 BRA 0x60", "EXIT"]
    found = loops.main_loop(loops.read(listing(("twice", code)))["twice"])
    step = {"issue": 3, "tensor": 1, "HMMA": 1, "BAR": 1}
    more = {"issue": 5, "ffma": 1, "shared": 1, "passes": 4, "LDS": 1}  # no lanes share what they read
    assert found == {"step": step, "longer": step | more, "rest": {"issue": 2}}
    other = [i.replace("HMMA.1688.F32.TF32", "FFMA") for i in code]  # of plain arithmetic any loop may be
    assert "longer" not in loops.main_loop(loops.read(listing(("other", other)))["other"])


def test_every_opcode_has_one_unit():
    opcodes = [opcode for unit in loops.UNITS.values() for opcode in unit]
    assert len(opcodes) == len(set(opcodes))


# ---- a step, by hand
BIG = cycles.Tile(bm=128, bn=128, bk=16, warps=8, item=4, resident=1)
#: fprop of TF32 on tiles of 128 x 128 as it was with cvt.rna in the loop: 260 instructions for 32 HMMA.
BEFORE = {
    "step": {"issue": 260, "tensor": 32, "imad": 49, "alu": 142, "shared": 16, "passes": 64, "HMMA": 32},
    "rest": {"issue": 1000},
}


def with_counts(**counts: int) -> dict:
    return {**BEFORE, "step": BEFORE["step"] | counts}


def test_cycles_of_a_step_by_hand():
    found = cycles.unit_cycles(BIG, BEFORE)
    assert found["issue"] == 8 / 4 * 260
    assert found["alu"] == 8 / 4 * 142 * 2 == 568
    assert found["fma"] == 8 / 4 * 49 * 2
    assert found["shared"] == 8 * 64 == 512  # 12 LDSM and 4 copies of 4 passes, each of 8 warps
    assert found["l2"] == 256 * 16 * 4 / 32
    assert found["tensor"] == pytest.approx(128 * 128 * 16 / 1024 / 0.62) == pytest.approx(413, abs=0.5)


def test_bf16_multiplies_twice_as_much_in_a_cycle():
    half = cycles.Tile(bm=128, bn=128, bk=32, warps=4, item=2, resident=2)
    loop = {"step": {"issue": 222, "HMMA": 64, "passes": 96}, "rest": {"issue": 0}}
    found = cycles.unit_cycles(half, loop)
    assert found["tensor"] == pytest.approx(128 * 128 * 32 / 2048 / 0.62)
    assert (found["issue"], found["shared"], found["l2"]) == (222, 384, 256 * 32 * 2 / 32)


def test_an_inner_loop_runs_as_often_as_the_tile_needs_it():
    tile = cycles.Tile(bm=128, bn=128, bk=8, warps=8, item=4, resident=2)
    loop = {"step": {"issue": 74, "imad": 19}, "inner": {"issue": 142, "ffma": 128, "imad": 2, "FFMA": 128}}
    counts = cycles.step_counts(tile, loop)  # 64 multiply-adds a thread and k, 8 k, 128 a trip
    assert (counts["issue"], counts["FFMA"], counts["imad"]) == (74 + 4 * 142, 512, 19 + 4 * 2)
    assert cycles.unit_cycles(tile, loop)["fma"] == 2 * (512 + 27)


def test_unrolled_steps_are_shared_out():
    twice = with_counts(**{name: 2 * count for name, count in BEFORE["step"].items()})
    assert cycles.step_counts(BIG, twice) == cycles.step_counts(BIG, BEFORE)


@pytest.mark.parametrize("wrong", [{"HMMA": 31}, {"HMMA": 48}, {"HMMA": 16}, {"HGMMA": 1}])
def test_products_that_make_no_whole_step_are_refused(wrong):
    with pytest.raises(ValueError, match="of a step of Tile"):
        cycles.step_counts(BIG, with_counts(**wrong))


def test_units_get_into_each_others_way():
    alone = dict.fromkeys(("issue", "alu", "tensor"), 0.0)
    assert cycles.step_cycles(alone | {"alu": 100.0}, 1) == pytest.approx(100)
    assert cycles.step_cycles(alone | {"alu": 100.0, "issue": 100.0}, 1) == pytest.approx(100 * 2**0.25)
    assert cycles.step_cycles(alone | {"alu": 100.0}, 3) == pytest.approx(300)


def test_the_busiest_multiprocessor_by_hand():
    units = {"alu": 100.0}

    def time(blocks: int, resident: int) -> float:
        return cycles.busiest_cycles(blocks, resident, 10, units, lambda n: 7.0 * n)

    assert time(132, 1) == 10 * 100 + 7
    assert time(133, 1) == 2 * time(132, 1)
    assert time(133, 2) == 10 * 200 + 14  # two side by side take as long as one after the other
    assert time(3 * 132, 2) == (10 * 200 + 14) + (10 * 100 + 7)  # a pair, then one alone


# ---- a product
KERNEL = {"stem": "x", "kernel": "k<MmaTile<128, 128, 16, 64, 32, 4, float>, 1>", "threads": 256}
KERNEL |= {"occupancy": {"blocks": 1}, "arch": {"90": {"loop": BEFORE}}}
PRODUCT = cycles.Product(128 * 132, 128, 1600, 1, 2.0 * 128 * 132 * 128 * 1600, 1e6)


def predicted(product=PRODUCT, splits=1, out_item=4, loop=BEFORE) -> dict:
    kernel = {**KERNEL, "arch": {"90": {"loop": loop}}}
    return cycles.predict(kernel, product, splits, "tf32", out_item)


def test_a_product_by_hand():
    found = predicted()
    step = (520**4 + 568**4 + 196**4 + 512**4 + 512**4 + (262144 / 1024 / 0.62) ** 4) ** 0.25
    edge = 0.5 * 1000 * 2 + 128 * 128 * 4 / 32 + 2 * 800
    us = (100 * step + edge) / 1755 + 3
    assert found["us"] == pytest.approx(us, abs=0.06)
    assert found["percent"] == pytest.approx(100 * PRODUCT.flops / 400e6 / us, abs=0.06)
    assert (found["tiles"], found["steps"], found["waves"], found["tail"]) == (132, 100, 1, 0)
    assert (found["bound"], found["step_cycles"]) == ("alu", round(step))


def test_memory_bounds_what_moves_much():
    much = dataclasses.replace(PRODUCT, nbytes=4.3e9)
    found = predicted(much)
    assert (found["bound"], found["us"]) == ("hbm", pytest.approx(1003))


@pytest.mark.parametrize("unit", ["issue", "alu", "imad", "passes"])
def test_more_instructions_are_never_faster(unit):
    times = [predicted(loop=with_counts(**{unit: count}))["us"] for count in range(0, 1001, 50)]
    assert times == sorted(times)
    assert times[-1] > 1.5 * times[0]


@pytest.mark.parametrize("what", ["rows", "cols", "depth", "batches", "nbytes"])
def test_larger_products_are_never_faster(what):
    times = [
        predicted(dataclasses.replace(PRODUCT, **{what: factor * int(getattr(PRODUCT, what))}))["us"]
        for factor in (1, 2, 3, 5, 8, 13, 1000)
    ]
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_pieces_fill_the_card_and_cost_their_sum():
    few = cycles.Product(128, 128, 132 * 1600, 1, 2.0 * 128 * 128 * 132 * 1600, 1e6)
    whole, cut = predicted(few), predicted(few, splits=132)
    assert (cut["steps"], cut["tail"], whole["tail"]) == (100, 0, pytest.approx(131 / 132, abs=1e-3))
    sum_us = 1e6 * 128 * 128 * (8 * 132 + 4) / 4.3e12 + 3
    assert cut["us"] == pytest.approx(predicted()["us"] + sum_us, abs=0.11)
    assert cut["us"] < whole["us"] / 50


def test_blocks_with_more_to_do_by_hand():
    """Of three tiles side by side the first runs the longer loop: once on the multiprocessor that decides."""
    loop = BEFORE | {"longer": BEFORE["step"] | {"issue": 300, "passes": 80}}
    wide = dataclasses.replace(PRODUCT, cols=3 * 128, rows=128 * 44)
    own = [260**4 * 2**4, 568**4, 196**4, 512**4, 512**4, (262144 / 1024 / 0.62) ** 4]
    long = [300**4 * 2**4, *own[1:3], 640**4, *own[4:]]
    more_us = 100 * (sum(long) ** 0.25 - sum(own) ** 0.25) / 1755
    assert predicted(wide, loop=loop)["us"] == pytest.approx(predicted(wide)["us"] + more_us, abs=0.11)
    assert more_us > 4
    every = dataclasses.replace(PRODUCT, cols=128, rows=128 * 132 * 3)  # one column: each block of three
    assert predicted(every, loop=loop)["us"] == pytest.approx(predicted(every)["us"] + 3 * more_us, abs=0.11)
    assert predicted(loop=BEFORE | {"longer": BEFORE["step"]}) == predicted()


def test_a_pass_that_turns_filters_by_hand():
    kernel = KERNEL | {"kernel": KERNEL["kernel"].replace("k<", "wgmma_kernel<Turned, ")}
    plain, found = predicted(), cycles.predict(kernel, PRODUCT, 1, "tf32", 4)
    pass_us = 3 + 2 * 4 * 128 * 1600 / 4.3e6
    assert found["us"] == pytest.approx(plain["us"] + pass_us, abs=0.11)
    assert found["percent"] == pytest.approx(plain["percent"] * plain["us"] / found["us"], abs=0.11)


@pytest.mark.parametrize("missing", ["threads", "occupancy", "kernel"])
def test_a_kernel_without_its_figures_is_refused(missing):
    with pytest.raises(ValueError, match="x: no tile, block size or occupancy"):
        cycles.tile_of(KERNEL | {missing: "" if missing == "kernel" else None})


# ---- AlexNet's step
def test_the_report_has_the_predictions_of_its_kernels():
    found = predictions.predict(COMMITTED["kernels"], ROWS, ROOT / "benchmarks" / "results")
    for part, rows in found.items():
        assert rows == COMMITTED[part], "python benchmarks/cycle_model.py --write"


def test_the_rows_are_those_that_the_library_has_today():
    assert alexnet.rows() == ROWS


def test_every_product_of_the_step_is_predicted_in_every_column():
    chosen = {(r["layer"], r["op"], r["precision"]): r for r in predictions.chosen(COMMITTED["products"])}
    for row in COMMITTED["alexnet"]:
        for precision in alexnet.PRECISIONS:
            assert chosen[row["layer"], row["op"], precision]["row"] == row[precision]
    units = ("issue", "alu", "fma", "shared", "l2", "tensor")
    columns = {*alexnet.CELLS, "tiles", "steps", "resident", "waves", "tail", "cycles", "step_cycles"}
    columns |= {"bound", "us", "percent", "measured_us", "ratio"}
    for row in COMMITTED["products"]:
        assert set(row) == columns
        assert tuple(row["cycles"]) == units
        assert 0 < row["percent"] < 100
        assert 0 <= row["tail"] < 1
        assert (row["cycles"]["tensor"] > 0) == ("mma" in row["row"])


@pytest.mark.parametrize("precision", alexnet.PRECISIONS)
def test_who_makes_the_gradients_of_biases(precision):
    """Weight gradients on tensor cores, which have a longer loop for it, by wgmma a warp beside the producer;
    in fp32 kernels of their own."""
    apart = {row["layer"] for row in COMMITTED["others"] if row["op"] == "bias_backward"
             and row["precision"] == precision}  # fmt: skip
    stems = predictions.by_stem(COMMITTED["kernels"])
    chosen = [row for row in predictions.chosen(COMMITTED["products"]) if row["op"] == "conv2d_wgrad"]
    for row in (row for row in chosen if row["precision"] == precision):
        beside = "wgmma" in row["row"] or "longer" in cycles.newest(stems[row["row"]])["loop"]
        assert beside != (row["layer"] in apart)


@pytest.mark.parametrize("precision", alexnet.PRECISIONS)
def test_a_step_is_the_sum_of_its_kernels(precision):
    (step,) = (row for row in COMMITTED["steps"] if row["precision"] == precision)
    rows = [*predictions.chosen(COMMITTED["products"]), *COMMITTED["others"]]
    found = {r["op"]: r["us"] for r in COMMITTED["others"] if r["precision"] == precision}
    one_after_the_other = sum(r["us"] for r in rows if r["precision"] == precision)
    hidden = found["sgd_momentum"] - step["update_us"]
    assert step["us"] == pytest.approx(one_after_the_other - hidden, abs=1.5)
    assert 0.5 * found["sgd_momentum"] < hidden < found["sgd_momentum"]
    parts = ("conv_us", "fc_us", "other_us", "update_us")
    assert step["us"] == pytest.approx(sum(step[part] for part in parts), abs=2)
    floor = {"fp32": 8823, "tf32": 1323, "bf16": 670}[precision]  # 4.136 GFLOP an image at the assumed rates
    assert step["percent"] == pytest.approx(100 * floor / step["us"], abs=0.5)
    assert step["error"] == 0.25


# ---- the update beside backward
def test_the_update_gets_what_a_product_leaves():
    """Of bandwidth as much as it has under way, of L2 and registers as much as there is."""
    kernel = predictions.by_stem(COMMITTED["kernels"])["sgd_momentum_beside"]
    assert (kernel["threads"] * 8, 32 * cycles.newest(kernel)["registers"]) == (overlap.TILE, overlap.WARP)
    own = 20 * 512 / 1600 * 132 * 1755  # bytes a microsecond: a tile in two latencies on each multiprocessor
    assert overlap.alone("tf32") == pytest.approx(own)
    product = dataclasses.replace(PRODUCT, rows=2 * PRODUCT.rows)

    def beside(registers: int, nbytes: float = 1e6) -> tuple[float, float] | None:
        kernel = {
            **KERNEL,
            "occupancy": {"blocks": 2},
            "arch": {"90": {"loop": BEFORE, "registers": registers}},
        }
        return overlap.beside(kernel, dataclasses.replace(product, nbytes=nbytes), 1, (0, 0), "tf32", 4, 90.0)

    def slowed(blocks: int, l2: float) -> float:
        kernel = KERNEL | {"occupancy": {"blocks": blocks}}
        return cycles.predict(kernel, product, 1, "tf32", 4, l2)["us"]

    assert beside(120) == (pytest.approx(own), slowed(2, 32 - 6.4))  # 2 blocks and a warp in each quarter
    assert slowed(2, 32 - 6.4) > slowed(2, 32) > 90
    assert beside(121) == (pytest.approx(own), slowed(1, 32 - 6.4))  # one has to give way
    assert slowed(1, 32 - 6.4) > slowed(2, 32 - 6.4)
    assert beside(241) is None
    assert beside(120, 4.3e6 * 90 - 9e6) == (pytest.approx(1e5), slowed(2, 32 - 6.4 * 1e5 / own))
    assert beside(120, 4.3e6 * 90) is None  # memory has nothing left


def test_what_the_update_adds_to_a_step_by_hand(monkeypatch):
    """1000 parameters of fc7 are updated beside 4 products, 20 of conv1 after them."""
    monkeypatch.setattr(overlap, "pieces", lambda: [("fc7", 1000), ("conv1", 20)])
    order = [("conv1", "wgrad"), ("conv2", "dgrad"), ("conv2", "wgrad"), ("fc7", "dgrad"), ("fc7", "wgrad")]
    rows = [{"layer": layer, "op": f"conv2d_{op}", "us": 10.0} for layer, op in order]
    end = cycles.memory_us(20 * 20)

    def added(predicted) -> float:
        return overlap.update_us(rows, predicted, "tf32") - end

    seen = []

    def free(row):
        seen.append((row["layer"], row["op"]))
        return 1000.0, row["us"]

    assert added(free) == pytest.approx(0)  # 20 us beside conv2's 20
    assert seen == [("conv2", "conv2d_dgrad"), ("conv2", "conv2d_wgrad")]
    # For 20 us products do in 12.5 us what they do in 10: 4 us more, in which 1000 bytes a us are moved.
    assert added(lambda row: (1000.0, 12.5)) == pytest.approx(20 * (1 - 10 / 12.5))
    assert added(lambda row: (500.0, 10.0)) == pytest.approx(5000 / overlap.alone("tf32"))
    assert added(lambda row: None) == pytest.approx(20000 / overlap.alone("tf32"))


def test_products_have_the_flops_and_bytes_of_their_layers():
    shapes = {(layer, op): found for layer, op, found in alexnet.operations()}
    for op, extent in (
        ("conv2d", (128 * 27 * 27, 128, 1200)),
        ("conv2d_dgrad", (128 * 27 * 27, 48, 3200)),
        ("conv2d_wgrad", (128, 1200, 128 * 27 * 27)),
    ):
        product = predictions.product_of("conv2", op, shapes["conv2", op], "bf16", 1.0)
        assert (product.rows, product.cols, product.depth, product.batches) == (*extent, 2)
        x, w, y = 128 * 27 * 27 * 96, 256 * 25 * 48, 128 * 27 * 27 * 256
        assert product.nbytes == 2 * (x + y) + (4 if op == "conv2d_wgrad" else 2) * w


@pytest.mark.parametrize("column", ["us", "percent", "measured_us", "layer", "op", "precision"])
def test_a_missing_column_is_noticed(column):
    report = copy.deepcopy(COMMITTED)
    for row in report["products"]:
        del row[column]
    with pytest.raises(KeyError, match=column):
        render.markdown(report, REASONS)


def test_a_kernel_without_a_loop_is_noticed():
    kernels = copy.deepcopy(COMMITTED["kernels"])
    del predictions.by_stem(kernels)["conv2d_fprop_mma128x128"]["arch"]["90"]["loop"]
    with pytest.raises(KeyError, match="loop"):
        predictions.products(kernels, ROWS)


# ---- measured
def document(**changes) -> dict:
    rows = [
        {"name": "conv2", "op": "conv2d", "part": "fprop", "precision": "tf32", "error": None}
        | {"kernel": "conv2d_fprop_wgmma_halo256x128/1", "median_us": us}
        for us in (500.0, 400.0)
    ]
    other = rows[0] | {"part": "", "kernel": "x"}
    rows.append(other | {"name": "pool1", "op": "lrn_max_pool2d", "precision": "fp32"})
    rows.append(other | {"name": "alexnet", "op": "training step", "median_us": 6000.0})
    return {"machine": {"gpu": "NVIDIA H200"}, "batch": 128, "tiny": False, "rows": rows} | changes


def filled(folder, content) -> dict:
    (folder / "below").mkdir(exist_ok=True)
    (folder / "below" / "layers.json").write_text(json.dumps(content))
    return predictions.predict(COMMITTED["kernels"], ROWS, folder)


def test_measured_times_fill_their_columns(tmp_path):
    found = filled(tmp_path, {"schema": 2, "documents": [document()]})
    timed = [row for row in itertools.chain(*found.values()) if row["measured_us"]]
    own = {(row.get("layer"), row["precision"]): row for row in timed}
    assert own.keys() == {("conv2", "tf32"), ("pool1", "tf32"), ("pool1", "fp32"), (None, "tf32")}
    assert own["conv2", "tf32"]["measured_us"] == 400  # the least
    assert own["conv2", "tf32"]["ratio"] == pytest.approx(400 / own["conv2", "tf32"]["us"], abs=1e-3)
    assert own[None, "tf32"]["ratio"] == pytest.approx(6000 / own[None, "tf32"]["us"], abs=1e-3)
    page = render.markdown({**COMMITTED, **found}, REASONS)
    assert "Measured on a card" in page
    assert f"6.00 ({own[None, 'tf32']['ratio']:.2f})" in page
    assert f"400/–/– ({own['conv2', 'tf32']['ratio']:.2f}/–/–)" in page


@pytest.mark.parametrize(
    "wrong", [{"machine": {"gpu": "NVIDIA A100"}}, {"machine": {}}, {"batch": 256}, {"tiny": True}]
)
def test_other_cards_and_shapes_do_not_count(tmp_path, wrong):
    found = filled(tmp_path, document(**wrong))
    assert not any(row["measured_us"] for row in itertools.chain(*found.values()))


def test_wrong_results_do_not_count(tmp_path):
    content = document()
    for row in content["rows"]:
        row["error"] = "off"
    assert not any(row["measured_us"] for row in itertools.chain(*filled(tmp_path, content).values()))


# ---- the command
def ranked(*times: float) -> list[dict]:
    same = {"layer": "conv2", "op": "conv2d", "precision": "tf32"}
    return [same | {"row": f"row{i}", "us": us} for i, us in enumerate(times)]


def test_orders_that_differ_are_found():
    assert cycle_model.disagreements(ranked(100, 110, 200)) == []
    assert cycle_model.disagreements(ranked(104, 100, 200)) == []  # not clearly
    (row,) = cycle_model.disagreements(ranked(150, 100, 90))
    assert (row["heuristic"], row["model"], row["loss"]) == ("row0", "row2", round(150 / 90, 3))
    assert (row["pairs"], row["swapped"]) == (3, 3)


def test_costs_of_the_tiles_are_the_models():
    """Within a tenth, lest each change of an instruction be another order of kernels."""
    text = tiles.LIST.read_text()
    changed, found = cycle_model.costs(COMMITTED["kernels"], text)
    assert [row[0] for row in found] == [tile.stem for tile in tiles.TILES if "_rows" not in tile.stem]
    off = [row for row in found if abs(row[1] - row[2]) > 0.1 * row[2]]
    assert not off, "python benchmarks/cycle_model.py --costs --write"
    assert cycle_model.costs(COMMITTED["kernels"], changed)[0] == changed
    without = [re.sub(r"(?m)^(PCN_\w+\(\w+, \d+), \d+", r"\1", t) for t in (text, changed)]
    assert without[0] == without[1]


def test_efficiencies_by_hand():
    """Of three tiles, whose loops multiply 128 x 128 x 16 in so many cycles, and half of that."""
    kernels = [copy.deepcopy(KERNEL) for _ in range(3)]
    for kernel, issue in zip(kernels, (2000, 1000, 1000), strict=True):
        kernel["arch"]["90"]["loop"] = with_counts(issue=issue, alu=0, imad=0, passes=0)
    kernels[2] |= {"kernel": "k<MmaTile<128, 64, 16, 64, 32, 4, float>, 1>", "threads": 128}
    times = [(cycles**4 + 512**4 + (262144 / 1024 / 0.62) ** 4) ** 0.25 for cycles in (4000, 2000)]
    times.append((1000**4 + 384**4 + (131072 / 1024 / 0.62) ** 4) ** 0.25)
    rates = [262144 / times[0], 262144 / times[1], 131072 / times[2]]
    assert cycles.efficiencies(kernels) == [round(100 * rate / max(rates)) for rate in rates]
    assert rates[1] > 1.9 * rates[0]


def test_loops_are_put_into_the_kernels_that_have_them():
    name = "_ZN3pcn4conv16mma_fprop_kernelINS0_7MmaTileILi128ELi128ELi16ELi64ELi64ELi4EfEELi1EEEvi"
    kernels = copy.deepcopy(COMMITTED["kernels"])
    assert cycle_model.add_loops(kernels, listing((name, TENSOR), ("other", TENSOR))) == 1
    changed = [row["stem"] for row, old in zip(kernels, COMMITTED["kernels"], strict=True) if row != old]
    assert changed == ["conv2d_fprop_mma128x128"]


def test_the_command_prints_what_it_is_asked_for(tmp_path, capsys):
    assert cycle_model.main(["--only", "conv4", "--json", str(tmp_path / "p.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a training step, predicted, us"
    assert sum(line.startswith("conv4") for line in lines) == 9
    assert json.loads((tmp_path / "p.json").read_text())["steps"] == COMMITTED["steps"]
