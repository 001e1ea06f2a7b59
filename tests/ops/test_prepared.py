"""Operations are prepared once: later calls of the same kind give the same bits and the same errors."""

from __future__ import annotations

import gc
import importlib
import threading
import weakref

import numpy as np
import pytest
from support.kernels import op_calls
from support.networks import batch, everything

from pyconvnet import ops
from pyconvnet.common import checks
from pyconvnet.ops import core, operation
from pyconvnet.plan import Plan

DEVICES = ("cpu", "emulator")
CALLS = op_calls.calls()


@pytest.fixture(autouse=True)
def afresh():
    operation.forget()
    yield
    operation.forget()


def whole_call(op: str) -> dict:
    """A call with every output given."""
    arguments = op_calls.calls()[op]
    if op not in op_calls.IN_PLACE:
        made = op_calls.outputs(op, op_calls.run(op, op_calls.calls()[op]))
        arguments["out"] = op_calls.out(op, {name: np.zeros_like(a) for name, a in made.items()})
    return arguments


def written(op: str, arguments: dict, result) -> dict[str, bytes]:
    """The bytes of everything a call writes."""
    found = op_calls.outputs(op, result) | {n: arguments[n] for n in op_calls.UPDATED.get(op, ())}
    return {name: array.tobytes() for name, array in found.items()}


def outcome(op: str, arguments: dict) -> tuple:
    """What a call comes to: what it has written, or its error."""
    try:
        return "written", written(op, arguments, op_calls.run(op, arguments))
    except (TypeError, ValueError) as error:
        return type(error), str(error)


def spoiled(op: str) -> list[dict]:
    """Spoil one array of the call at a time: read-only, shifted, longer, strided, of another dtype,
    masked, or one that shares memory with what is written.
    """
    arguments = whole_call(op)
    outs = arguments.get("out")
    outs = () if outs is None else outs if isinstance(outs, tuple) else (outs,)
    names = op_calls.SEVERAL.get(op, ("out",))[: len(outs)]
    everywhere = op_calls.inputs(arguments) | dict(zip(names, outs, strict=True))
    everywhere.pop("out", None) if op in op_calls.SEVERAL else None
    found = []
    for name, array in everywhere.items():
        frozen = array.copy()
        frozen.flags.writeable = False
        shifted = np.zeros(array.nbytes + array.itemsize, np.uint8)[1 : array.nbytes + 1]
        others = [
            frozen,
            shifted.view(array.dtype).reshape(array.shape) if array.shape else array.copy(),
            np.concatenate([array, array]) if array.ndim else array.reshape(1),
            np.repeat(array, 2, -1)[..., ::2] if array.ndim else array.reshape(1, 1),
            array.astype(np.float16),
            np.ma.masked_array(array.copy(), mask=False),
            *(other for key, other in everywhere.items() if key != name and other.shape == array.shape),
        ]
        for other in others:
            if name in names:
                changed = tuple(other if n == name else o.copy() for n, o in zip(names, outs, strict=True))
                found.append(arguments | {"out": changed if op in op_calls.SEVERAL else changed[0]})
            else:
                found.append(op_calls.replaced(arguments, {name: other}))
    return found


# ---- the same bits -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CALLS)
def test_a_call_of_the_same_kind_prepares_nothing_and_has_the_same_bits(op, device, monkeypatch):
    with ops.on(device):
        for make in (op_calls.calls, lambda: {op: whole_call(op)}):
            first = outcome(op, make()[op])
            kept = operation.recipes()
            with monkeypatch.context() as patch:
                patch.setattr(core, "arrays", lambda *a, **k: pytest.fail("prepared again"))
                assert outcome(op, make()[op]) == first
            assert first[0] == "written"
            assert operation.recipes() == kept


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CALLS)
def test_a_later_call_with_bad_memory_fares_like_a_first_one(op, device):
    with ops.on(device):
        good = whole_call(op)
        for first, later in zip(spoiled(op), spoiled(op), strict=True):
            operation.forget()
            want = outcome(op, first)
            outcome(op, good)
            outcome(op, good)
            assert outcome(op, later) == want


@pytest.mark.parametrize("device", DEVICES)
def test_steps_may_count_and_integers_be_of_any_dtype(device, monkeypatch):
    """What changes from call to call, and what is converted, prepares nothing anew."""
    rng = np.random.default_rng(0)
    x, b, labels = rng.standard_normal((6, 5), np.float32), np.ones(5, np.float32), rng.integers(0, 5, 6)
    images, crop = rng.integers(0, 256, (2, 9, 8, 3), np.uint8), np.array([[1, 2], [2, 0]])
    mirrors = [np.array(kind) for kind in ([True, False], [0, 3], [5, 0])]
    depth = ops.space_to_depth.Depth((3, 3), 2, ((1, 0), (0, 1)))
    w, dy = rng.standard_normal((4, 3, 3, 3), np.float32), rng.standard_normal((2, 3, 3, 4), np.float32)
    laid = np.zeros((2, *depth.shape("test", (6, 6, 3), np.float32)), np.float32)

    def calls(i: int) -> list:
        kinds = (labels.dtype, np.uint8, np.uint64, np.int16)
        crops = [np.roll(crop, i, 0).astype(kind) for kind in (np.int64, np.uint64)]
        how = {"size": (6, 6), "mean": None}
        return [
            ops.dropout(x, 0.5, 1, i),
            ops.dropout(x, 0.5, 1, step=i - 2, layer=3),
            ops.bias_relu_dropout(x, b, 0.5, step=2**32 + i),
            *(ops.softmax_cross_entropy(x, np.roll(labels, i).astype(kind)) for kind in kinds),
            *(ops.augment(images, c, m, **how) for c in crops for m in mirrors),
            *(ops.augment(images, c, mirrors[0], depth=depth, **how) for c in crops),
            *(
                ops.augment(images, c, indices=np.array([i % 2, 1], kind), **how)
                for c in crops
                for kind in kinds
            ),
            ops.space_to_depth.conv2d_depth(laid + i, w, stride=2),
            ops.space_to_depth.conv2d_depth_wgrad(dy, laid + i, w.shape, stride=2),
        ]

    with ops.on(device):
        wanted = []
        for i in range(5):
            operation.forget()
            wanted.append(calls(i))
        monkeypatch.setattr(core, "arrays", lambda *a, **k: pytest.fail("prepared again"))
        kept = operation.recipes()
        for i in range(5):
            for result, want in zip(calls(i), wanted[i], strict=True):
                made, expected = (r if isinstance(r, tuple) else (r,) for r in (result, want))
                assert [a.tobytes() for a in made] == [a.tobytes() for a in expected]
        assert operation.recipes() == kept
        monkeypatch.undo()
        for wrong in (True, 1.5):
            with pytest.raises(TypeError, match="step must be"):
                ops.dropout(x, 0.5, 1, wrong)


@pytest.mark.parametrize("device", DEVICES)
def test_converted_integers_are_looked_at_each_time(device):
    logits, images = np.zeros((2, 3), np.float32), np.zeros((2, 5, 5, 1), np.uint8)
    with ops.on(device):
        for _ in range(2):
            ops.softmax_cross_entropy(logits, np.array([0, 2]))
            ops.augment(images, np.array([[0, 0], [1, 1]]), size=(4, 4))
            for label in (3, -1, 2**32):
                with pytest.raises(ValueError, match=f"labels must be in 0 … 2, got {label} at index 1"):
                    ops.softmax_cross_entropy(logits, np.array([0, label]))
            for index in (2, -1, 2**32):
                with pytest.raises(ValueError, match=rf"indices must be in \[0, 2\), got {index} at index 0"):
                    ops.augment(images, size=(4, 4), indices=np.array([index, 0]))
            for top in (2, -1, 2**32):
                with pytest.raises(ValueError, match=rf"got top left \({top}, 0\) at index 1"):
                    ops.augment(images, np.array([[0, 0], [top, 0]]), size=(4, 4))


def test_equal_numbers_of_other_types_are_told_apart():
    x, y = np.ones((1, 4, 4, 4), np.float32), np.empty((1, 4, 4, 4), np.float32)
    ops.max_pool2d(x, 3, 1, 1)
    for wrong in (True, 1.0, (1, True)):
        with pytest.raises(TypeError, match="must be an integer"):
            ops.max_pool2d(x, 3, 1, wrong)
    ops.add(x, x, alpha=0.0, beta=0.0, out=y)
    assert not np.signbit(y).any()
    ops.add(x, x, alpha=-0.0, beta=0.0, out=y)
    assert np.signbit(y).all()


def test_in_place_and_apart_by_turns():
    for _ in range(3):
        x = np.array([-1, 2], np.float32)
        y = np.empty_like(x)
        assert ops.relu(x, out=y) is y
        assert y.tolist() == [0, 2]
        assert x.tolist() == [-1, 2]
        assert ops.add(x, x).tolist() == [-2, 4]
        assert ops.add(x, y).tolist() == [-1, 4]
        assert ops.relu(x, out=x) is x
        assert x.tolist() == [0, 2]


def test_what_arrays_hold_is_looked_at_each_time():
    logits = np.zeros((2, 3), np.float32)
    for _ in range(2):
        ops.softmax_cross_entropy(logits, np.array([0, 2], np.int32))
        with pytest.raises(ValueError, match="labels must be in 0 … 2, got 3"):
            ops.softmax_cross_entropy(logits, np.array([0, 3], np.int32))


def test_the_emulators_capability_is_looked_at_each_time(monkeypatch):
    x, w = np.ones((1, 8, 8, 16), np.float32), np.ones((16, 3, 3, 16), np.float32)
    ran = []
    with ops.on("emulator") as dev:
        launch = dev.ext.conv2d_fprop
        monkeypatch.setattr(dev.ext, "conv2d_fprop", lambda *a: (ran.append(a[0]), launch(*a)))
        for capability in ("90", "75", "90", "75"):
            monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", capability)
            ops.conv2d(x, w, precision="tf32")
    assert ran[0] == ran[2] != ran[1] == ran[3]


# ---- the recipes -------------------------------------------------------------------------------------------
def test_recipes_are_bounded_and_hold_no_arrays():
    before = operation.recipes()
    for n in range(1, operation.MOST_RECIPES + 50):
        ops.relu(np.ones(n, np.float32))
    assert operation.recipes() - before <= operation.MOST_RECIPES
    x, w = np.ones((1, 4, 4, 4), np.float32), np.ones((4, 3, 3, 4), np.float32)
    alive = [weakref.ref(x), weakref.ref(w), weakref.ref(ops.conv2d(x, w))]
    del x, w
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def test_threads_share_recipes():
    wrong, start = [], threading.Barrier(4)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        start.wait()
        for _ in range(300):
            x = rng.standard_normal(rng.integers(1, 40), dtype=np.float32)
            if not np.array_equal(ops.relu(x), np.maximum(x, 0)):
                wrong.append(x)
            if rng.integers(20) == 0:
                operation.forget()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- plans -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_of_a_plan_checks_and_prepares_nothing(device, monkeypatch):
    plan = Plan(everything(), device, 4)
    plan.feed(*batch(plan.network, 4))
    plan.step()
    called = []
    modules = [core, checks, importlib.import_module("pyconvnet.ops.arrays")]
    modules += [importlib.import_module(f"pyconvnet.ops.{name}") for name in ("launch", "operation")]
    for module in modules:
        for name, value in list(vars(module).items()):
            if callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") in (
                core.__name__, checks.__name__, "pyconvnet.ops.arrays",
            ) and name not in ("scratch", "host_device", "on", "is_array"):  # fmt: skip

                def count(*args, name=name, value=value, **options):
                    called.append(name)
                    return value(*args, **options)

                monkeypatch.setattr(module, name, count)
    for name, op in vars(ops).items():
        if hasattr(op, "prepare"):
            monkeypatch.setattr(ops, name, lambda *a, name=name, **k: called.append(name))
    plan.step()
    assert called == []


def test_prepared_once_or_at_each_step_a_plan_has_the_same_bits():
    plans = [Plan(everything(), "emulator", 4) for _ in range(2)]
    for plan in plans:
        plan.set_hyper(0.01, 0.9)
    for k in range(3):
        for plan in plans:
            plan.feed(*batch(plan.network, 4, seed=k))
        plans[0].step()
        plans[1].step()
        for program in plans[1]._programs.values():
            for calls in program._recorded.values():
                for _, _, run, *_ in calls:
                    if isinstance(run, ops.Repeated):
                        run._runs = None
    a, b = (plan.get_parameters() for plan in plans)
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
