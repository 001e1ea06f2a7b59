"""Scaling on paper: kernel times from the files that the benchmarks write."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
from support import ROOT

from pyconvnet import models
from pyconvnet.common import devices

FOLDER = ROOT / "benchmarks"
FAMILIES = ("conv", "linear", "pool", "norm", "pointwise", "loss", "optim")


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def part(name: str):
    return importlib.import_module(f"scaling.{name}" if name != "scaling_model" else name)


def h200(net=None):
    h = part("hardware")
    nodes = h.Fabric(8, h.INSIDE["nvlink4"], h.BETWEEN["ndr"], 8)
    return part("strategies").Setting(net or models.build("alexnet"), h.GPUS["h200"], nodes)


def one_gpu(where, batch: int) -> float:
    """Seconds of a step."""
    s = part("strategies")
    return s.predict(where, s.Strategy("data"), 1, batch).step


ROW = {"median_us": 100.0, "error": None, "kernel": "k"}


def document(family: str, rows: list[dict], batch: int = 128, device: str = "cuda:0") -> dict:
    return {
        "schema": 1,
        "family": family,
        "device": device,
        "clock": "cuda events",
        "batch": batch,
        "rows": rows,
    }


def benchmark_rows(family: str, batch: int = 128) -> list[dict]:
    """Rows as the family's benchmark writes them, names, shapes and work; 100 us each, and slower ones."""
    module = importlib.import_module(f"bench_{family}")
    rows = []
    for r in module.rows(batch, False):
        row = ROW | {"name": r.name, "op": r.op, "shape": r.text(), "flops": r.flops, "bytes": r.bytes or 1e8}
        row["precision"] = r.precision
        rows += [
            row,
            row | {"kernel": "slower", "median_us": 300.0},
            row | {"median_us": None, "error": "no"},
        ]
    return rows


def write(path: Path, documents: list[dict]) -> Path:
    path.write_text(json.dumps({"schema": 1, "documents": documents}))
    return path


def test_measured_kernels_replace_the_roofline(tmp_path):
    file = write(tmp_path / "run.json", [document(f, benchmark_rows(f)) for f in FAMILIES])
    where, report = part("measured").read(file, h200())
    # What the benchmarks do not time at every layer's shape comes from the nearest shape.
    near = [f"conv{i} relu_backward" for i in (2, 4, 5)] + [f"conv{i} bias_backward" for i in (2, 4, 5)]
    assert set(report.nearest) == {*near, "fc8 bias_backward"} - {
        "conv4 relu_backward",
        "conv4 bias_backward",
    }
    assert report.missing == []
    assert report.step_us is None
    layers = {layer["name"]: layer for layer in part("scaling_model").layer_times(where, 128)}
    assert layers["conv1"]["forward_us"] == pytest.approx(100)  # the fastest kernel
    assert layers["conv1"]["backward_us"] == pytest.approx(300)  # relu, wgrad, bias
    assert layers["fc6"]["backward_us"] == pytest.approx(400)
    assert one_gpu(where, 128) == pytest.approx(1e-6 * report.layers_us)
    # Twice the batch: the ratio to the roofline stays.
    assert one_gpu(where, 256) > 1.5e-6 * report.layers_us


def test_rows_of_another_precision_are_not_taken(tmp_path):
    """TF32's products for a network in TF32, with float32's everything else; float32's alone for float32."""
    rows = {f: benchmark_rows(f) for f in FAMILIES}
    for row in (row for found in rows.values() for row in found if row["precision"] != "fp32"):
        row["median_us"] = row["median_us"] and {"tf32": 10.0, "fp32x3": 20.0, "bf16": 1.0}[row["precision"]]
    file = write(tmp_path / "run.json", [document(f, found) for f, found in rows.items()])
    for precision, product in (("fp32", 100), ("tf32", 10)):
        setting = dataclasses.replace(h200(), precision=precision)
        where, _ = part("measured").read(file, setting)
        layers = {layer["name"]: layer for layer in part("scaling_model").layer_times(where, 128)}
        assert layers["conv3"]["forward_us"] == pytest.approx(product)
        assert layers["norm1"]["forward_us"] == pytest.approx(100)


def test_measured_step_sets_the_scale(tmp_path):
    flops = 128 * 2 * (3 * 724_406_816 - 105_415_200)
    step = ROW | {
        "name": "alexnet",
        "op": "training step",
        "shape": "batch 128",
        "flops": flops,
        "bytes": None,
    }
    other = step | {"median_us": 1.0, "flops": flops / 2}  # a network of that name with other layers
    file = write(tmp_path / "run.json", [document("alexnet", [step | {"median_us": 7000.0}, other])])
    where, report = part("measured").read(file, h200())
    assert one_gpu(where, 128) == pytest.approx(7000e-6)
    assert report.step_us == 7000
    kernels = sum(len(work.forward) + len(work.backward) for work in where.works)
    assert len(report.missing) == kernels + 1  # no kernel is in the file, nor the update; and it says so
    assert "conv1 conv2d" in report.text()
    assert "update sgd_momentum" in report.text()


def test_a_real_file_of_bench_alexnet(tmp_path):
    harness, clocks = importlib.import_module("harness"), importlib.import_module("clocks")
    bench = importlib.import_module("bench_alexnet")
    clock, rates, args = clocks.WallClock(0, 3), clocks.no_limits("a test"), harness.parser("").parse_args([])
    content = harness.header("alexnet", devices.cpu(), args, 2, clock, rates)
    content["rows"] = list(bench.rows(harness.Rivals(), devices.cpu(), 2, True, "fp32", clock, rates))
    file = tmp_path / "alexnet.json"
    file.write_text(json.dumps(content))
    where, report = part("measured").read(file, h200(bench.network(tiny=True)))
    assert 1e6 * one_gpu(where, 2) == pytest.approx(content["rows"][0]["median_us"])
    assert report.device == "cpu"
    with pytest.raises(ValueError, match=r"no row at the shapes of 'alexnet' \(was it made with --tiny"):
        part("measured").read(file, h200())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is no JSON"),
        ("[]", "holds no benchmark with rows"),
        ('{"benchmark": "cpu_vs_pytorch"}', "holds no benchmark with rows"),
        (
            json.dumps(document("conv", [ROW], device="emulator")),
            "emulator, whose times say nothing about a GPU",
        ),
        (
            json.dumps({"documents": [document("conv", [ROW]), document("pool", [ROW], batch=64)]}),
            r"batch must be the same throughout, got \[64, 128\]",
        ),
    ],
)
def test_bad_measured_files(tmp_path, content, message):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        part("measured").read(file, h200())
    with pytest.raises(ValueError, match="cannot be read"):
        part("measured").read(tmp_path / "none.json", h200())


def test_groups_tell_kernels_apart(tmp_path):
    """Rows of the same shapes with other multiply-adds (one group for two, say) are no measurement."""
    rows = [row | {"flops": 2 * row["flops"]} for row in benchmark_rows("conv")]
    file = write(
        tmp_path / "run.json", [document("conv", rows), document("linear", benchmark_rows("linear"))]
    )
    _, report = part("measured").read(file, h200())
    assert "fc6 linear" in report.matched
    assert "conv2 conv2d" in report.nearest
