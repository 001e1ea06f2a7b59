"""Initial values by fans and by name: of a parameter, a layer, a whole network, a run."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from support.runs import events, go, small, toy

import pyconvnet as pcn
from pyconvnet import layers, models
from pyconvnet.cli import main as cli
from pyconvnet.data import Augmentation
from pyconvnet.layers import (
    Constant,
    Conv2d,
    Linear,
    MaxPool2d,
    Normal,
    Orthogonal,
    Parameter,
    SoftmaxCrossEntropy,
    Uniform,
    VarianceScaling,
    initialiser,
)
from pyconvnet.network import Network
from pyconvnet.plan import Plan
from pyconvnet.trained import checkpoint

#: A grouped convolution's weights: 64 filters of 5x5 on 24 channels, in 2 groups.
SHAPE, GROUPS, FAN_IN, FAN_OUT = (64, 5, 5, 12), 2, 5 * 5 * 12, 5 * 5 * 32


def drawn(rule, shape=SHAPE, groups=GROUPS, seed=0):
    out = np.full(shape, np.nan, np.float32)
    initialiser(rule).fill(out, seed, 3, 0, groups)
    return out.astype(np.float64)


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("he", 2 / FAN_IN), ("he_normal", 2 / FAN_IN), ("he:mode=fan_out", 2 / FAN_OUT),
        ("glorot", 2 / (FAN_IN + FAN_OUT)), ("glorot_normal", 2 / (FAN_IN + FAN_OUT)), ("lecun", 1 / FAN_IN),
    ],
)  # fmt: skip
def test_normal_values_by_fans(name, variance):
    values = drawn(name)
    n = values.size  # a standard deviation's sampling error is 1/sqrt(2n) of it, a mean's 1/sqrt(n)
    assert abs(values.std() / math.sqrt(variance) - 1) < 4 / math.sqrt(2 * n)
    assert abs(values.mean()) < 4 * math.sqrt(variance / n)
    assert np.mean(values**4) / variance**2 == pytest.approx(3, abs=0.3)  # a Gaussian, not truncated


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("he_uniform", 2 / FAN_IN), ("he_uniform:mode=fan_out", 2 / FAN_OUT),
        ("glorot_uniform", 2 / (FAN_IN + FAN_OUT)), ("lecun_uniform", 1 / FAN_IN),
    ],
)  # fmt: skip
def test_uniform_values_by_fans(name, variance):
    values, bound = drawn(name), math.sqrt(3 * variance)
    assert 0.999 * bound < values.max() <= bound
    assert -bound <= values.min() < -0.999 * bound
    assert values.std() == pytest.approx(math.sqrt(variance), rel=0.02)


def test_the_fans_of_a_fully_connected_layer():
    net = Network("net", (4, 5, 3)).add(Linear(700, init="he")).add(Linear(400, init="glorot"))
    values = {name: value.astype(np.float64) for name, value in net.initial()}
    assert values["fc1.weight"].std() == pytest.approx(math.sqrt(2 / 60), rel=0.015)
    assert values["fc2.weight"].std() == pytest.approx(math.sqrt(2 / 1100), rel=0.01)


SHAPES = [((8, 3, 3, 2), 1), ((40, 9), 1), ((12, 3, 1, 2), 2), ((7, 7), 1)]


@pytest.mark.parametrize("gain", [1.0, 1.5])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_orthogonal(shape, groups, gain):
    values = drawn(Orthogonal(gain), shape, groups).reshape(groups, shape[0] // groups, -1)
    for matrix in values:
        wide = matrix.shape[0] <= matrix.shape[1]
        product = matrix @ matrix.T if wide else matrix.T @ matrix
        # stored in float32: each of the products' terms is off by 2^-24 of itself at most
        bound = 4 * gain**2 * 2.0**-24 * math.sqrt(max(matrix.shape))
        assert np.abs(product - gain**2 * np.eye(len(product))).max() < bound
    if groups > 1:
        assert not np.allclose(values[0], values[1])


def test_orthogonal_matrices_point_everywhere():
    signs = [np.sign(drawn("orthogonal", (3, 3), 1, seed)[0, 0]) for seed in range(60)]
    assert 15 < signs.count(1.0) < 45


def test_names_stand_for_rules():
    assert initialiser("he") == initialiser("he_normal") == VarianceScaling(2.0, "fan_in", "normal")
    assert initialiser("glorot_uniform") == VarianceScaling(1.0, "fan_avg", "uniform")
    assert initialiser("orthogonal:gain=1.5") == Orthogonal(1.5)
    assert initialiser("normal:std=0.02") == Normal(0.02)
    assert initialiser("constant:value=1") == Constant(1.0)
    assert initialiser("uniform:low=-1,high=2") == Uniform(-1.0, 2.0)
    for rule in (initialiser("he_uniform:mode=fan_out"), Orthogonal(0.5)):
        assert initialiser(json.loads(json.dumps(rule.to_dict()))) == rule


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda: initialiser("hee"), ValueError, "init must be one of constant, .*he_uniform.* got 'hee'"),
        (lambda: initialiser("uniform:low=-1"), TypeError, "uniform needs low and high, as in"),
        (lambda: initialiser("he:gain=2"), ValueError, "he takes mode, got 'gain=2' in 'he:gain=2'"),
        (lambda: initialiser("he:mode=fan"), ValueError, "mode must be 'fan_in', 'fan_out' or 'fan_avg'"),
        (lambda: initialiser("orthogonal:gain=x"), ValueError, "gain must be a number, got 'x'"),
        (lambda: initialiser(3), TypeError, 'a name such as "he", got 3'),
        (lambda: VarianceScaling(0.0), ValueError, "scale must be positive, got 0.0"),
        (lambda: VarianceScaling(math.nan), ValueError, "scale must be finite"),
        (lambda: Orthogonal("1"), TypeError, "gain must be a number"),
        (lambda: Conv2d(4, 3, init="paper"), ValueError, "Conv2d: init must be one of"),
        (lambda: Linear(4, bias_init=None), TypeError, "Linear: bias_init must be an initialiser"),
        (
            lambda: Network("n", (4,)).add(Linear(4, bias_init="he")),
            ValueError, r"layer 'fc1' \(Linear\).*'bias': VarianceScaling.* needs a weight .* got \(4,\)",
        ),
        (lambda: Network("n", (4,), init="x"), ValueError, "Network: init must be one of"),
        (lambda: layers.initialisers.fans((6, 2), 4), ValueError, "multiple of groups=4, got"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


# ---- a whole network ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scaled(layers.Layer):
    """A user's layer: a product, a gain per channel, and a bias."""

    def output_shape(self, *inputs):
        return inputs[0]

    def parameters(self, *inputs):
        n = inputs[0][0]
        return [
            Parameter("mix", (n, n), Normal(0.01)), Parameter("gain", (n,), Constant(1.0)),
            Parameter("bias", (n,), Constant(0.5)),
        ]  # fmt: skip


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(layers.base._KINDS, "Scaled", Scaled)


def network(**options):
    net = Network("net", (8, 8, 3), **options)
    net.add(Conv2d(32, 3, activation="relu", bias_init=Constant(1.0)), "conv1").add(MaxPool2d(), "pool1")
    net.add(Conv2d(64, 2, groups=4, init=Normal(3.0)), "conv2").add(Linear(50, init="orthogonal"), "fc3")
    assert net["fc3"].input_shapes == ((1, 1, 64),)
    return net.add(Scaled(), "scaled").add(Linear(4), "fc4").add(SoftmaxCrossEntropy(), "loss")


def test_a_rule_for_the_whole_network():
    values = dict(network(init="he").initial(seed=1))
    fans = {"conv1": 27, "conv2": 4 * 8, "fc3": 64, "scaled": 50, "fc4": 50}
    for name, fan_in in fans.items():
        weight = values[f"{name}.{'mix' if name == 'scaled' else 'weight'}"]
        assert weight.std() == pytest.approx(math.sqrt(2 / fan_in), rel=5 / math.sqrt(2 * weight.size))
        assert not values[f"{name}.bias"].any()
    assert (values["scaled.gain"] == 1).all()  # neither a weight nor a bias


def test_without_a_rule_layers_keep_their_own():
    net, values = network(), dict(network().initial())
    assert net.init is None
    assert (values["conv1.bias"] == 1).all()
    assert (values["scaled.bias"] == 0.5).all()
    assert values["conv2.weight"].std() == pytest.approx(3, rel=0.1)
    changed = net.with_init("glorot")
    assert changed.init == initialiser("glorot")
    assert net.init is None
    again = dict(changed.with_init(None).initial())
    assert again["conv2.weight"].tobytes() == values["conv2.weight"].tobytes()


def test_the_rule_is_part_of_the_description():
    net = network(init="he_uniform:mode=fan_out")
    again = Network.from_dict(json.loads(json.dumps(net.to_dict())))
    assert again == net
    assert again.init == net.init
    assert again != network()
    assert again["fc3"].layer.init == Orthogonal()
    assert "init" not in network().to_dict()


@pytest.mark.parametrize("name", models.names())
def test_every_model_takes_a_rule(name):
    options = {"input_size": 67, "width": 0.125} if name.startswith("alexnet") else {}
    net = models.build(name, init="he", **options)
    for full, p in net.parameters().items():
        assert p.init == (Constant(0.0) if full.endswith("bias") else initialiser("he")), full
    assert net == models.build(name, **options).with_init("he")


@pytest.mark.parametrize("rule", ["he", "orthogonal"])
@pytest.mark.parametrize("places", [2, 4])
def test_split_devices_start_from_one_devices_values(rule, places):
    net = models.alexnet(10, input_size=67, width=0.03, groups=places, init=rule)
    one, many = (Plan(net, ["cpu"] * n, 4, seed=5).get_parameters() for n in (1, places))
    assert one.keys() == many.keys()
    for name, value in one.items():
        assert value.tobytes() == many[name].tobytes(), name


# ---- a run -------------------------------------------------------------------------------------------------
def test_a_run_with_a_rule(tmp_path):
    run = go(tmp_path / "a", init="he", epochs=1)
    assert run.model.network.init == initialiser("he")
    assert checkpoint.load(tmp_path / "a").network.init == initialiser("he")
    state = checkpoint.read(tmp_path / "a" / "last.safetensors")[1]
    assert state["options"]["init"] == initialiser("he").to_dict()
    assert events(tmp_path / "a")[0]["options"]["init"] == initialiser("he").to_dict()
    same = go(tmp_path / "b", small().with_init("he"), epochs=1)
    assert same.model.parameters["fc2.weight"].tobytes() == run.model.parameters["fc2.weight"].tobytes()
    assert go(tmp_path / "c", epochs=1).model.network.init is None
    assert small().init is None


def test_a_resumed_run_keeps_its_rule(tmp_path):
    whole = go(tmp_path / "whole", init="he", epochs=2)
    go(tmp_path / "run", init="he", epochs=1)
    for wrong in ("glorot", Normal(0.1)):
        with pytest.raises(ValueError, match=r"init must stay VarianceScaling.* in a resumed run, got "):
            go(tmp_path / "run", init=wrong, epochs=2, resume=True)
    run = go(tmp_path / "run", epochs=2, resume=True)  # not given: as it was
    assert run.model.network == whole.model.network
    for name, value in whole.model.parameters.items():
        assert value.tobytes() == run.model.parameters[name].tobytes()
    go(tmp_path / "own", epochs=1)
    with pytest.raises(ValueError, match=r"init must stay that of the network's own layers .* got V"):
        go(tmp_path / "own", init="he", epochs=2, resume=True)


def test_a_loaded_model_has_its_own_values(tmp_path):
    model = go(tmp_path / "a", epochs=1).model
    with pytest.raises(ValueError, match=r"init must be None for a loaded model, .* got 'he'"):
        go(tmp_path / "b", model, init="he")
    with pytest.raises(ValueError, match=r"train: init must be one of .* got 'hey'"):
        go(tmp_path / "b", init="hey")


def test_the_command_line(tmp_path, capsys):
    x, y = toy(60)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    words = ["train", "digits", str(tmp_path / "data.npz"), "--option", "input_shape=8x8x3", "--epochs", "0"]
    assert cli.main([*words, "--init", "orthogonal:gain=1.4", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert pcn.load(tmp_path / "run").network.init == Orthogonal(1.4)
    assert cli.main([*words, "--init", "best", "--out", str(tmp_path / "no")]) == 2
    assert "train: init must be one of" in capsys.readouterr().err


# ---- images of variance one --------------------------------------------------------------------------------
def test_pixels_are_scaled_for_values_by_fans(tmp_path):
    """Values by fans keep the variance of what comes in, which for pixels as they are is some 60 squared."""

    def scale(net, augment, data=None, **options):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        run = go(out, net, data, epochs=0, augment=augment, **options)
        return run.model.preprocessing.scale

    net = Network("net", (8, 8, 3)).add(MaxPool2d(2, 2)).add(Linear(4), "fc").add(SoftmaxCrossEntropy())
    x, y = toy()
    assert scale(net, {"mirror": True}) == 1
    assert scale(net, {"mirror": True}, init="he") == 1 / 64
    assert scale(net, Augmentation(mirror=True), init="orthogonal") == 1 / 64
    assert scale(net, None, init="he") == 1 / 64
    assert scale(net, {"scale": 1.0}, init="he") == scale(net, Augmentation(scale=1.0), init="he") == 1
    assert scale(net, None, init="normal:std=0.01") == 1
    assert scale(net, None, (x.astype(np.float32), y), init="he") == 1
    net.configure("fc", init="glorot")
    assert scale(net, None) == 1 / 64
    assert Augmentation().scale == 1 == Augmentation().as_dict()["scale"]
