"""The benchmarks run: every row of every family, small; nothing is asserted about time."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support import ROOT
from support.fakes.clocks_for_tests import FakeTimer

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import tuning
from pyconvnet.ops.tuning.cache import Cache

FOLDER = ROOT / "benchmarks"
FAMILIES = sorted(
    p.stem.removeprefix("bench_")
    for p in FOLDER.glob("bench_*.py")
    if p.stem not in ("bench_alexnet", "bench_graph")
)
FIELDS = {
    "name", "op", "part", "precision", "shape", "kernel", "chosen", "choice", "flops", "bytes", "median_us",
    "p20_us", "p80_us", "calls", "gflops", "gbps", "limit_us", "limited_by", "of_limit", "host_us", "peer",
    "peer_us", "ratio", "difference", "error", "bound", "peers",
}  # fmt: skip
RATES = {
    "bandwidth": 10.0,
    "flops": {"fp32": 100.0, "tf32": 800.0, "fp32x3": None, "bf16": None},
    "source": {},
}


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("harness")


def options(harness, *words: str):
    return harness.parser("test").parse_args(
        [*words, "--tiny", "--batch", "2", "--seconds", "0", "--no-peers"]
    )


def test_every_family_has_a_benchmark(harness):
    assert set(devices.emulator().ext.families) <= set(FAMILIES)
    run = importlib.import_module("run")
    assert set(run.usual()) == {*FAMILIES, "alexnet"}
    assert run.families()[:2] == ["conv", "linear"]  # where time runs out, the most important is there


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kernel_agrees_with_the_reference(harness, family):
    module = importlib.import_module(f"bench_{family}")
    document = harness.run(family, module.rows, options(harness, "--device", "emulator", "--check"))
    assert document["rows"]
    assert harness.complaints(document["rows"]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_timing_on_the_cpu(harness, family):
    module = importlib.import_module(f"bench_{family}")
    document = harness.run(family, module.rows, options(harness, "--device", "cpu", "--calls", "3"))
    assert document["clock"] == "wall"
    assert document["schema"] == 2
    assert harness.complaints(document["rows"]) == []
    for row in document["rows"]:
        assert set(row) == FIELDS
        assert row["p20_us"] <= row["median_us"] <= row["p80_us"]
        assert row["of_limit"] > 0
        assert row["limited_by"] in ("memory", "arithmetic")
    json.dumps(document, allow_nan=False)
    assert harness.report(document["rows"]).count("\n") == len(document["rows"])


def test_full_size_rows_are_alexnets(harness):
    convs = list(harness.alexnet_convs(128))
    weights = sum(math.prod(s.w) + s.w[0] for s in convs)
    weights += sum(math.prod(s.w) + s.w[0] for s in harness.alexnet_linears(128))
    assert weights == 60_965_224  # the paper's network
    for s in (*convs, *harness.alexnet_convs(2, tiny=True)):
        (n, h, _, c), (k, r, _, group), (top, bottom) = (
            s.x,
            s.w,
            s.pad[0] if isinstance(s.pad, tuple) else (s.pad,) * 2,
        )
        p = (h + top + bottom - r) // s.stride + 1
        assert s.y == (n, p, p, k)
        assert group * s.groups == c
        assert s.flops == 2.0 * n * p * p * k * r * r * group
    for s in (*harness.alexnet_pools(128), *harness.alexnet_pools(2, tiny=True)):
        p = (s.x[1] - s.size) // s.stride + 1
        assert s.y == (s.x[0], p, p, s.x[3])


def test_a_kernel_that_computes_something_else_fails_its_row(harness):
    row = harness.Row(
        name="broken",
        op="relu",
        inputs={"x": (3, 4)},
        call=lambda a, **kw: a["x"] * (1.01 if a["x"].dtype == np.float32 else 1),
    )
    (result,) = harness.check_row(row, devices.cpu())
    assert "against float64" in result["error"]
    row.call = lambda a, **kw: a["x"] * np.nan
    (result,) = harness.check_row(row, devices.cpu())
    assert "against float64" in result["error"]


def test_a_row_that_raises_is_reported(harness):
    def call(a, **kw):
        if a["x"].dtype == np.float32:
            raise ValueError("relu: no")
        return a["x"]

    row = harness.Row(name="broken", op="relu", inputs={"x": (3, 4)}, call=call)
    clock = harness.clock_of(devices.cpu(), 0, 3)
    (result,) = harness.time_row(row, devices.cpu(), clock, RATES)
    assert result["error"] == "ValueError: relu: no"
    assert result["median_us"] is None
    assert harness.complaints([result]) == ["broken relu fp32 cpu: ValueError: relu: no"]


def test_limits(harness):
    assert harness.limit_seconds(200, 10, RATES) == 2  # arithmetic decides
    assert harness.limit_seconds(0, 50, RATES) == 5  # memory decides
    assert harness.limit_seconds(200, 10, RATES, "tf32") == 1  # which has its own rate
    assert harness.limit_seconds(200, 10, RATES, "bf16") is None
    assert harness.limit_seconds(0, 10, RATES, "bf16") == 1
    assert harness.spread([3, 1, 2, 5, 4, 6]) == (3.5, 2, 5)
    found = harness.figures([4.0, 4.0, 4.0], None, 200, 10, RATES)
    assert (found["limited_by"], found["of_limit"]) == ("arithmetic", 0.5)
    assert harness.figures([4.0], None, 200, 10, RATES, "tf32")["limited_by"] == "memory"


def test_rates_that_were_not_measured_are_the_data_sheets_and_say_so(harness):
    clocks = importlib.import_module("clocks")
    known = clocks.no_limits()
    known["flops"]["fp32"] = 60e12
    known["source"] = {"fp32": "measured: so"}
    filled = clocks.fill_from_data_sheet(known, "NVIDIA H200")
    assert filled["flops"] == {"fp32": 60e12, "tf32": 494.5e12, "fp32x3": 494.5e12 / 3, "bf16": 989e12}
    assert filled["source"]["fp32"] == "measured: so"
    assert filled["source"]["bf16"].startswith("DATA SHEET")
    assert clocks.fill_from_data_sheet(clocks.no_limits(), "a card nobody knows")["flops"]["bf16"] is None


def test_a_products_rate(harness):
    torch = pytest.importorskip("torch")
    clocks = importlib.import_module("clocks")
    rate = clocks.product_rate(torch, "cpu", "bfloat16", clocks.WallClock(0, 3), extent=64)
    assert 1e6 < rate < 1e15


class FakeGpu:
    """What EventClock needs of a CUDA device; notes what happens in which order."""

    kind, index = "cuda", 0

    def __init__(self):
        self.happened: list[str] = []

        def event():
            return SimpleNamespace(record=lambda: self.happened.append("event"))

        runtime = SimpleNamespace(
            cudaDevAttrL2CacheSize=38, deviceGetAttribute=lambda what, index: 60 * 2**20
        )
        cuda = SimpleNamespace(Event=event, runtime=runtime, get_elapsed_time=lambda first, last: 2.0)
        self.xp = SimpleNamespace(cuda=cuda)

    def empty(self, shape, dtype):
        flush = SimpleNamespace(memset_async=lambda value, size: self.happened.append(f"flush {size}"))
        return SimpleNamespace(data=flush, nbytes=shape[0])

    def activate(self):
        return contextlib.nullcontext()

    def synchronize(self):
        self.happened.append("wait")


@pytest.mark.parametrize("flush", [2**30, 0])
def test_events_enclose_the_call_alone(harness, flush):
    gpu = FakeGpu()
    clock = importlib.import_module("clocks").EventClock(gpu, seconds=0, calls=10, flush=flush)
    times, host = clock.measure(lambda: gpu.happened.append("call"))
    assert times == [2e-3] * 7  # milliseconds come, seconds go
    assert 0 <= host < 1
    one = [f"flush {flush}"] * bool(flush) + ["event", "call", "event", "wait"]
    assert gpu.happened == ["call"] * 3 + ["wait"] + one * 7


def test_contenders_take_turns(harness):
    gpu = FakeGpu()
    clock = importlib.import_module("clocks").EventClock(gpu, seconds=10, calls=9)
    calls = [lambda name=name: gpu.happened.append(name) for name in "abc"]
    timed = clock.contest(calls)
    assert [len(times) for times, _ in timed] == [9] * 3
    order = "".join(what for what in gpu.happened if what in "abc")
    assert order == "aaabbbccc" + "abcbcacab" * 3  # warm-up; then every round begins with the next
    flushes = [i for i, what in enumerate(gpu.happened) if what.startswith("flush")]
    assert len(flushes) == 27
    assert all(gpu.happened[i + 1 : i + 4 : 2] == ["event"] * 2 for i in flushes)


def test_a_slow_contender_does_not_hold_the_others_up(harness):
    clock = importlib.import_module("clocks").WallClock(10, 20)
    seconds = {"fast": 0.001, "slow": 0.03}
    clock.round = lambda calls: [(seconds[call()], None) for call in calls]
    fast, slow = clock.contest([lambda: "fast", lambda: "slow"])
    assert len(fast[0]) == 20
    assert len(slow[0]) == clock.least


def run(script: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(FOLDER / script), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_run_collects_and_fails_with_its_families(tmp_path):
    file = tmp_path / "new" / "all.json"
    done = run(
        "run.py",
        "pool",
        "optim",
        "--device",
        "cpu",
        "--tiny",
        "--calls",
        "3",
        "--seconds",
        "0",
        "--no-peers",
        "--json",
        str(file),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("all benchmarks ended well")
    documents = json.loads(file.read_text())["documents"]
    assert [d["family"] for d in documents] == ["pool", "optim"]
    done = run("run.py", "pool", "--device", "no-such-device", "--json", str(file))
    assert done.returncode == 1
    assert "failure" in json.loads(file.read_text())["documents"][0]
    assert run("run.py", "warp").returncode == 2


def test_whole_network(tmp_path):
    file = tmp_path / "alexnet.json"
    done = run(
        "bench_alexnet.py",
        "--device",
        "cpu",
        "--tiny",
        "--calls",
        "3",
        "--seconds",
        "0",
        "--no-peers",
        "--json",
        str(file),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [row["op"] for row in rows if row["precision"] == "tf32"] == ["training step", "inference"]
    assert all(set(row) == FIELDS and row["gflops"] > 0 for row in rows)
    assert "images/s" in done.stdout


def test_the_chosen_kernel_is_the_measured_one(harness, monkeypatch, tmp_path):
    """Named with its number of splits, first among the rows, and alone with --chosen."""
    monkeypatch.setenv("PYCONVNET_TUNE", "1")
    monkeypatch.setenv("PYCONVNET_TUNE_CACHE", str(tmp_path / "tuning.json"))
    timer = FakeTimer(lambda i, count: 1e-4 if i == 1 else 1e-3)
    tuning.configure(timer)
    try:
        module = importlib.import_module("bench_linear")
        row = next(r for r in module.rows(300, True) if r.op == "linear_wgrad" and r.precision == "fp32")
        clock = importlib.import_module("clocks").WallClock(0, 3)
        listed = row.kernels("emulator")
        with ops.on("emulator"):
            results = list(harness.time_row(row, devices.emulator(), clock, RATES))
            (alone,) = harness.time_row(row, devices.emulator(), clock, RATES, chosen=True)
    finally:
        tuning.configure()
    made = next(iter(Cache(tmp_path / "tuning.json").entries.values())).kernel
    assert made != listed[0]
    assert [r["kernel"] for r in results] == [made, *(name for name in listed if name != made)]
    assert [r["chosen"] for r in results] == [True] + [False] * (len(results) - 1)
    assert (alone["kernel"], alone["chosen"]) == (made, True)
    assert all(r["error"] is None for r in [*results, alone])
