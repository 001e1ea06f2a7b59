"""The graph: building, errors that name the layers, description, summary."""

import json

import numpy as np
import pytest
from support.networks import everything, plain

from pyconvnet.layers import Add, Conv2d, Linear, MaxPool2d, ReLU, SoftmaxCrossEntropy
from pyconvnet.network import Network


def small():
    return (
        Network("small", (8, 8, 3))
        .add(Conv2d(4, 3), "conv")
        .add(Linear(5), "fc")
        .add(SoftmaxCrossEntropy(), "loss")
    )


BAD = [
    (lambda: Network("", (8, 8, 3)), ValueError, "name must be a non-empty string"),
    (lambda: Network("x", (8, 8)), ValueError, r"input_shape must be \(H, W, C\)"),
    (lambda: Network("x", (8, 0, 3)), ValueError, "every extent of input_shape must be at least 1, got 0"),
    (lambda: Network("x", (8.0, 8, 3)), TypeError, "every extent of input_shape must be an int"),
    (
        lambda: Network("x", (8, 8, 3), {"learning_rate": 1}),
        ValueError,
        "recipe may hold .* got 'learning_rate'",
    ),
    (lambda: small().add("conv"), TypeError, "layer must be a Layer"),
    (lambda: small().add(Conv2d), TypeError, "layer must be a Layer"),
    (lambda: small().add(ReLU(), "fc"), ValueError, "the name 'fc' is already taken"),
    (lambda: small().add(ReLU(), "input"), ValueError, "the name 'input' is already taken"),
    (lambda: small().add(ReLU(), "a.b"), ValueError, "name must be made of letters"),
    (
        lambda: small().add(ReLU(), "r", inputs="conf"),
        ValueError,
        r"layer 'r' \(ReLU\): input 'conf' is no earlier layer.*conv, fc",
    ),
    (lambda: small().add(ReLU(), "r", inputs="r"), ValueError, "input 'r' is no earlier layer"),
    (lambda: small().add(ReLU(), "r", inputs="loss"), ValueError, "input 'loss' is a cost"),
    (lambda: small().add(ReLU(), "r", inputs=["conv", "fc"]), ValueError, "takes 1 input, got 2"),
    (lambda: small().add(Add(), "r", inputs=["conv"]), ValueError, "takes at least 2 inputs, got 1"),
    (
        lambda: small().add(Add(), "sum", inputs=["conv", "input"]),
        ValueError,
        r"layer 'sum' \(Add\) after 'conv', 'input': inputs must have one shape, got \(6, 6, 4\), \(8, 8",
    ),
    (
        lambda: small().add(Conv2d(4, 9), "big", inputs="conv"),
        ValueError,
        r"layer 'big' \(Conv2d\) after 'conv': a 9x9 filter",
    ),
    (
        lambda: small().add(SoftmaxCrossEntropy(), "l2", inputs="conv"),
        ValueError,
        "layer 'l2'.*vector of class scores",
    ),
    (
        lambda: small().add(Linear(5, share="nix"), "s", inputs="conv"),
        ValueError,
        "share='nix' is no earlier layer",
    ),
    (
        lambda: small().add(Linear(6, share="fc"), "s", inputs="conv"),
        ValueError,
        "cannot share the parameters of 'fc'",
    ),
    (
        lambda: small().add(Conv2d(4, 3, share="fc"), "s", inputs="conv"),
        ValueError,
        "cannot share the parameters of 'fc'",
    ),
    (lambda: small()["nix"], ValueError, "has no layer 'nix'; it has conv, fc, loss"),
    (lambda: small().configure("conv", filters=5), ValueError, "would change its shapes"),
    (lambda: small().configure("conv", depth=5), ValueError, "has no option 'depth'"),
    (lambda: small().configure("conv", stride=0), ValueError, "stride must be at least 1"),
    (lambda: small().summary(0), ValueError, "batch_size must be at least 1"),
    (lambda: Network("x", (8, 8, 3)).output, ValueError, "has no layers"),
    (lambda: Network("x", (8, 8, 3)).add(Conv2d(4, 3)).classes, ValueError, "no vector of class scores"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[m[:40] for _, _, m in BAD])
def test_errors_name_the_layers(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_failed_add_leaves_the_network_alone():
    net = small()
    before = net.to_dict()
    with pytest.raises(ValueError, match="9x9"):
        net.add(Conv2d(4, 9), inputs="conv")
    assert net.to_dict() == before


def test_default_names_and_inputs():
    net = (
        Network("x", (9, 9, 1))
        .add(Conv2d(2, 3))
        .add(Conv2d(2, 3))
        .add(MaxPool2d())
        .add(Linear(3))
        .add(SoftmaxCrossEntropy())
    )
    assert [node.name for node in net] == ["conv1", "conv2", "pool1", "fc1", "loss1"]
    assert [node.inputs for node in net] == [("input",), ("conv1",), ("conv2",), ("pool1",), ("fc1",)]
    assert net.output == "fc1"
    assert net.classes == 3


@pytest.mark.parametrize("make", [plain, everything])
def test_description_rebuilds_the_network(make):
    net = make()
    again = Network.from_dict(json.loads(json.dumps(net.to_dict())))
    assert again == net
    assert [node.output_shape for node in again] == [node.output_shape for node in net]
    for (name, a), (other, b) in zip(net.initial(3), again.initial(3), strict=True):
        assert name == other
        np.testing.assert_array_equal(a, b)


def edit(change):
    description = small().to_dict()
    change(description)
    return description


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("text", "format must be 1"),
        (edit(lambda d: d.update(format=99)), "format must be 1"),
        (edit(lambda d: d.pop("layers")), "layers"),
        (edit(lambda d: d["layers"][0].pop("inputs")), "inputs"),
        (
            edit(lambda d: d["layers"][0].update(inputs=["fc"])),
            "layer 'conv' reads 'fc', which does not come before it",
        ),
        (edit(lambda d: d["layers"][0].update(kind="Conv3d")), "kind must be one of"),
        (edit(lambda d: d["layers"][0].update(filters=-1)), "filters must be at least 1"),
        (edit(lambda d: d["layers"].append(d["layers"][0])), "already taken"),
        (edit(lambda d: d["layers"].append(3)), "missing or wrong"),
    ],
)
def test_bad_descriptions(description, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Network.from_dict(description)


def test_parameters_are_counted_once():
    net = everything()
    names = list(net.parameters())
    assert "conv2.weight" in names
    assert not any(name.startswith("conv2again") for name in names)
    assert net["conv2again"].owner == "conv2"
    assert net.num_parameters == sum(p.size for p in net.parameters().values())


def test_configure_freezes():
    net = plain().configure("conv1", frozen=True)
    assert [p.lr_mult for p in net.parameters().values()] == [0, 0, 1, 1]


def test_summary_states_shapes_and_totals():
    net = plain()
    text = net.summary(batch_size=10)
    lines = {line.split()[0]: line for line in text.splitlines()[3:] if not line.startswith("-")}
    assert "8x8x6" in lines["conv1"]
    assert "168" in lines["conv1"]  # 6 * 3 * 3 * 3 + 6
    assert f"{8 * 8 * 6 * 27:,}" in lines["conv1"]
    # output and gradient (float32) and argmax (uint8) of 10 examples
    assert f"{10 * 96 * 9 / 1000:.1f} KB" in lines["pool1"]
    assert f"{net.num_parameters:,}" in lines["total"]
    assert f"{net.multiply_adds:,}" in lines["total"]
    assert max(len(line) for line in text.splitlines()) < 160


def test_summary_marks_shared_parameters():
    line = next(line for line in everything().summary().splitlines() if line.startswith("conv2again"))
    assert "= conv2" in line
