"""Uneven classes: weights in the loss and its gradient, and balanced sampling."""

import math

import ml_dtypes
import numpy as np
import pytest
from support.kernels.placing import blank, kernels_of, place
from support.runs import events, go, small, toy, toys

from pyconvnet import ops
from pyconvnet.cli import main as cli
from pyconvnet.data import ArrayDataset, Loader
from pyconvnet.data.dataset import balanced
from pyconvnet.layers import Context, Linear, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.plan import Plan
from pyconvnet.trained import checkpoint
from pyconvnet.training.class_weights import class_weights


def by_hand(logits, labels, weights):
    """(loss of each example, dlogits for grad_scale 1) in float64."""
    x = np.asarray(logits, np.float64)
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows, w = np.arange(len(x)), np.asarray(weights, np.float64)[labels]
    losses = -np.log(p[rows, labels]) * w
    p[rows, labels] -= 1
    return losses, p * w[:, None]


# ---- the operation -----------------------------------------------------------------------------------------
@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_class_weights_in_every_kernel(dtype, any_device, run_on, rng):
    eps, rounding = 2.0**-23, 0.0 if dtype is np.float32 else 2.0**-8
    with run_on(any_device):
        for shape in [(1, 1), (5, 3), (33, 10), (20, 128), (7, 129), (3, 1000)]:
            n, classes = shape
            logits = (3 * rng.standard_normal(shape)).astype(dtype)
            labels = rng.integers(classes, size=n).astype(np.int32)
            weights = rng.uniform(0, 4, classes).astype(np.float32)
            losses, gradient = by_hand(logits, labels, weights)
            bound = 8 * eps * math.sqrt(classes)
            for kernel in kernels_of(any_device, "softmax_cross_entropy", shape):
                metrics = any_device.asarray(np.array([1.0, 2.0, 3.0, 4.0]))
                arrays = [place(any_device, a) for a in (logits, labels, weights)]
                out = blank(any_device, ()), blank(any_device, shape, dtype)
                options = {"topk": 1, "metrics": metrics, "grad_scale": 0.5, "out": out, "kernel": kernel}
                ops.softmax_cross_entropy(*arrays[:2], class_weights=arrays[2], **options)
                loss, dlogits = (any_device.to_numpy(a).astype(np.float64) for a in out)
                assert abs(loss - losses.mean()) <= bound * max(1, losses.max())
                limit = 2 * bound + rounding * np.abs(gradient)
                assert (np.abs(dlogits - 0.5 * gradient) <= limit).all()
                sums = any_device.to_numpy(metrics)
                assert sums[0] == n + 1
                assert abs(sums[1] - 2 - losses.sum()) <= n * bound * max(1, losses.max())


@pytest.mark.kernels
def test_weights_of_one_change_no_bit(any_device, run_on, rng):
    logits = place(any_device, rng.standard_normal((9, 7), np.float32))
    labels = place(any_device, rng.integers(7, size=9).astype(np.int32))
    ones = place(any_device, np.ones(7, np.float32))
    with run_on(any_device):
        for kernel in kernels_of(any_device, "softmax_cross_entropy", (9, 7)):
            plain = ops.softmax_cross_entropy(logits, labels, kernel=kernel)
            weighted = ops.softmax_cross_entropy(logits, labels, class_weights=ones, kernel=kernel)
            for a, b in zip(plain, weighted, strict=True):
                assert any_device.to_numpy(a).tobytes() == any_device.to_numpy(b).tobytes()


def test_central_differences(rng):
    logits, labels = rng.standard_normal((4, 5)), np.array([0, 3, 3, 4])
    weights = np.array([0.5, 9, 9, 2.5, 0])
    _, gradient = ops.softmax_cross_entropy(logits, labels, class_weights=weights)
    step = 1e-5
    for at in np.ndindex(logits.shape):
        moved = [logits.copy(), logits.copy()]
        for array, sign in zip(moved, (1, -1), strict=True):
            array[at] += sign * step
        high, low = (ops.softmax_cross_entropy(m, labels, class_weights=weights)[0] for m in moved)
        assert gradient[at] == pytest.approx((high - low) / (2 * step), abs=1e-9)
    assert not gradient[3].any()  # weight 0


X, Y = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("weights", "error", "match"),
    [
        (np.ones(3), TypeError, "class_weights must be float32, got float64"),
        (np.ones(3, np.int32), TypeError, "class_weights must be float32, got int32"),
        (np.ones(4, np.float32), ValueError, r"class_weights must have shape \(3,\).*got \(4,\)"),
        (np.ones((3, 1), np.float32), ValueError, r"class_weights must have shape \(3,\)"),
        (np.array([1, -1, 1], np.float32), ValueError, "class_weights must be finite and not negative"),
        (np.array([1, np.nan, 1], np.float32), ValueError, "class_weights must be finite and not negative"),
        (np.ones(6, np.float32)[::2], ValueError, "class_weights must be C-contiguous"),
        ([1.0, 1.0, 1.0], TypeError, "class_weights"),
    ],
)
def test_weights_that_make_no_sense(weights, error, match):
    with pytest.raises(error, match=match):
        ops.softmax_cross_entropy(X, Y, class_weights=weights)


# ---- layer and plan ----------------------------------------------------------------------------------------
def test_costs_weigh_in_training_alone(rng):
    layer, logits = SoftmaxCrossEntropy(weight=2.0), rng.standard_normal((4, 3))
    weights = np.array([3, 0.5, 1])
    losses, gradient = by_hand(logits, Y, weights)
    plain, _ = by_hand(logits, Y, [1, 1, 1])
    for train, want in ((True, losses), (False, plain)):
        y, saved = np.empty(()), {"gradient": np.empty((4, 3))}
        ctx = Context(train=train, total=8, labels=Y, class_weights=weights)
        layer.forward(ctx, [logits], y, {}, saved)
        assert y == pytest.approx(want.mean(), rel=1e-12)
        if train:
            assert saved["gradient"] == pytest.approx(2 / 8 * gradient, rel=1e-12)


def two_costs():
    net = Network("net", (6,)).add(Linear(5, init="he"), "body")
    net.add(Linear(3, init="he"), "three").add(SoftmaxCrossEntropy(), "a")
    return net.add(Linear(4, init="he"), "four", inputs="body").add(SoftmaxCrossEntropy(0.5), "b")


@pytest.mark.parametrize("places", [["cpu"], ["cpu", "cpu"], ["emulator"], ["emulator", "emulator"]])
def test_a_plan_gives_every_cost_its_weights(places, rng):
    x, weights = rng.standard_normal((4, 6)).astype(np.float32), np.array([2, 0.5, 3])
    plan = Plan(two_costs(), places, 4, seed=1)
    plan.feed(x, Y)
    plan.forward(train=True)
    before = plan.loss()
    plan.set_class_weights(weights)
    plan.reset_metrics()
    plan.forward()
    scores = [plan.get_output(name).astype(np.float64) for name in ("three", "four")]
    want = [by_hand(s, Y, [*weights, 1][: s.shape[1]])[0].mean() for s in scores]
    assert plan.loss() == pytest.approx(want[0] + 0.5 * want[1], rel=1e-6) != before
    assert plan.get_metrics()[:, 1] == pytest.approx([4 * w for w in want], rel=1e-6)
    plan.backward()
    gradient = 0.5 * by_hand(scores[1], Y, [*weights, 1])[1] / 4
    assert plan.get_gradients()["four.bias"] == pytest.approx(gradient.sum(0), abs=1e-6)
    plan.forward(train=False)
    assert plan.loss() == pytest.approx(before, rel=1e-6)
    with pytest.raises(ValueError, match=r"class weights must be 1 to 3 numbers for layer 'a'"):
        plan.set_class_weights(np.ones(4))


# ---- the option --------------------------------------------------------------------------------------------
def test_what_class_weights_may_be():
    labels, names = np.array([0, 0, 0, 0, 1, 1, 3, 3]), ["ant", "bee", "cat", "dog"]

    def weights(spec):
        return class_weights(spec, labels, names)

    assert weights((1, 2, 3, np.float32(0.5))) == [1, 2, 3, 0.5]
    assert weights({"dog": 2, "ant": 0}) == [0, 1, 1, 2]
    # 8 images, three classes that have any: 8/(3 4), 8/(3 2), 8/(3 2); 1 on average over the images
    assert weights("balanced") == pytest.approx([2 / 3, 4 / 3, 1, 4 / 3])
    assert np.mean(np.array(weights("balanced"))[labels]) == pytest.approx(1)
    for wrong, error, match in (
        ("even", ValueError, "class_weights must be numbers, a dict or 'balanced', got 'even'"),
        (3.0, TypeError, "class_weights must be numbers, a dict or 'balanced', got float"),
        ([1, 2], ValueError, "class_weights must be 4, one a class, got 2"),
        ({"elk": 1}, ValueError, "names the class 'elk', the data have ant, bee, cat, dog"),
        ({"bee": -1}, ValueError, "the class weight of 'bee' must not be negative"),
        ([1, 1, math.inf, 1], ValueError, "the class weight of 'cat' must be finite"),
        (["1"] * 4, TypeError, "the class weight of 'ant' must be a number"),
        ([0] * 4, ValueError, "must not all be zero"),
    ):
        with pytest.raises(error, match=match):
            weights(wrong)


def lopsided(n=120, seed=0):
    """Four classes, of which the first has most images."""
    x, y = toy(3 * n, seed=seed)
    kept = np.concatenate([np.flatnonzero(y == 0), *(np.flatnonzero(y == k)[:12] for k in (1, 2, 3))])
    return x[kept], y[kept]


def test_weighted_classes_count_in_the_loss_of_a_run(tmp_path):
    data, options = lopsided(), {"epochs": 1, "lr": 0.0, "augment": {"crop": 6, "scale": 0.02}}
    plain = go(tmp_path / "a", small(dropout=False), data, **options)
    doubled = go(tmp_path / "b", small(dropout=False), data, class_weights=[2.0] * 4, **options)
    (before,), (after,) = plain.history, doubled.history
    assert after["train_loss"] == pytest.approx(2 * before["train_loss"], rel=1e-6)
    assert after["validation_loss"] == before["validation_loss"]  # what evaluate() gives
    assert after["train_error"] == before["train_error"]
    options |= {"lr": 0.1, "epochs": 3, "class_weights": {"1": 0, "2": 0, "3": 0}}
    zero = go(tmp_path / "c", small(dropout=False), data, **options)
    assert zero.history[-1]["train_loss"] < 0.1  # whose images it has learnt to tell from nothing


def test_balanced_weights_lower_the_error_of_small_classes(tmp_path):
    data = lopsided()
    x, y = toy(200, seed=5)
    errors = {}
    ways = {"plain": {}, "weights": {"class_weights": "balanced"}, "balance": {"balance": True}}
    for name, options in ways.items():
        run = go(tmp_path / name, small(dropout=False), data, validation=(x, y), epochs=6, **options)
        errors[name] = np.mean([record["validation_error"] for record in run.history[-3:]])
    assert errors["weights"] < errors["plain"] - 0.1
    assert errors["balance"] < errors["plain"] - 0.1


def bits(out):
    model, state, arrays = checkpoint.read(out / "last.safetensors")
    return {n: v.tobytes() for n, v in {**model.parameters, **arrays}.items()}, state["options"]


@pytest.mark.parametrize("options", [{"class_weights": "balanced"}, {"balance": True}])
def test_resumed_runs_go_on_weighing_and_drawing(tmp_path, options):
    data = lopsided()
    go(tmp_path / "whole", data=data, epochs=2, **options)

    class Stop(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:  # stopped in the middle of the second epoch
        from pyconvnet.training.loop import Trainer

        save = Trainer._save

        def save_and_stop(self, reason, *best):
            save(self, reason, *best)
            if reason == "batches" and self.epoch == 1:
                raise Stop

        patch.setattr(Trainer, "_save", save_and_stop)
        with pytest.raises(Stop):
            go(tmp_path / "run", data=data, epochs=2, checkpoint_batches=2, **options)
    assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["examples"] > 0
    go(tmp_path / "run", data=data, epochs=2, resume=True)
    assert bits(tmp_path / "whole") == bits(tmp_path / "run")
    wrong = {"class_weights": [1, 1, 1, 2]} if "class_weights" in options else {"balance": False}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must stay .* in a resumed run"):
        go(tmp_path / "run", data=data, epochs=3, resume=True, **wrong)


def test_options_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="class_weights must be 4, one a class, got 3"):
        go(tmp_path / "a", class_weights=[1, 1, 1])
    with pytest.raises(TypeError, match="balance must be True or False, got int 1"):
        go(tmp_path / "a", balance=1)


def test_the_command_line(tmp_path):
    words = ["train", *toys(tmp_path, classes=["ant", "bee", "cat", "dog"]), "--epochs", "0"]
    for text, want in (("balanced", None), ("1,2,0.5,0", [1, 2, 0.5, 0]), ("bee=3,dog=0.5", [1, 3, 1, 0.5])):
        out = tmp_path / text
        assert cli.main([*words, "--class-weights", text, "--balance", "--quiet", "--out", str(out)]) == 0
        options = events(out, "start")[0]["options"]
        assert options["balance"] is True
        assert options["class_weights"] == (want or class_weights("balanced", toy(60)[1], ["0"] * 4))
    assert cli.main([*words, "--class-weights", "bee=", "--out", str(tmp_path / "no")]) == 2


# ---- balanced sampling -------------------------------------------------------------------------------------
def test_every_class_comes_equally_often():
    labels = np.repeat([0, 1, 3], [50, 7, 3])  # no image of class 2
    order = balanced(labels, seed=4, step=2)
    assert len(order) == 60
    assert np.bincount(labels[order]).tolist() == [20, 20, 0, 20]
    times = np.bincount(order, minlength=60)
    assert set(times[:50]) == {0, 1}
    assert sorted(times[50:57]) == [2] + [3] * 6
    assert sorted(times[57:]) == [6, 7, 7]


def test_the_order_is_a_function_of_seed_and_epoch():
    labels = np.repeat(np.arange(3), [40, 11, 2])
    orders = {(s, e): balanced(labels, s, e).tobytes() for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert balanced(labels, 2, 1).tobytes() == orders[2, 1]
    assert np.bincount(labels[balanced(labels, 0, 0)]).tolist() in ([18, 18, 17], [18, 17, 18], [17, 18, 18])
    seen = set(np.concatenate([balanced(labels, 0, e) for e in range(12)]).tolist())
    assert seen == set(range(53))  # over the epochs all images have their turn
    mixed = labels[balanced(labels, 0, 0)]
    assert 15 < np.count_nonzero(np.diff(mixed)) < 50  # neither one class after the other nor in turns


def test_a_balanced_loader():
    x, y = lopsided()
    data = ArrayDataset(x, y)
    with Loader(data, 10, seed=3, balance=True) as loader:
        whole = [b.indices for b in loader.epoch(1)]
        assert len(loader) == len(whole) == -(-len(data) // 10)
        assert np.concatenate(whole).tobytes() == balanced(data.labels, 3, 1).tobytes()
        assert [b.indices.tolist() for b in loader.epoch(1, start=4)] == [i.tolist() for i in whole[4:]]
    shares = [Loader(data, 10, seed=3, balance=True, share=(rank, 3)) for rank in range(3)]
    for parts, want in zip(zip(*(s.epoch(1) for s in shares), strict=True), whole, strict=True):
        assert np.concatenate([p.indices for p in parts]).tobytes() == want.tobytes()
    with pytest.raises(ValueError, match="balance needs shuffle=True, got shuffle=False"):
        Loader(data, 10, shuffle=False, balance=True)
