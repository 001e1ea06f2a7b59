"""Images of other sizes at test time: fully connected layers as convolutions."""

import numpy as np
import pytest
from support import make_files as mk

import pyconvnet as pcn
from pyconvnet import models
from pyconvnet.cli.main import main
from pyconvnet.layers import Conv2d, Dropout, Linear, MaxPool2d, Normal, SoftmaxCrossEntropy
from pyconvnet.network.convolutional import fully_convolutional
from pyconvnet.plan import Plan

SIDE, STRIDE = 11, 4


def net():
    """Nothing is padded, so a place of a larger image is a crop: 11 pixels every 4."""
    made = pcn.Network("plain", (SIDE, SIDE, 3))
    made.add(Conv2d(6, 3, stride=2, activation="relu", init=Normal(0.3)), "conv1").add(
        MaxPool2d(3, 2), "pool1"
    )
    made.add(Linear(8, activation="relu", init=Normal(0.3)), "fc2").add(Dropout(0.5, "paper"), "drop2")
    return made.add(Linear(4, init=Normal(0.3)), "fc3").add(SoftmaxCrossEntropy(), "loss")


@pytest.fixture
def model():
    made = net()
    parameters = Plan(made, "cpu", 1, train=False, seed=3).get_parameters()
    mean = np.full((13, 14, 3), 120, np.float32)
    return pcn.Model(made, parameters, pcn.Preprocessing((13, 14, 3), (SIDE, SIDE), mean, 0.02), list("abcd"))


def crops(x):
    places = [
        (i, j)
        for i in range(0, x.shape[1] - SIDE + 1, STRIDE)
        for j in range(0, x.shape[2] - SIDE + 1, STRIDE)
    ]
    return np.stack([x[:, i : i + SIDE, j : j + SIDE] for i, j in places], axis=1)


def probabilities(model, x):
    told = pcn.predict(model, x, top=4)
    return np.array([[dict(guess)[name] for name in "abcd"] for guess in told])


@pytest.mark.parametrize("device", ["cpu", "emulator"])
def test_the_mean_over_all_places(model, rng, device):
    x = rng.integers(0, 256, (3, 20, 27, 3), dtype=np.uint8)
    large = model.at_size((20, 27))
    pieces = crops(x)
    small = pcn.Model(model.network, model.parameters, pcn.Preprocessing((SIDE, SIDE, 3), None,
                      np.full(3, 120, np.float32), 0.02), list("abcd"))  # fmt: skip
    each = np.stack([probabilities(small, p) for p in pieces])
    assert pieces.shape[1] == 3 * 5
    found = pcn.predict(large, x, top=4, device=device)
    found = np.array([[dict(guess)[name] for name in "abcd"] for guess in found])
    np.testing.assert_allclose(found, each.mean(axis=1), rtol=1e-4, atol=1e-6)
    scores = large.features(x, large.network.output, device=device)
    assert scores.shape == (3, 3, 5, 4)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(
        (e / e.sum(axis=-1, keepdims=True)).reshape(3, 15, 4), each, rtol=1e-4, atol=1e-6
    )


def test_at_its_own_size_it_is_the_same(model, rng):
    x = rng.integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    same = model.at_size(SIDE)
    pixels = pcn.Preprocessing((SIDE, SIDE, 3), None, np.full(3, 120, np.float32), 0.02)
    plain = pcn.Model(model.network, model.parameters, pixels, list("abcd"))
    np.testing.assert_allclose(probabilities(same, x), probabilities(plain, x), rtol=1e-5)
    result = pcn.evaluate(same, (x, [0, 1, 2, 3, 0]), 1)
    assert result.loss == pytest.approx(pcn.evaluate(plain, (x, [0, 1, 2, 3, 0]), 1).loss, rel=1e-5)


def test_views_are_the_image_and_its_mirror_image(model, rng):
    x = rng.integers(0, 256, (5, 15, 19, 3), dtype=np.uint8)
    large, y = model.at_size((15, 19)), [0, 1, 2, 3, 0]
    result = pcn.evaluate(large, (x, y), 10)
    both = (probabilities(large, x) + probabilities(large, x[:, :, ::-1].copy())) / 2
    assert result.views == 2
    np.testing.assert_allclose(result.true_probabilities, both[np.arange(5), y], rtol=1e-4)


def test_it_is_saved_and_loaded(model, tmp_path, rng):
    large = model.at_size(19)
    again = pcn.load(pcn.save(large, tmp_path / "m.safetensors"))
    x = rng.integers(0, 256, (2, 19, 19, 3), dtype=np.uint8)
    np.testing.assert_array_equal(probabilities(again, x), probabilities(large, x))
    assert again.info["at_size"] == [19, 19]


def test_alexnet():
    """The paper's towers: 227 pixels of 67-pixel training see 6 x 6 places, 32 pixels apart."""
    net = models.alexnet(10, input_size=67, width=0.05)
    dense = fully_convolutional(net, (227, 227))
    assert dense["fc6"].layer.size == net["pool5"].output_shape[:2]
    assert dense[dense.output].output_shape == (6, 6, 10)
    assert dense.num_parameters == net.num_parameters


def test_what_does_not_fit(model):
    with pytest.raises(ValueError, match="images of 8x8 do not go through network 'plain' as a map"):
        model.at_size(8)
    with pytest.raises((ValueError, TypeError), match="at_size"):
        model.at_size("large")
    flat = pcn.Network("flat", (7,)).add(Linear(3))
    with pytest.raises(ValueError, match=r"must take images \(H, W, C\), it takes \(7,\)"):
        fully_convolutional(flat, (9, 9))


def test_the_commands(model, tmp_path, capsys):
    path = pcn.save(model, tmp_path / "m.safetensors")
    folder = mk.image_folder(tmp_path / "data", ("a", "b"), count=3, height=40, width=40)
    assert main(["evaluate", str(path), str(folder), "--at-size", "23", "--device", "cpu"]) == 0
    assert repr(pcn.evaluate(model.at_size(23), folder)) in capsys.readouterr().out
    files = sorted(folder.glob("a/*"))[:1]
    assert main(["predict", str(path), str(files[0]), "--at-size", "20x24"]) == 0
    (name, p), *_ = pcn.predict(model.at_size((20, 24)), files[0])
    assert f"{name} {100 * p:.1f}%" in capsys.readouterr().out
