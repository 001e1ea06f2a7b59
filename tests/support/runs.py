"""Small training runs the tests share."""

import json
import os

import numpy as np

import pyconvnet as pcn
from pyconvnet.layers import Conv2d, Dropout, Linear, Normal, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.trained import checkpoint
from support import TESTS


def toy(n=150, size=8, classes=4, seed=0):
    """Images whose class is the quadrant that is bright: learnable, with some noise."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 120, (n, size, size, 3))
    y = rng.integers(classes, size=n)
    half = size // 2
    for image, label in zip(x, y, strict=True):
        r, c = divmod(int(label), 2)
        image[r * half : (r + 1) * half, c * half : (c + 1) * half] += 100
    return x.astype(np.uint8), y


def toys(folder, n=60, **arrays):
    """What is typed to train on a few of them, which a file in the folder then holds."""
    x, y = toy(n)
    np.savez(folder / "data.npz", x=x, y=y, **arrays)
    return ["digits", str(folder / "data.npz"), "--option", "input_shape=8x8x3"]


def small(dropout=True):
    """A net with dropout, so that resuming must restore the random numbers too."""
    net = Network("small", (6, 6, 3), {"augment": {"crop": 6, "mirror": True, "pca": 0.1, "scale": 0.02}})
    net.add(Conv2d(6, 3, pad=1, activation="relu", init=Normal(0.2)), "conv1")
    net.add(Linear(16, activation="relu", init=Normal(0.1)), "fc2")
    if dropout:
        net.add(Dropout(0.3), "drop2")
    return net.add(Linear(4, init=Normal(0.2)), "fc3").add(SoftmaxCrossEntropy(topk=2), "loss")


def go(out, net=None, data=None, **options):
    data = toy() if data is None else data
    options = {
        "epochs": 3,
        "batch_size": 32,
        "lr": 0.02,
        "progress": False,
        "devices": "cpu",
        "validation": 0.2,
        **options,
    }
    return pcn.train(small() if net is None else net, data, out=out, **options)


def same_model(one, two):
    """Two models hold the same bits."""
    assert one.parameters.keys() == two.parameters.keys()
    for name, value in one.parameters.items():
        np.testing.assert_array_equal(value, two.parameters[name], err_msg=name)


def same_bits(one, two):
    """Two folders hold the same run: position, parameters, momenta, sums, best, history but for its times."""
    (a, state_a, arrays_a), (b, state_b, arrays_b) = (
        checkpoint.read(p / "last.safetensors") for p in (one, two)
    )
    for name in ("step", "epoch", "examples"):
        assert state_a[name] == state_b[name]
    for name, value in a.parameters.items():
        np.testing.assert_array_equal(value, b.parameters[name], err_msg=name)
    assert arrays_a.keys() == arrays_b.keys()
    for name, value in arrays_a.items():
        np.testing.assert_array_equal(value, arrays_b[name], err_msg=name)
    timing = ("seconds", "images_per_second")
    plain_a, plain_b = (
        [{k: v for k, v in r.items() if k not in timing} for r in s["history"]] for s in (state_a, state_b)
    )
    assert plain_a == plain_b
    best_a, best_b = (pcn.load(p / "best.safetensors") for p in (one, two))
    for name, value in best_a.parameters.items():
        np.testing.assert_array_equal(value, best_b.parameters[name])


def events(out, kind=None):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in (None, line["event"])]


def python_path():
    """PYTHONPATH under which another process finds the modules of `support`, and the package under test."""
    package = os.path.dirname(os.path.dirname(pcn.__file__))
    return os.pathsep.join(filter(None, [str(TESTS), package, os.environ.get("PYTHONPATH")]))
