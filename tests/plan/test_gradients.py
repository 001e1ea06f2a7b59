"""check_gradients: passes on right gradients, fails on wrong ones, copes with kinks."""

import numpy as np
import pytest

import pyconvnet as pcn
from pyconvnet import ops
from pyconvnet.layers import (
    LRN,
    AvgPool2d,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    ReLU,
    SoftmaxCrossEntropy,
    Tanh,
)


def network():
    net = pcn.Network("all sorts", (11, 9, 3))
    net.add(Conv2d(4, 3, stride=2, activation="relu"), "conv1").add(LRN(3, 0.9, 0.75, 2.0), "norm1")
    net.add(MaxPool2d(2, 1), "pool1").add(Conv2d(6, 2, pad=1, groups=2), "conv2").add(ReLU(), "relu2")
    net.add(AvgPool2d(2, 2), "pool2").add(Linear(8), "fc1").add(Tanh(), "tanh").add(
        Dropout(0.4, "paper"), "drop"
    )
    return net.add(Linear(5), "fc2").add(SoftmaxCrossEntropy(), "loss")


def test_right_gradients_pass():
    results = pcn.check_gradients(network(), batch_size=3, samples=8)
    assert [r.name for r in results] == list(network().parameters())
    for r in results:
        assert r.error < 1e-6, r
        assert r.norm > 1e-4, r
    assert results[0].checked == 9
    assert next(r for r in results if r.name == "fc2.bias").checked == 6  # five elements, one direction


@pytest.mark.parametrize(
    ("name", "change", "layers"),
    [
        ("lrn_backward", lambda dx: dx * (1 + 1e-5), ["conv1"]),
        (
            "linear_wgrad",
            lambda dw: np.where(np.arange(dw.size).reshape(dw.shape) == 1, dw + 1e-2, dw),
            ["fc1", "fc2"],
        ),
        ("max_pool2d_backward", lambda dx: dx[:, ::-1], ["conv1"]),
        ("dropout_backward", lambda dx: 0.6 * dx, ["conv1", "conv2", "fc1"]),
    ],
)
def test_wrong_gradients_fail_and_are_located(monkeypatch, name, change, layers):
    real = getattr(ops, name)

    def wrong(*arguments, **options):
        result = real(*arguments, **options)

        def spoil():
            result[...] = change(result.copy())

        ops.perform(spoil)  # at every run: a plan calls operations once, to prepare them
        return result

    monkeypatch.setattr(ops, name, wrong)
    results = pcn.check_gradients(network(), batch_size=3, samples=8)
    failed = {r.name.partition(".")[0] for r in results if r.error > 1e-6}
    assert failed == set(layers)


def test_frozen_layers_are_left_out():
    net = network()
    net.configure("conv1", frozen=True)
    assert all(not r.name.startswith("conv1") for r in pcn.check_gradients(net, samples=2))


def test_the_check_depends_on_the_seed_alone():
    first, second = (pcn.check_gradients(network(), samples=2, seed=4) for _ in range(2))
    assert first == second
    assert first != pcn.check_gradients(network(), samples=2, seed=5)


BAD = [
    (lambda: pcn.check_gradients("digits"), TypeError, "must be a Network, got str"),
    (
        lambda: pcn.check_gradients(network(), batch_size=0),
        ValueError,
        "batch_size must be at least 1, got 0",
    ),
    (lambda: pcn.check_gradients(network(), samples=1.5), ValueError, r"must be an integer, got float 1\.5"),
    (lambda: pcn.check_gradients(network(), tolerance=0), ValueError, r"tolerance must be in \(0, 1\)"),
    (lambda: pcn.check_gradients(network(), tolerance=float("nan")), ValueError, "tolerance must be finite"),
    (lambda: pcn.check_gradients(pcn.Network("n", (4,)).add(Linear(2))), ValueError, "no cost"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
