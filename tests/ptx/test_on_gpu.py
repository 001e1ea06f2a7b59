"""benchmarks/on_gpu.sh before there is a GPU: its parts, one after the other, on the stand-in for CUDA."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest
from support import ROOT
from support.fakes import fake_ptx

from pyconvnet.common import devices

PARTS = ["emulator", "tests", "layers", "network", "kernels", "primitives", "graph", "input"]
PARTS += ["sanitizer", "train"]


def parts() -> list[str]:
    """Those that this machine can run: the build, as pip makes it without a network, wants setuptools 77."""
    try:
        recent = int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        recent = False
    return ["build", *PARTS] if recent else PARTS


def test_every_part_runs_to_its_end(runtime, tmp_path):
    """And nothing of it looks as if a card had been there."""
    if "conv" not in fake_ptx.load(runtime)[1].families:
        pytest.skip("PYCONVNET_PTX does not name a build of every family")
    site = os.path.dirname(os.path.dirname(os.path.dirname(devices.__file__)))
    environment = os.environ | {
        "PYCONVNET_DEVICE": "ptx", "PYCONVNET_PTX": str(runtime), "PYTHON": sys.executable,
        "PYCONVNET_EMULATOR": devices.emulator().ext.__file__, "PYTHONPATH": site,
        "PYCONVNET_ONLY": "fc8", "PYCONVNET_PEERS": "no", "PYCONVNET_CIFAR": "",
    }  # fmt: skip
    for name in ("PYTEST_XDIST_WORKER", "PYCONVNET_TUNE"):  # of these tests, not of the script
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", ROOT / "benchmarks" / "on_gpu.sh", tmp_path, *parts(), "cifar"],
        env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    summary = (tmp_path / "summary.txt").read_text()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    first, *lines = summary.splitlines()
    assert "stand-in for CUDA, no GPU" in first
    results = {line.split()[0]: line.split()[1] for line in lines}
    assert results == dict.fromkeys(parts(), "ok") | {"cifar": "skipped"}
    assert re.search(r"^graph .* same bits as issued after 4 steps on 2 lists", summary, re.MULTILINE)
    assert re.search(r"^tests .* \d\d+ passed", summary, re.MULTILINE)
    read = lambda name: json.loads((tmp_path / f"{name}.json").read_text())  # noqa: E731
    documents = [d for name in ("layers", "kernels") for d in read(name)["documents"]]
    documents += [read("network"), read("graph")]
    assert {d["machine"]["gpu"] for d in documents} == {fake_ptx.STAND_IN}
    assert all(d["tiny"] and not any(row["error"] for row in d["rows"]) for d in documents)
    kernels = {row["kernel"] for d in documents for row in d["rows"]}
    assert {"cublas", "captured graph", "graph replayed"} <= kernels
    assert read("input")["ratio"]["shards"] > 0
    assert read("input")["machine"]["gpu"] == fake_ptx.STAND_IN
    assert read("tuning")["entries"]
    assert "No GPU's figures" in (tmp_path / "table.md").read_text()
    predictions = read("predictions")
    assert all(row["measured_us"] is None for part in predictions.values() for row in part)
