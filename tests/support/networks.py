"""Small networks the tests share."""

from dataclasses import replace

import numpy as np

from pyconvnet.layers import (
    LRN,
    Add,
    AvgPool2d,
    Concat,
    Constant,
    Conv2d,
    Dropout,
    Linear,
    Logistic,
    MaxPool2d,
    Normal,
    ReLU,
    SoftmaxCrossEntropy,
    SpatialLRN,
    Tanh,
)
from pyconvnet.network import Network


def plain(classes=4, size=8, channels=3):
    """conv - pool - fc, nothing special."""
    net = Network("plain", (size, size, channels))
    net.add(Conv2d(6, 3, pad=1, activation="relu", init=Normal(0.3)), "conv1").add(MaxPool2d(2, 2), "pool1")
    return net.add(Linear(classes, init=Normal(0.2)), "fc2").add(SoftmaxCrossEntropy(topk=2), "loss")


def everything(classes=5):
    """Every kind of layer, several inputs, an output read thrice, shared weights, two costs, a frozen
    layer.
    """
    net = Network("everything", (12, 11, 3))
    std = {"init": Normal(0.3), "bias_init": Constant(0.1)}
    net.add(Conv2d(8, (4, 3), stride=2, pad=((1, 2), (0, 1)), activation="relu", **std), "conv1")
    net.add(LRN(3, 0.9, 0.75, 1.5, groups=2), "norm1").add(MaxPool2d(3, 1, pad=1), "pool1")
    net.add(Conv2d(8, 3, pad=1, groups=2, **std), "conv2").add(SpatialLRN(3, 0.8, 0.75, 1.0), "norm2")
    net.add(Conv2d(8, 3, pad=1, groups=2, share="conv2"), "conv2again", inputs="pool1").add(Tanh(), "tanh")
    net.add(Conv2d(8, 1, frozen=True, **std), "frozen", inputs="pool1").add(Logistic(), "logistic")
    net.add(Add(), "add", inputs=["norm2", "tanh", "pool1"]).add(ReLU(), "relu")
    net.add(Concat(), "concat", inputs=["relu", "logistic"])
    net.add(AvgPool2d(2, 2, ceil_mode=True), "pool2").add(Dropout(0.4, "paper"), "drop")
    net.add(Linear(9, activation="relu", **std), "fc3").add(Dropout(0.3, "inverted"), "drop3")
    net.add(Linear(classes, **std), "fc4").add(SoftmaxCrossEntropy(weight=0.7, topk=2), "loss")
    net.add(Linear(classes, bias=False, init=Normal(0.3)), "side", inputs="pool2")
    return net.add(SoftmaxCrossEntropy(weight=0.3, topk=3), "sideloss")


def batch(net, n=4, seed=0):
    """Random images of unit variance and labels."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *net.input_shape)).astype(np.float32), rng.integers(net.classes, size=n)


def random_graph(seed, layers=9, classes=3):
    """A random graph: outputs read often or never, shared weights, frozen layers, one to three costs."""
    rng = np.random.default_rng(seed)
    net = Network(f"random{seed}", (5, 4, 4))
    names, convs = ["input"], []

    def pick(count=1):
        # Late layers more often than early ones, so that graphs are deep as well as wide.
        weights = np.arange(1, len(names) + 1.0) ** 2
        return [str(name) for name in rng.choice(names, count, p=weights / weights.sum())]

    for i in range(layers):
        kind = rng.choice(["conv", "conv", "shared", "tanh", "norm", "pool", "drop", "add", "add", "concat"])
        name = f"{kind}{i}"
        if kind == "concat":
            net.add(Concat(), f"cat{i}", inputs=pick(2))
            channels = net[f"cat{i}"].output_shape[-1]
            net.add(Conv2d(4, 1, init=Normal(0.5 / channels**0.5)), name, inputs=f"cat{i}")
        elif kind == "add":
            net.add(Add(), name, inputs=pick(int(rng.integers(2, 4))))
        else:
            groups, frozen = int(rng.choice([1, 2, 4])), bool(rng.random() < 0.2)
            conv = Conv2d(4, 3, pad=1, groups=groups, init=Normal(0.3), frozen=frozen)
            layer = {
                "conv": replace(conv, activation="relu") if rng.random() < 0.5 else conv,
                "shared": Conv2d(4, 3, pad=1, share=convs[0]) if convs else replace(conv, groups=1),
                "tanh": Tanh(),
                "norm": LRN(3, 0.8, 0.75, 1.0, groups=2),
                "pool": MaxPool2d(3, 1, pad=1),
                "drop": Dropout(0.3, str(rng.choice(["paper", "inverted"]))),
            }[kind]
            net.add(layer, name, inputs=pick())
            if kind == "shared":
                convs.append(name)
        names.append(name)
    for i, source in enumerate([names[-1], *pick(int(rng.integers(0, 3)))]):
        net.add(Linear(classes, init=Normal(0.2)), f"scores{i}", inputs=source)
        net.add(SoftmaxCrossEntropy(weight=float(rng.uniform(0.3, 2)), topk=2), f"cost{i}")
    return net
