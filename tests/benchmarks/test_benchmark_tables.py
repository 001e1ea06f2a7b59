"""The benchmark's tables and chart from made-up results, and the script for a machine with a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


# ---------------------------------------------------------------- tables, chart, what bounds a row


def result(name, part, precision, kernel, us, peer_us, **more):
    """A made-up row."""
    row = {"name": name, "op": part, "part": part, "precision": precision, "shape": "", "kernel": kernel}
    row |= {"chosen": True, "flops": 1e9, "bytes": 1e6, "median_us": us, "p20_us": us - 1, "p80_us": us + 2}
    row |= {"calls": 9, "gflops": 1.0, "gbps": 1.0, "limit_us": us / 2, "limited_by": "arithmetic"}
    row |= {"of_limit": 0.5, "host_us": 3.0, "peer": "PyTorch", "peer_us": peer_us, "difference": 1e-7}
    row |= {"ratio": peer_us / us, "error": None, "bound": None, "peers": []}
    return row | more


@pytest.fixture
def measured(load, tmp_path):
    """A made-up file of a card, and its documents."""
    bounds = load("bounds")
    lost = {"name": "cuDNN", "counts": False, "note": "its error of 3e-04 is TF32's, not float32's"}
    rows = [
        result("fc6", "wgrad", "tf32", "conv2d_wgrad_mma64x64/8", 300, 200),
        result("conv2", "fprop", "fp32", "conv2d_fprop_tile128", 100, 120, peers=[lost]),
        result("conv2", "fprop", "fp32", "conv2d_fprop_tile64", 90, 120, chosen=False),
        result("conv2", "fprop", "fp32", "conv2d_fprop_wrong", 5, 120, error="its error is 0.5"),
        result("conv2", "fprop", "tf32", "conv2d_fprop_mma128x128", 50, 30, limited_by="memory"),
        result("pool1", "max_pool2d", "fp32", "max_pool2d_generic", 10, 30),
    ]
    limits = {"bandwidth": 4.2e12, "flops": {"fp32": 6e13, "bf16": None}, "source": {"fp32": "measured: x"}}
    document = {
        "schema": 2, "family": "conv", "device": "cuda:0", "clock": "cuda events", "batch": 128,
        "machine": {"gpu": "NVIDIA H200", "cpu": "c", "nvidia_smi": {"answer": "NVIDIA H200, 580.1"}},
        "versions": {"cuda_driver": 13000}, "git": "abc", "command": "python run.py",
        "time": "2030-01-02T03:04", "tiny": False, "peers": {}, "limits": limits,
        "rows": [bounds.explain(r) for r in rows],
        "not_supported": [{"op": "lrn", "precision": "bf16", "reason": "r"}],
        "not_measured": ["fc8 fprop fp32"],
    }  # fmt: skip
    file = tmp_path / "card.json"
    file.write_text(json.dumps({"schema": 2, "documents": [document]}))
    return file, load("table").read([file])


def test_markdown(load, measured):
    text = load("table").markdown(measured[1])
    lines = text.splitlines()
    head = lines[0]
    for word in ("NVIDIA H200", "580.1", "batch 128", "2030-01-02", "commit abc", "`python run.py`"):
        assert word in head
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert [line.split(" | ")[:3] for line in rows] == [
        ["| conv2", "fprop", "fp32"],
        ["| conv2", "fprop", "tf32"],
        ["| fc6", "wgrad", "tf32"],
        ["| pool1", "max_pool2d", "fp32"],
    ]
    assert "`conv2d_fprop_tile64` \\*" in rows[0]
    assert "90.0 (89.0–92.0) | 50% | PyTorch | 120.0 | **1.33** |" in rows[0]
    assert "0.60" in rows[1]
    slow = [line for line in lines if line.startswith("* ") and "bound by" in line]
    assert slow[0].startswith("* conv2 fprop tf32: bound by memory by the roofline, of which it reaches 50%")
    assert "bound by tf32 arithmetic" in slow[1]
    assert all("occupancy" in line for line in slow)
    for what in ("its error is 0.5", "lrn bf16: not supported", "no time was left for fc8 fprop fp32"):
        assert what in text
    assert "4.20 TB/s, fp32 60.0 TFLOP/s" in text
    assert "No GPU's figures" not in text


def test_by_hand_wins(load, measured, monkeypatch):
    bounds, table = load("bounds"), load("table")
    monkeypatch.setitem(bounds.BY_HAND, ("fc6", "wgrad", "tf32"), "too few tiles")
    assert "* fc6 wgrad tf32: too few tiles" in table.markdown(measured[1])


def test_other_tables(load, measured):
    table = load("table")
    assert table.refused_peers(measured[1]) == [
        "conv2 fprop fp32: cuDNN: its error of 3e-04 is TF32's, not float32's"
    ]
    grid = table.grid(measured[1]).splitlines()
    assert grid[1].split() == ["conv2", "fprop", "90.0", "1.33", "50%", "50.0", "0.60", "50%"]
    assert "conv2d_fprop_tile64*" in table.short(measured[1])
    measured[1][0]["device"] = "emulator"
    assert "No GPU's figures" in table.markdown(measured[1])


def test_chart(load, measured, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "deep" / "chart.png"
    load("table").chart(measured[1], file)
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


@pytest.mark.parametrize(
    ("content", "message"),
    [("x", "is no JSON"), ("[]", "no benchmark"), ('{"schema": 1, "family": "a", "rows": [1]}', "schema")],
)
def test_files_that_are_no_results(load, tmp_path, content, message):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        load("table").read([file])
    with pytest.raises(ValueError, match="cannot be read"):
        load("table").read([tmp_path / "none"])


# ---------------------------------------------------------------- the script for a machine with a GPU


def amounts(text: str, name: str) -> dict[str, int]:
    body = re.search(rf"declare -A {name}=\((.*?)\)", text, re.DOTALL).group(1)
    return {part: int(seconds) for part, seconds in re.findall(r"\[(\w+)\]=(\d+)", body)}


def test_the_usual_parts_fit():
    text = (FOLDER / "on_gpu.sh").read_text()
    usual = re.search(r"^usual=\((.*)\)", text, re.MULTILINE).group(1).split()
    most, least = amounts(text, "most"), amounts(text, "least")
    whole = int(re.search(r"^whole=(\d+)", text, re.MULTILINE).group(1))
    assert most["build"] + sum(least[part] for part in usual if part != "build") <= whole < 480
    assert set(most) == set(least) == {*usual, "full", "cifar", "cutlass"}
    assert all(least[part] <= most[part] for part in usual)


def on_gpu(out: Path, *parts: str, device: str = "emulator", **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(FOLDER / "on_gpu.sh"), str(out), *parts],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ
        | {"PYCONVNET_DEVICE": device, "PYCONVNET_SITE": str(out / "site"), "PYTHON": sys.executable}
        | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        | env,
    )


def test_parts_of_the_script_on_the_emulator(tmp_path):
    options = {"PYCONVNET_ONLY": "fc8", "PYCONVNET_PEERS": "no", "PYCONVNET_CIFAR": ""}
    done = on_gpu(tmp_path, "layers", "cifar", "cutlass", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    families = [d["family"] for d in json.loads((tmp_path / "layers.json").read_text())["documents"]]
    assert families == ["conv", "linear", "block", "space_to_depth"]
    summary = (tmp_path / "summary.txt").read_text()
    assert re.search(r"^layers +ok", summary, re.MULTILINE)
    assert re.search(r"^cifar +skipped .*PYCONVNET_CIFAR", summary, re.MULTILINE)
    assert re.search(r"^cutlass +skipped .*nvidia-cutlass", summary, re.MULTILINE)
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith("fc8")
    assert "No GPU's figures" in (tmp_path / "table.md").read_text()
    drawn = (tmp_path / "speed.png").exists()
    assert drawn == (importlib.util.find_spec("matplotlib") is not None)
    assert on_gpu(tmp_path, "warp").returncode == 2


def test_what_a_failed_build_leaves(tmp_path):
    (tmp_path / "wheels").mkdir()  # none to install
    done = on_gpu(tmp_path, "layers", "build", PYCONVNET_WHEELS=str(tmp_path / "wheels"))
    assert done.returncode == 1
    summary = (tmp_path / "summary.txt").read_text().splitlines()
    assert re.match(r"build +FAILED", summary[1])
    assert re.match(r"layers +NOT RUN: nothing was built", summary[2])
    assert (tmp_path / "logs.tar.gz").exists()
    assert not (tmp_path / "layers.json").exists()
