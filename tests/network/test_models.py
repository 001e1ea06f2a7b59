"""The networks by name: sizes against the paper and the definition files, gradients, recipes."""

import numpy as np
import pytest

from pyconvnet import models
from pyconvnet.data import Augmentation
from pyconvnet.layers import LRN, Conv2d, Dropout, Linear, Normal, SpatialLRN
from pyconvnet.network import Network
from pyconvnet.network.network import RECIPE_OPTIONS
from pyconvnet.plan.gradients import check_gradients
from pyconvnet.training.schedules import schedule

# layer, output, parameters (weights + biases): the paper, section 3.5 and figure 2
ALEXNET = [
    ("conv1", (55, 55, 96), 34_944),
    ("pool1", (27, 27, 96), 0),
    ("conv2", (27, 27, 256), 307_456),
    ("pool2", (13, 13, 256), 0),
    ("conv3", (13, 13, 384), 885_120),
    ("conv4", (13, 13, 384), 663_936),
    ("conv5", (13, 13, 256), 442_624),
    ("pool5", (6, 6, 256), 0),
    ("fc6", (4096,), 37_752_832),
    ("fc7", (4096,), 16_781_312),
    ("fc8", (1000,), 4_097_000),
]


@pytest.mark.parametrize("name", ["alexnet", "alexnet_2012"])
def test_alexnet_is_the_papers_size(name):
    net = models.build(name)
    assert net.num_parameters == 60_965_224
    assert net.multiply_adds == 724_406_816
    assert net.classes == 1000
    for layer, shape, parameters in ALEXNET:
        assert net[layer].output_shape == shape
        assert sum(p.size for p in net[layer].parameters()) == parameters


@pytest.mark.parametrize(("route", "size"), [("overhang", 224), ("crop227", 227), ("pad2", 224)])
def test_three_routes_to_55(route, size):
    net = models.alexnet(route=route)
    assert net.input_shape == (size, size, 3)
    assert net["conv1"].output_shape == (55, 55, 96)
    assert net.num_parameters == 60_965_224
    assert net.recipe["augment"]["crop"] == size


def test_alexnet_starts_as_the_paper_says():
    net = models.alexnet()
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for node in net:
        if isinstance(node.layer, Conv2d | Linear):
            assert node.layer.init == Normal(0.01)
            assert node.layer.bias_init.value == (1.0 if node.name in ones else 0.0)
            assert node.layer.activation == (None if node.name == "fc8" else "relu")
            assert getattr(node.layer, "groups", 1) == (2 if node.name in ("conv2", "conv4", "conv5") else 1)
        if isinstance(node.layer, LRN):
            assert (node.layer.size, node.layer.alpha, node.layer.beta, node.layer.k) == (5, 1e-4, 0.75, 2)
            assert node.layer.groups == 2
        if isinstance(node.layer, Dropout):
            assert (node.layer.p, node.layer.mode) == (0.5, "paper")
    assert net.recipe["lr"] == 0.01
    assert net.recipe["weight_decay"] == 5e-4
    assert net.recipe["momentum"] == 0.9


def test_alexnet_2012_differs_where_the_code_did():
    net = models.alexnet_2012()
    order = [node.name for node in net]
    assert order[:4] == ["conv1", "norm1", "pool1", "relu1"]
    assert order[4:8] == ["conv2", "norm2", "cnorm2", "pool2"]
    assert net["conv1"].layer.activation is None
    assert net["conv5"].layer.activation is None
    assert net["norm1"].layer.alpha == pytest.approx(2e-5)
    assert isinstance(net["cnorm2"].layer, SpatialLRN)
    assert net["cnorm2"].layer.alpha == pytest.approx(1e-3 / 25)
    for name in ("conv3", "conv4", "conv5"):
        assert net[name].layer.init == Normal(0.03)
    parameters = net.parameters()
    assert all(p.lr_mult == (2.0 if n.endswith("bias") else 1.0) for n, p in parameters.items())
    assert all(p.decay_mult == (0.0 if n.endswith("bias") else 1.0) for n, p in parameters.items())


def test_towers_do_not_talk_before_conv3():
    """A change in the second tower's conv1 filters leaves the first tower's half alone, up to pool2."""
    from pyconvnet.plan import Plan

    net = models.alexnet(classes=4, input_size=67, width=0.125, lrn_alpha=1.0)
    plan = Plan(net, "cpu", 1, seed=1)
    plan.feed(
        np.random.default_rng(0).standard_normal((1, 67, 67, 3)).astype(np.float32) * 50, np.zeros(1, int)
    )
    plan.forward()
    before = {
        n: plan.outputs[n].copy() for n in ("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3")
    }
    plan.parameters["conv1.weight"][6:] *= 3
    plan.forward()
    for name, value in before.items():
        half = value.shape[-1] // 2
        first = np.array_equal(plan.outputs[name][..., :half], value[..., :half])
        second = np.array_equal(plan.outputs[name][..., half:], value[..., half:])
        assert not second, name
        assert first == (name != "conv3"), name


def test_cifar_nets_are_the_definition_files():
    net = models.cifar10_80sec()
    shapes = [(node.name, node.output_shape) for node in net if node.output_shape]
    assert shapes == [
        ("conv1", (32, 32, 32)),
        ("pool1", (16, 16, 32)),
        ("relu1", (16, 16, 32)),
        ("conv2", (16, 16, 32)),
        ("pool2", (8, 8, 32)),
        ("conv3", (8, 8, 64)),
        ("pool3", (4, 4, 64)),
        ("fc64", (64,)),
        ("fc10", (10,)),
    ]
    std = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1}
    decay = {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc64": 0.03, "fc10": 0.03}
    lr, weight_decay = net.recipe["lr"], net.recipe["weight_decay"]
    for name, p in net.parameters().items():
        layer, kind = name.split(".")
        assert p.lr_mult * lr == pytest.approx(0.002 if kind == "bias" else 0.001)
        assert p.decay_mult * weight_decay == pytest.approx(0 if kind == "bias" else decay[layer])
        assert p.init == (Normal(std[layer]) if kind == "weight" else p.init)
    assert schedule(net.recipe["schedule"]).factor(7) == 1
    assert schedule(net.recipe["schedule"]).factor(8) == pytest.approx(0.1)

    net = models.cifar10_18pct()
    assert [node.name for node in net] == [
        *("conv1", "pool1", "relu1", "norm1", "conv2", "pool2", "norm2", "conv3", "pool3", "fc10", "loss")
    ]
    assert net["norm1"].layer.alpha * 9 == pytest.approx(5e-5)
    assert net.parameters()["fc10.weight"].decay_mult * net.recipe["weight_decay"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", models.names())
def test_recipes_are_understood(name):
    net = models.build(name)
    assert set(net.recipe) <= set(RECIPE_OPTIONS)
    Augmentation(**net.recipe["augment"])
    schedule(net.recipe["schedule"])
    assert Network.from_dict(net.to_dict()) == net
    assert models.build(name, classes=7).classes == 7


@pytest.mark.parametrize(
    "net",
    [
        models.alexnet(10, input_size=67, width=0.125, lrn_alpha=1.0),
        models.alexnet(5, input_size=67, width=0.0625, groups=1, route="pad2", lrn_alpha=0.5),
        models.alexnet_2012(10, input_size=67, width=0.125, lrn_alpha=1.0, spatial_alpha=0.5),
        models.cifar10_80sec(input_shape=(15, 14, 3)),
        models.cifar10_18pct(input_shape=(12, 13, 3)),
        models.digits(),
    ],
    ids=lambda net: net.name,
)
def test_gradients_agree_with_central_differences(net):
    """In float64, every parameter array and the images; response normalisation where it matters (alpha near
    1).
    """
    results = check_gradients(net)
    print(*results, sep="\n")
    assert [r.name for r in results] == list(net.parameters())
    assert all(r.norm > 0 for r in results)
    assert all(r.error <= 1e-6 for r in results)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: models.build("lenet"),
            ValueError,
            "model must be one of alexnet, alexnet_2012, .* got 'lenet'",
        ),
        (lambda: models.build(5), TypeError, "model must be a name or a Network"),
        (lambda: models.build("digits", depth=3), ValueError, "model 'digits': .*unexpected keyword"),
        (lambda: models.alexnet(0), ValueError, "classes must be at least 1"),
        (lambda: models.alexnet(route="pad3"), ValueError, "route must be one of overhang, crop227, pad2"),
        (lambda: models.alexnet(width=-1), ValueError, "width must not be negative"),
        (lambda: models.alexnet(input_size=40), ValueError, r"layer 'pool5' .*does not fit|layer 'pool2'"),
        (lambda: models.cifar10_80sec("ten"), TypeError, "classes must be an int"),
        (lambda: models.digits(input_shape=(8, 8)), ValueError, "input must be a map|input_shape"),
    ],
)
def test_bad_models(call, error, message):
    with pytest.raises(error, match=message):
        call()
