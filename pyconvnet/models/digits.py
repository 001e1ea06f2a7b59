"""A small net for scikit-learn's 8x8 handwritten digits: trains in seconds on a CPU."""

from __future__ import annotations

from ..common.checks import check_number
from ..layers import (
    Constant,
    Conv2d,
    Dropout,
    Initialiser,
    Linear,
    MaxPool2d,
    Normal,
    SoftmaxCrossEntropy,
)
from ..network.network import Network


def digits(
    classes: int = 10, *, input_shape: tuple[int, int, int] = (8, 8, 1), init: Initialiser | str | None = None
) -> Network:
    """Build conv 32 - conv 64 - max pool - fc 128 - dropout - fc ``classes``; below 2% held-out error.

    Parameters
    ----------
    classes : int
    input_shape : (H, W, C)
        (8, 8, 1) for scikit-learn's digits; any small image will do.
    init : Initialiser or str, optional
        Initial values in place of its own; see :class:`pyconvnet.Network`.
    """
    check_number("digits: classes", classes, "positive int")
    recipe = {
        "epochs": 30,
        "batch_size": 32,
        "lr": 0.02,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": [(20, 0.1), (27, 0.1)],
        "augment": {"mean": "image", "scale": 1 / 64},
    }
    net = Network("digits", input_shape, recipe, init)
    channels = net.input_shape[-1]

    def he(fan_in: int) -> Normal:
        return Normal((2.0 / fan_in) ** 0.5)

    net.add(Conv2d(32, 3, pad=1, activation="relu", init=he(9 * channels)), "conv1")
    net.add(Conv2d(64, 3, pad=1, activation="relu", init=he(9 * 32)), "conv2").add(MaxPool2d(2, 2), "pool2")
    h, w, _ = net["pool2"].output_shape
    net.add(Linear(128, activation="relu", init=he(h * w * 64), bias_init=Constant(0.1)), "fc3")
    net.add(Dropout(0.5, "inverted"), "drop3").add(Linear(classes, init=Normal(0.05)), "fc4")
    return net.add(SoftmaxCrossEntropy(), "loss")
