"""ReLUs whose backward is done by the layers that read them, and dropout by the layer before it: where a plan
does so, and that every bit stays.
"""

import contextlib
import dataclasses

import numpy as np
import pytest
from support.few import few
from support.networks import batch, everything

from pyconvnet import models, ops
from pyconvnet.layers import (
    LRN,
    Add,
    AvgPool2d,
    Concat,
    Constant,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    Normal,
    ReLU,
    SoftmaxCrossEntropy,
    SpatialLRN,
    Tanh,
)
from pyconvnet.network import Network
from pyconvnet.network.partition import partition
from pyconvnet.plan import Plan
from pyconvnet.plan import fuse as fusion
from pyconvnet.plan.fuse import fuse

STD = {"init": Normal(0.3), "bias_init": Constant(0.1)}
RELU = {"activation": "relu", **STD}


@pytest.fixture
def same_arithmetic(monkeypatch):
    """Without what is joined with other roundings: response normalisation and pooling in one pass, images
    rearranged for the first convolution.
    """
    joined = fusion.joined

    def join_only_dropout(first, second, train):
        return joined(first, second, train) if isinstance(second, Dropout) else None

    monkeypatch.setattr(fusion, "joined", join_only_dropout)
    monkeypatch.setattr("pyconvnet.plan.plan.space_to_depth_of_images", lambda split: None)


def run(net, devices, n=4, steps=3, **options):
    """The plan, and losses, gradients and parameters of some steps."""
    plan = Plan(net, devices, n, seed=1, **options)
    plan.set_hyper(0.01, 0.9)
    plan.set_weight_decay(5e-4)
    trace = {}
    for step in range(steps):
        plan.feed(*batch(net, n, seed=step))
        plan.step()
        trace[f"loss {step}"] = np.array(plan.loss())
        trace |= {f"gradient {step} {name}": value for name, value in plan.get_gradients().items()}
        plan.forward(train=False)
        trace[f"test loss {step}"] = np.array(plan.loss())
    return plan, trace | plan.get_parameters()


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.isfinite(value).all(), name
        assert value.tobytes() == other[name].tobytes(), name


def assert_fusing_changes_nothing(net, devices, **options):
    plan, fused = run(net, devices, fuse=True, **options)
    apart, plain = run(net, devices, fuse=False, **options)
    split = apart.partition
    assert (split.fused, set(split.relu_by_readers), split.gradient_aliases) == ({}, set(), {})
    assert_same_bits(fused, plain)
    return plan


def towers():
    """Outputs of ReLUs read once and twice, inside a tower and across towers, before and after pooling."""
    net = Network("towers", (9, 8, 3))
    net.add(Conv2d(8, 3, pad=1, **RELU), "conv1")
    net.add(Conv2d(8, 3, pad=1, groups=2, **RELU), "inside")
    net.add(Conv2d(8, 3, pad=1, **RELU), "across")
    net.add(Conv2d(8, 1, groups=4, **STD), "again", inputs="inside")
    net.add(Add(), "add", inputs=["across", "again"]).add(ReLU(), "relu")
    net.add(Conv2d(4, 3, stride=2, frozen=True, **RELU), "frozen", inputs="relu")
    net.add(Linear(12, **RELU), "fc1").add(Dropout(0.4, "paper"), "drop1")
    net.add(Linear(10, **RELU), "fc2").add(Dropout(0.3, "inverted"), "drop2")
    net.add(Linear(10, bias=False, activation="relu", init=Normal(0.3)), "fc3").add(Dropout(0.5), "drop3")
    return net.add(Linear(4, **STD), "fc4").add(SoftmaxCrossEntropy(topk=2), "loss")


TOWERS_RECTIFIED = {"conv1", "inside", "relu", "frozen", "drop1", "drop2", "drop3"}


@pytest.mark.parametrize(("count", "replicas", "hybrid"), [(1, 1, False), (2, 1, False), (4, 2, True)])
@pytest.mark.parametrize(
    "net", [towers(), everything(), models.alexnet_2012(6, input_size=67, width=0.125)], ids=str
)
def test_every_bit_stays_in_float64(net, count, replicas, hybrid, same_arithmetic):
    options = {"replicas": replicas, "hybrid": hybrid}
    plan = assert_fusing_changes_nothing(net, ["cpu"] * count, dtype=np.float64, **options)
    if net.name == "towers":
        assert plan.partition.relu_by_readers == TOWERS_RECTIFIED
        assert plan.partition.fused == {"fc1": "drop1", "fc2": "drop2", "fc3": "drop3"}


@pytest.mark.kernels
@pytest.mark.parametrize("count", [1, 2])
def test_every_bit_stays_on_the_kernels(count, device, same_arithmetic):
    for net in (towers(), everything()):
        assert_fusing_changes_nothing(net, [device] * count, steps=2)


def random_net(seed):
    """A random graph of the layers that matter here: outputs of ReLUs read by none to many layers."""
    rng = np.random.default_rng(seed)
    net, names = Network(f"random{seed}", (6, 6, 4)), ["input"]
    for i in range(10):
        conv = Conv2d(4, 3, pad=1, groups=int(rng.choice([1, 2])), frozen=bool(rng.random() < 0.2), **STD)
        kinds = {
            "conv": conv,
            "rectified": dataclasses.replace(conv, activation="relu"),
            "relu": ReLU(),
            "pool": MaxPool2d(3, 1, pad=1),
            "mean": AvgPool2d(3, 1, pad=1),
            "norm": LRN(3, 0.8, groups=2),
            "tanh": Tanh(),
            "add": Add(),
        }
        kind = str(rng.choice(list(kinds), p=[0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05]))
        inputs = [str(name) for name in rng.choice(names[-4:], 1 + (kind == "add"))]
        net.add(kinds[kind], f"{kind}{i}", inputs=inputs)
        names.append(f"{kind}{i}")
    for i, source in enumerate(rng.choice(names[-3:], int(rng.integers(1, 3)), replace=False)):
        net.add(Linear(6, **RELU), f"hidden{i}", inputs=str(source))
        net.add(Dropout(0.3, str(rng.choice(["paper", "inverted"]))), f"drop{i}")
        net.add(Linear(3, **STD), f"scores{i}").add(SoftmaxCrossEntropy(topk=2), f"cost{i}")
    return net


@pytest.mark.parametrize("seed", few(range(12), 6))
def test_random_graphs(seed, same_arithmetic):
    net = random_net(seed)
    for count, replicas in ((1, 1), (2, 1), (2, 2)):
        assert_fusing_changes_nothing(net, ["cpu"] * count, n=3, dtype=np.float64, replicas=replicas, steps=2)


def test_the_random_graphs_have_such_layers():
    splits = [fuse(partition(random_net(seed), 2), train=True) for seed in range(6)]
    kinds = {name.rstrip("0123456789") for split in splits for name in split.relu_by_readers}
    assert kinds == {"rectified", "relu", "drop"}
    assert sum(bool(split.gradient_aliases) for split in splits) >= 2


def chain(*layers):
    net = Network("chain", (8, 8, 3)).add(Conv2d(4, 3, pad=1, **RELU), "conv")
    for i, layer in enumerate(layers):
        net.add(layer, f"layer{i}")
    return net.add(Linear(3, **STD), "fc").add(SoftmaxCrossEntropy(), "loss")


def two_readers(second, inputs="conv"):
    net = Network("two", (6, 6, 3)).add(Conv2d(4, 3, pad=1, **RELU), "conv")
    net.add(Conv2d(4, 1, **STD), "first", inputs="conv").add(second, "second", inputs=inputs)
    net.add(Concat(), "concat", inputs=["first", "second"])
    return net.add(Linear(3, **STD), "fc").add(SoftmaxCrossEntropy(), "loss")


def beside(*layers):
    """A branch from the ReLU that no cost is on."""
    net = Network("beside", (6, 6, 3)).add(Conv2d(4, 3, pad=1, **RELU), "conv")
    net.add(Linear(3, **STD), "fc").add(SoftmaxCrossEntropy(), "loss")
    return net.add(Tanh(), "aside", inputs="conv")


def cost_on_relu():
    net = Network("cost", (4, 4, 3)).add(Linear(5, **RELU), "fc1").add(Linear(3, **RELU), "fc2")
    return net.add(SoftmaxCrossEntropy(), "loss")


def only_convolutions(frozen):
    net = Network("frozen", (6, 6, 3)).add(Conv2d(4, 3, pad=1, frozen=frozen, **RELU), "conv")
    net.add(Conv2d(4, 3, frozen=True, **RELU), "fixed")
    return net.add(Linear(3, **STD), "fc").add(SoftmaxCrossEntropy(), "loss")


@pytest.mark.parametrize(
    ("net", "rectified"),
    [
        (chain(), {"conv"}),
        (chain(Conv2d(4, 3, **RELU)), {"conv", "layer0"}),
        (chain(Tanh()), set()),
        (chain(Dropout(0.3)), set()),
        (chain(LRN(3, 1.0), Tanh()), {"conv"}),
        (chain(SpatialLRN(3, 1.0)), set()),
        (chain(MaxPool2d(2, 2), ReLU()), {"conv", "layer1"}),
        (chain(AvgPool2d(2, 2)), {"conv"}),
        (chain(LRN(3, 1.0), MaxPool2d(3, 2)), {"conv"}),
        (two_readers(Conv2d(4, 1, **STD)), {"conv"}),
        (two_readers(Tanh()), set()),
        (two_readers(Add(), ["conv", "conv"]), set()),
        (beside(), {"conv"}),
        (cost_on_relu(), {"fc1"}),
        (only_convolutions(True), {"conv", "fixed"}),
        (only_convolutions(False), {"conv", "fixed"}),
    ],
    ids=lambda value: value.name if isinstance(value, Network) else " ".join(sorted(value)),
)
def test_where_it_applies(net, rectified, same_arithmetic):
    for count in (1, 2):
        assert set(fuse(partition(net, count), train=True).relu_by_readers) == rectified
        assert_fusing_changes_nothing(net, ["cpu"] * count, n=2, dtype=np.float64, steps=2)
    assert not fuse(partition(net, 1), train=False).relu_by_readers
    assert not partition(net, 1).relu_by_readers


def test_normalisation_that_borrows_channels(same_arithmetic):
    net = chain(LRN(3, 0.9, groups=1), Tanh())
    assert fuse(partition(net, 2), train=True).relu_by_readers == {"conv"}
    assert_fusing_changes_nothing(net, ["cpu"] * 2, dtype=np.float64)


def test_a_shared_layer():
    net = Network("shared", (5, 5, 4)).add(Conv2d(4, 3, pad=1, **RELU), "conv")
    net.add(Conv2d(4, 3, pad=1, activation="relu", share="conv"), "again")
    net.add(Linear(6, **RELU), "fc1").add(Dropout(0.3), "drop1").add(Linear(6, **RELU), "fc2")
    net.add(Linear(6, activation="relu", share="fc2"), "fc3").add(Dropout(0.3), "drop3")
    net.add(Linear(3, **STD), "fc4").add(SoftmaxCrossEntropy(), "loss")
    for count in (1, 2):
        plan = assert_fusing_changes_nothing(net, ["cpu"] * count, dtype=np.float64)
        assert plan.partition.fused == {"fc1": "drop1", "fc3": "drop3"}
        assert plan.partition.relu_by_readers == {"conv", "again", "drop1", "fc2", "drop3"}


@pytest.mark.parametrize("mode", ["paper", "inverted"])
def test_dropout_with_other_readers_or_without_relu_stays_apart(mode):
    def hidden(activation, *more):
        net = Network("hidden", (4, 4, 3)).add(Linear(6, activation=activation, **STD), "fc1")
        net.add(Dropout(0.3, mode), "drop1").add(Linear(3, **STD), "fc2").add(SoftmaxCrossEntropy(), "loss")
        for name in more:
            net.add(Linear(3, **STD), name, inputs="fc1").add(SoftmaxCrossEntropy(), f"{name}loss")
        return net

    assert fuse(partition(hidden("relu"), 1), train=True).fused == {"fc1": "drop1"}
    for net in (hidden(None), hidden("relu", "side")):
        split = fuse(partition(net, 1), train=True)
        assert (split.fused, set(split.relu_by_readers)) == ({}, set())
        assert_fusing_changes_nothing(net, "cpu", dtype=np.float64)


def test_on_the_cpu_only_the_way_back_is_joined_unasked():
    for dtype in (np.float32, np.float64):
        plan, unasked = run(towers(), "cpu", dtype=dtype)
        assert plan.partition.fused == {}
        assert {"conv1", "inside", "relu", "fc3"} & plan.partition.relu_by_readers
        assert plan.depth is None
        assert_same_bits(unasked, run(towers(), "cpu", dtype=dtype, fuse=False)[1])


def test_dropout_on_other_devices_than_its_layer_stays_apart():
    net = Network("pinned", (4, 4, 3)).add(Linear(6, **RELU), "fc1").add(Dropout(0.3, device=1), "drop1")
    net.add(Linear(6, **RELU), "fc2").add(Dropout(0.3), "drop2")
    net.add(Linear(3, **STD), "fc3").add(SoftmaxCrossEntropy(), "loss")
    assert fuse(partition(net, 2), train=True).fused == {"fc2": "drop2"}
    assert_fusing_changes_nothing(net, ["cpu"] * 2, dtype=np.float64)


def test_a_plan_that_only_predicts_keeps_its_outputs(any_device):
    net = towers()
    plan = Plan(net, any_device, 2, train=False, fuse=True)
    plan.feed(*batch(net, 2))
    plan.forward(train=False)
    assert plan.partition.fused == {}
    assert plan.get_output("fc1").shape == (2, 12)
    trains = Plan(net, any_device, 2, fuse=True)
    with pytest.raises(ValueError, match=r"output of layer 'fc1' is never written: layer 'drop1' does its"):
        trains.get_output("fc1")
    trains.set_parameters(plan.get_parameters())
    trains.feed(*batch(net, 2))
    trains.forward(train=False)
    np.testing.assert_array_equal(trains.get_output("drop1"), plan.get_output("drop1"))
    assert trains.first_nonfinite() is None


def test_backward_in_pieces_and_twice(same_arithmetic):
    """forward and backward as calls of their own, and again: spent gradients do no harm."""
    net = towers()
    _, wanted = run(net, "cpu", steps=1, fuse=False)
    plan = Plan(net, "cpu", 4, seed=1, fuse=True)
    plan.set_hyper(0.01, 0.9)
    plan.set_weight_decay(5e-4)
    plan.feed(*batch(net, 4, seed=0))
    for _ in range(2):
        plan.forward()
        plan.backward()
    for name, value in plan.get_gradients().items():
        assert value.tobytes() == wanted[f"gradient 0 {name}"].tobytes(), name


def test_gradient_of_the_images(same_arithmetic):
    net = towers()
    found = []
    for joined in (True, False):
        for count in (1, 2):
            plan = Plan(net, ["cpu"] * count, 3, np.float64, seed=1, input_gradient=True, fuse=joined)
            plan.feed(*batch(net, 3))
            plan.forward()
            plan.backward()
            found.append(plan.get_gradient("input"))
    assert found[0].tobytes() == found[2].tobytes()
    assert found[1].tobytes() == found[3].tobytes()


@contextlib.contextmanager
def counted(monkeypatch, *names):
    """How often operations run."""
    counts = dict.fromkeys(names, 0)

    def counting(name, function):
        def count(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return count

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(ops, name, counting(name, getattr(ops, name)))
        yield counts


@pytest.mark.kernels(again=True)
@pytest.mark.parametrize("model", [models.alexnet, models.alexnet_2012])
def test_alexnet_runs_no_pass_for_a_relu_or_a_mask(model, device, monkeypatch):
    net = model(10, input_size=67, width=0.125)
    for devices in (device, [device, device]):
        plan = Plan(net, devices, 3)
        plan.feed(*batch(net, 3))
        with counted(
            monkeypatch, "relu_backward", "dropout", "dropout_backward", "bias_relu_dropout"
        ) as runs:
            plan.step()
        assert runs["dropout"] == runs["dropout_backward"] == 0
        assert runs["bias_relu_dropout"] == 2 * len(plan.devices)
        assert runs["relu_backward"] == 0
        passed = {"relu1": "pool1", "relu5": "pool5"} if model is models.alexnet_2012 else {}
        assert plan.partition.gradient_aliases == passed
