"""The script that times calls on tiny arrays: its rows, and that a plan's launches are all counted."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
from support import ROOT

from pyconvnet import get_device

OPERATIONS = {"conv2d", "conv2d_dgrad", "conv2d_wgrad", "linear", "relu", "add", "max_pool2d", "lrn"}


@pytest.fixture
def overhead(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("overhead")


def test_every_operation_is_timed_on_both_devices(overhead, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PYCONVNET_NUM_THREADS", "1")
    out = tmp_path / "overhead.json"
    monkeypatch.setattr(sys, "argv", ["overhead.py", "--rounds", "2", "--calls", "1", "--json", str(out)])
    overhead.main()
    document = json.loads(out.read_text())
    rows = {(row["operation"], row["on"]): row for row in document["rows"]}
    for device in ("cpu", "emulator"):
        assert {op for op, on in rows if on == device} >= OPERATIONS
    assert all(row["median_us"] > 0 for row in rows.values())
    assert rows["conv2d", "cpu"]["limit_us"] == 20
    assert rows["relu", "emulator"]["limit_us"] == 10
    assert rows["launch in a plan", "emulator"]["limit_us"] == 3
    step = rows["step of a plan, without kernels", "emulator"]["median_us"]
    per_launch = rows["launch in a plan", "emulator"]["median_us"]
    assert per_launch == pytest.approx(step / document["launches_a_step"], rel=1e-2, abs=1e-2)
    printed = capsys.readouterr().out
    assert f"{document['launches_a_step']} launches" in printed


def test_the_launches_of_a_step_are_those_of_its_kernels(overhead):
    ext = get_device("emulator").ext
    before = {name: getattr(ext, name) for name in dir(ext)}
    # 5 convolutions and 3 fully connected layers, three products each; the images want no gradient
    assert overhead.launches() >= 8 * 3 - 1
    assert {name: getattr(ext, name) for name in dir(ext)} == before
