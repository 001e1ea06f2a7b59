"""Choosing kernels by measuring: rules, clock, cache. With a clock that says what the test wants."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from support.fakes.fake_cuda import Machine, on_device
from support.helpers import same_bits

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import core, tuning
from pyconvnet.ops.launch import Launch
from pyconvnet.ops.tuning import cache as caches
from pyconvnet.ops.tuning import candidates as rules
from pyconvnet.ops.tuning.measure import MAX_ROUNDS, MIN_ROUNDS, measure

X, W = (2, 12, 12, 16), (32, 3, 3, 16)
KEY = "n=2 x=12x12 c=16 k=32 filter=3x3 y=12x12 stride=1x1 pad=1x1 groups=1"


def arrays(seed: int = 0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in (X, W)]


def call(op="conv2d", direction="fprop", precision=0, **changes) -> Launch:
    fields = {"n": 2, "h": 12, "w": 12, "c": 16, "k": 32, "r": 3, "s": 3, "p": 12, "q": 12}
    fields |= {"pad_h": 1, "pad_w": 1, "capability": 90, "precision": precision} | changes
    dev = devices.emulator()
    return Launch(op, dev, f"conv2d_{direction}", dev.ext.Conv2dShape(**fields), (), with_workspace=True)


def entries(path) -> list[dict]:
    return json.loads(Path(path).read_text())["entries"]


# ---- which are worth timing --------------------------------------------------------------------------------
BIG = {"n": 128, "h": 13, "w": 13, "c": 256, "k": 384, "p": 13, "q": 13}


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("precision", [0, 1, 2, 3])
def test_rules(direction, precision):
    made = call("x", direction, precision, **BIG)
    names = rules.candidates(made)
    stems = {name.partition("/")[0] for name in names}
    assert names[0] == made.rows[0][0]
    assert len(names) == len(set(names)) <= rules.MOST + 1
    assert all(made.applies(name) for name in names)
    assert not any(name.endswith("generic") for name in names)
    costs = made.costs(0)
    parsed = [core.parse_kernel("x", name) for name in names]
    least = min(made.costs(splits)[name] for name, splits in parsed)
    assert {s for s in stems if costs[s] > 2 * rules.COST_FACTOR * least} == set()
    for name, splits in parsed:
        if splits:
            assert splits != made.splits(name)
            assert splits <= 1 or made.terms // splits >= rules.MIN_SPLIT_TERMS
            assert made.workspace_bytes(name, splits) <= rules.MAX_SPLITS_BYTES
    wgmma = precision in (1, 3) and direction != "wgrad"
    assert any(splits == core.STREAM_K for _, splits in parsed) == wgmma
    assert len(names) >= 3
    assert any("/" in name for name in names)


def test_tensor_cores_leave_no_ffma_kernel_worth_timing():
    names = rules.candidates(call(precision=1, **BIG))
    assert all("mma" in name for name in names)


def test_the_general_kernel_is_timed_where_nothing_else_applies():
    made = call(c=5)
    assert {name.partition("/")[0] for name in rules.candidates(made)} == {"conv2d_fprop_generic"}


def test_pieces_are_found_out():
    made = call("x", "wgrad", **BIG)
    for name, nbytes in made.rows:
        assert made.workspace_bytes(name, made.splits(name)) == nbytes


def test_libraries_are_always_timed():
    made = call(**BIG)
    made.rows, made.libraries = [*made.rows, ("cublas", 0)], {"cublas": lambda *args: None}
    assert "cublas" in rules.candidates(made)
    made.rows = [made.rows[-1], *made.rows[:-1]]
    assert rules.candidates(made)[0] == "cublas"
    assert made.applies("cublas")
    assert not made.applies("cublas/2")
    made = call(c=5)  # the general kernel alone of ours
    made.rows, made.libraries = [("cublas", 0), *made.rows], {"cublas": lambda *args: None}
    assert rules.candidates(made) == ["cublas"]


# ---- the clock ---------------------------------------------------------------------------------------------
def works(*names, fail=()):
    def work(name):
        if name in fail:
            raise RuntimeError(f"{name}: too many resources requested for launch")

    return {name: (lambda name=name: work(name)) for name in names}


def timed(times: dict, seconds=1e9, fail=(), now=None):
    """Measure with constant (or listed) times by name."""
    done = []

    class Timer:
        def round(self, called):
            names = [next(n for n, w in all_works.items() if w is c) for c in called]
            done.append(names)
            value = [times[n] if np.isscalar(times[n]) else times[n][len(done) - 1] for n in names]
            for c in called:
                c()
            return value

    all_works = works(*times, fail=fail)
    ticks = itertools.count() if now is None else now
    return measure(all_works, Timer(), lambda: None, seconds, lambda: next(ticks)), done


def test_slow_ones_are_dropped_early_and_the_fastest_wins():
    found, done = timed({"a": 10.0, "b": 1.0, "c": 1.1, "d": 2.5, "e": 1.9})
    assert found.kernel == "b"
    assert found.seconds == {"a": 10.0, "b": 1.0, "c": 1.1, "d": 2.5, "e": 1.9}
    assert done[0] == ["a", "b", "c", "d", "e"]
    assert done[1] == ["a", "b", "c", "e"]  # a is the heuristic's, spared to tell the gain
    assert done[2] == ["a", "b", "c"]
    assert done[3] == ["b", "c"]
    assert len(done) == MAX_ROUNDS


def test_the_median_counts():
    found, _ = timed({"a": [1.0, 9.0, 1.0] + [1.0] * 30, "b": [0.9, 1.15, 1.15] + [1.15] * 30})
    assert found.kernel == "a"


def test_equal_times_leave_the_heuristics_choice():
    assert timed({"a": 1.005, "b": 1.0})[0].kernel == "a"
    assert timed({"a": 1.05, "b": 1.0})[0].kernel == "b"


def test_time_is_limited():
    _, done = timed({"a": 1.0, "b": 1.0}, seconds=0.5)  # a tick a look
    assert len(done) == MIN_ROUNDS


def test_what_cannot_run_is_left_out_with_its_reason():
    found, done = timed({"a": 1.0, "b": 0.1, "c": 2.0}, fail=("b",))
    assert found.kernel == "a"
    assert found.failed == {"b": "b: too many resources requested for launch"}
    assert all("b" not in names for names in done)
    found, _ = timed({"a": 1.0}, fail=("a",))
    assert (found.kernel, found.seconds, list(found.failed)) == (None, {}, ["a"])


# ---- a call ------------------------------------------------------------------------------------------------
def test_first_use_measures_and_the_next_process_remembers(clock, tmp_path):
    timer = clock()
    x, w = arrays()
    before = [a.copy() for a in (x, w)]
    with ops.on("emulator"):
        y = ops.conv2d(x, w, pad=1)
        made = ops.choice("conv2d", X, W, pad=1, device="emulator")
        assert (made.source, made.shape, made.precision) == ("measured", KEY, "fp32")
        assert made.kernel == list(made.tried)[2]
        assert made.gain == pytest.approx(10)
        assert same_bits(y, ops.conv2d(x, w, pad=1, kernel=made.kernel))
        assert not same_bits(y, ops.conv2d(x, w, pad=1, kernel=made.heuristic)) or "/" not in made.kernel
        rounds = len(timer.rounds)
        ops.conv2d(x, w, pad=1)
        assert len(timer.rounds) == rounds
    assert all(map(same_bits, before, (x, w)))
    (entry,) = entries(tmp_path / "tuning.json")
    assert (entry["card"], entry["op"], entry["shape"]) == ("emulator", "conv2d", KEY)
    assert (entry["kernel"], entry["heuristic"]) == (made.kernel, made.heuristic)
    assert entry["tried"] == made.tried

    again = clock(lambda i, count: 1.0)  # another process: what it knows it has from the file
    with ops.on("emulator"):
        assert same_bits(y, ops.conv2d(x, w, pad=1))
    assert again.rounds == []
    made = ops.choice("conv2d", X, W, pad=1, device="emulator")
    assert made.source == "cache"
    assert str(made).startswith(f"conv2d {KEY} fp32: {made.kernel} (cache, 100.0 us, 10.00x ")


def test_every_operation_with_a_choice(clock):
    """Each is timed on scratch arrays: nothing of the caller's is written but the result."""
    clock()
    rng = np.random.default_rng(0)
    x, w = arrays()
    dy = rng.standard_normal((2, 12, 12, 32)).astype(np.float32)
    flat, weights = (rng.standard_normal(s).astype(np.float32) for s in ((40, 136), (72, 136)))
    grad = rng.standard_normal((40, 72)).astype(np.float32)
    labels, metrics = np.zeros(40, np.int32), np.zeros(4)
    with ops.on("emulator"):
        for op, arguments in {
            "conv2d": (x, w),
            "conv2d_dgrad": (dy, w, X),
            "conv2d_wgrad": (dy, x, W),
            "linear": (flat, weights),
            "linear_dgrad": (grad, weights),
            "linear_wgrad": (grad, flat),
            "lrn": (x,),
            "softmax": (grad,),
        }.items():
            options = {"pad": 1} if op.startswith("conv") else {}
            first, second = (getattr(ops, op)(*arguments, **options) for _ in range(2))
            shapes = [a if isinstance(a, tuple) else a.shape for a in arguments]
            if op in ("conv2d_dgrad", "conv2d_wgrad"):
                shapes = [X, W]
            elif op.startswith("linear"):
                shapes = [flat.shape, weights.shape]
            made = ops.choice(op, *shapes, device="emulator", **options)
            assert made.source == "measured", op
            assert made.kernel != made.heuristic or len(made.tried) < 3
            for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (first, second)), strict=True):
                assert same_bits(a, b), op
        ops.softmax_cross_entropy(grad, labels, metrics=metrics)
    assert metrics[0] == 40  # counted once, not by the rounds


def test_in_place_stays_in_place():
    made = call()
    x = np.ones((3, 4), np.float32)
    made.args = (x, x, x[1:], np.zeros(2, np.int32), 7, None)
    seen = []
    dev = devices.Device("emulator", 0, np, type("Ext", (), {})())
    dev.ext.conv2d_fprop = lambda *args: seen.append(args)
    dev.ext.conv2d_fprop_kernels = devices.emulator().ext.conv2d_fprop_kernels
    made.dev = dev
    for work in made.on_scratch_arrays([made.rows[0][0]]).values():
        work()
    ((_, _, a, b, c, labels, number, nothing, *_),) = seen
    assert a is b
    assert a is not x
    assert not np.shares_memory(a, c)
    assert np.isfinite(a).all()
    assert len(np.unique(a)) == a.size
    assert (labels.tolist(), number, nothing) == ([0, 0], 7, None)


def test_a_forced_kernel_is_not_measured(clock):
    timer = clock()
    x, w = arrays()
    with ops.on("emulator"):
        ops.conv2d(x, w, pad=1, kernel="conv2d_fprop_tile32")
    assert timer.rounds == []
    made = ops.choice("conv2d", X, W, pad=1, kernel="conv2d_fprop_tile32/2", device="emulator")
    assert (made.source, made.kernel) == ("forced", "conv2d_fprop_tile32/2")
    with pytest.raises(ValueError, match="does not apply"):
        ops.choice("conv2d", X, W, pad=1, kernel="conv2d_fprop_tile32/7", device="emulator")


def test_without_a_clock_the_heuristic_chooses(monkeypatch, tmp_path):
    monkeypatch.setenv("PYCONVNET_TUNE", "1")
    monkeypatch.setenv("PYCONVNET_TUNE_CACHE", str(tmp_path / "tuning.json"))
    made = ops.choice("conv2d", X, W, pad=1, device="emulator")
    assert (made.source, made.reason) == ("heuristic", "emulator is not measured")
    x, w = arrays()
    with ops.on("emulator"):
        assert same_bits(ops.conv2d(x, w, pad=1), ops.conv2d(x, w, pad=1, kernel=made.kernel))
    assert not (tmp_path / "tuning.json").exists()


def test_modes(clock, monkeypatch):
    timer = clock()
    x, w = arrays()
    with ops.on("emulator"):
        for value, source in (("0", "PYCONVNET_TUNE=0"), ("read", "not in the caches")):
            monkeypatch.setenv("PYCONVNET_TUNE", value)
            tuning.forget()
            ops.conv2d(x, w, pad=1)
            made = ops.choice("conv2d", X, W, pad=1, device="emulator")
            assert (made.source, made.reason) == ("heuristic", source)
            assert timer.rounds == []
        monkeypatch.setenv("PYCONVNET_TUNE", "1")
        tuning.forget()
        ops.conv2d(x, w, pad=1)
        assert timer.rounds
        monkeypatch.setenv("PYCONVNET_TUNE", "read")
        tuning.forget()
        assert ops.choice("conv2d", X, W, pad=1, device="emulator").source == "cache"
        monkeypatch.setenv("PYCONVNET_TUNE", "yes")
        with pytest.raises(ValueError, match="PYCONVNET_TUNE must be 0, 1 or read, got 'yes'"):
            ops.conv2d(x, w, pad=1)
        monkeypatch.setenv("PYCONVNET_TUNE", "1")
        for bad in ("fast", "0", "-1", "inf", "nan"):
            monkeypatch.setenv("PYCONVNET_TUNE_SECONDS", bad)
            with pytest.raises(ValueError, match="PYCONVNET_TUNE_SECONDS must be a positive number"):
                ops.conv2d(x, w)


def test_when_measuring_fails_the_call_is_made(clock, caplog):
    def broken(i, count):
        raise MemoryError("out of memory allocating 4 bytes")

    clock(broken)
    x, w = arrays()
    with ops.on("emulator"):
        y = ops.conv2d(x, w, pad=1)
        assert same_bits(
            y, ops.conv2d(x, w, pad=1, kernel=ops.kernels("conv2d", X, W, pad=1, device="emulator")[0])
        )
    assert "not measured: out of memory" in caplog.text
    assert "measuring failed" in ops.choice("conv2d", X, W, pad=1, device="emulator").reason


def test_shapes_do_not_share_choices(clock):
    """Everything that changes which kernel is best, or applies, is in the key."""
    timer = clock()
    x, w = arrays()
    rounds = []
    storage = np.concatenate([np.zeros(1, np.float32), x.ravel()])
    with ops.on("emulator"):
        for run in (
            lambda: ops.conv2d(x, w, pad=1),
            lambda: ops.conv2d(x, w),
            lambda: ops.conv2d(x[:1], w, pad=1),
            lambda: ops.conv2d(x, w, pad=1, precision="tf32"),
            lambda: ops.conv2d(x, w, stride=2, pad=1),
        ):
            before = len(timer.rounds)
            run()
            rounds.append(len(timer.rounds) - before)
        assert all(rounds)
        ops.conv2d(storage[1:].reshape(X), w, pad=1)  # unaligned: its kernels are not the aligned ones
    assert len(caches.Cache().entries) >= len(rounds)


# ---- CUDA --------------------------------------------------------------------------------------------------
@pytest.fixture
def machine(monkeypatch, clock):
    clock()
    return Machine(1).install(monkeypatch)


def test_on_cuda_arrays(machine, clock, tmp_path):
    x, w = (on_device(machine, a) for a in arrays())
    y = ops.conv2d(x, w, pad=1)
    (entry,) = entries(tmp_path / "tuning.json")
    assert (entry["card"], entry["capability"]) == ("not a GPU", "9.0")
    want, plain = arrays()
    with ops.on("emulator"):
        assert same_bits(y.get(), ops.conv2d(want, plain, pad=1, kernel=entry["kernel"]))


def test_nothing_is_measured_while_a_graph_is_captured(machine, tmp_path):
    x, w = (on_device(machine, a) for a in arrays())
    out = machine.device().empty((2, 12, 12, 32))
    scratch = machine.device().empty((1 << 20,), np.uint8)
    workspace = type("W", (), {"get": lambda self, nbytes: scratch[:nbytes]})()
    stream = machine.xp.cuda.Stream()
    with stream:
        stream.begin_capture()
        ops.conv2d(x, w, pad=1, out=out, workspace=workspace)
        stream.end_capture()
    assert not (tmp_path / "tuning.json").exists()
    ops.conv2d(x, w, pad=1)  # and afterwards it is
    assert len(entries(tmp_path / "tuning.json")) == 1
