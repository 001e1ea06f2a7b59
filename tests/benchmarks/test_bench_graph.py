"""The benchmark of CUDA graphs runs: on the host, and on CUDA devices that are not there (``fake_cuda``)."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT
from support.fakes.fake_cuda import Machine

from pyconvnet import ops

FOLDER = ROOT / "benchmarks"
RATES = {"bandwidth": None, "flops": {"fp32": None}, "source": {}}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("bench_graph")


def compare(bench, machine, clock=None):
    """All rows on the machine's devices."""
    net = bench.network(tiny=True)
    batches = bench.Batches(net, 2, margin=8)
    lists = bench.splits(machine.device(0))
    return [row for places in lists for row in bench.rows(net, places, batches, clock, RATES)]


@pytest.mark.parametrize("count", [1, 2])
def test_replayed_steps_leave_the_same_bits(bench, monkeypatch, count):
    machine = Machine(count, peer=False, seed=4).install(monkeypatch)
    found = compare(bench, machine)
    names = ["cuda:0", "cuda:0, cuda:0", "cuda:0, cuda:1"][: count + 1]
    assert [row["shape"] for row in found] == [f"batch 2 on {n}" for n in names for _ in range(2)]
    assert [row["kernel"] for row in found] == ["as issued", "graph replayed"] * len(names)
    assert all(row["error"] is None and row["difference"] == 0 for row in found)


def test_times(bench, monkeypatch):
    machine = Machine(1, seed=4).install(monkeypatch)
    net = bench.network(tiny=True)
    clock = bench.StepsClock(0, 1)
    found = bench.rows(net, [machine.device(0)], bench.Batches(net, 2, 8), clock, RATES)
    assert [row["op"] for row in found] == ["training step", "step and feeding"] * 2
    assert all(row["error"] is None and 0 < row["host_us"] < row["median_us"] for row in found)
    assert len(bench.speedups(found)) == 2
    json.dumps(found, allow_nan=False)


def test_other_bits_are_reported(bench, monkeypatch):
    """A step that does something else when it is replayed."""
    machine = Machine(1).install(monkeypatch)
    original = ops.sgd_momentum

    def other(w, v, g, **named):
        original(w, v, g, **named)

        def when_captured():
            if machine.capturing():
                ops.add(w, w, alpha=1 + 1e-6, beta=0.0, out=w)

        ops.perform(when_captured)

    monkeypatch.setattr(ops, "sgd_momentum", other)
    net = bench.network(tiny=True)
    issued, replayed = bench.rows(net, [machine.device(0)], bench.Batches(net, 2, 8), None, RATES)
    assert issued["error"] is None
    assert "differs from the step as issued in" in replayed["error"]
    assert replayed["difference"] > 0


def test_a_step_that_is_not_captured_is_reported(bench, monkeypatch):
    machine = Machine(1).install(monkeypatch)
    original = ops.max_pool2d

    def allocates(*args, **named):
        ops.perform(lambda: machine.xp.empty(3))
        return original(*args, **named)

    monkeypatch.setattr(ops, "max_pool2d", allocates)
    net = bench.network(tiny=True)
    issued, replayed = bench.rows(net, [machine.device(0)], bench.Batches(net, 2, 8), None, RATES)
    assert issued["error"] is None
    assert "without a CUDA graph" in replayed["error"]
    assert "must not allocate" in replayed["error"]


def test_difference(bench):
    a = {"x": np.array([1, 2], np.float32), "y": np.array([0.0])}
    assert bench.difference(a, {k: v.copy() for k, v in a.items()}) == (0.0, None)
    gap, complaint = bench.difference({**a, "x": a["x"] + 1}, a)
    assert gap == 1
    assert complaint == "differs from the step as issued in 1 arrays, first x"
    assert bench.difference({**a, "y": np.array([-0.0])}, a)[1] is not None


def test_the_command_on_the_host(tmp_path):
    file = tmp_path / "new" / "graph.json"
    words = [
        "--device",
        "cpu",
        "--tiny",
        "--batch",
        "2",
        "--calls",
        "1",
        "--seconds",
        "0",
        "--json",
        str(file),
    ]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "bench_graph.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("cpu has no CUDA graphs; steps as issued run\n")
    document = json.loads(file.read_text())
    assert [(r["shape"], r["op"]) for r in document["rows"]] == [
        (f"batch 2 on {places}", op)
        for places in ("cpu", "cpu, cpu")
        for op in ("training step", "step and feeding")
    ]
    assert all(r["median_us"] > 0 and r["error"] is None for r in document["rows"])
