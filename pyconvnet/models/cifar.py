"""cuda-convnet's nets for CIFAR-10, with its own learning rates (``example-layers/`` of cuda-convnet, 2011).

cuda-convnet subtracts the mean image and feeds pixels from 0 to 255 as they are; weights learn at 0.001,
biases at 0.002, and the weight decay is per layer. The recipes below carry the run's values, the layers the
factors on them.
"""

from __future__ import annotations

from ..common.checks import check_number
from ..layers import (
    AvgPool2d,
    Conv2d,
    Initialiser,
    Linear,
    MaxPool2d,
    Normal,
    ReLU,
    SoftmaxCrossEntropy,
    SpatialLRN,
)
from ..network.network import Network

_DECAY = 0.004  # of the convolutions; the fully connected layers' decay is a multiple of it
_RECIPE = {
    "batch_size": 128,
    "lr": 0.001,
    "momentum": 0.9,
    "weight_decay": _DECAY,
    "augment": {"mean": "image"},
}


def _conv(filters: int, std: float, activation: str | None = "relu") -> Conv2d:
    return Conv2d(filters, 5, pad=2, activation=activation, init=Normal(std), bias_lr_mult=2.0)


def _fc(outputs: int, std: float, decay: float, activation: str | None = None) -> Linear:
    return Linear(
        outputs, activation=activation, init=Normal(std), bias_lr_mult=2.0, decay_mult=decay / _DECAY
    )


def cifar10_80sec(
    classes: int = 10,
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    init: Initialiser | str | None = None,
) -> Network:
    """Build ``layers-80sec.cfg``: 26% test error, in 80 seconds of 2011. Rates divided by ten after epoch 8.

    conv 32 - max pool - ReLU - conv 32 ReLU - mean pool - conv 64 ReLU - mean pool - fc 64 ReLU - fc
    ``classes``.

    Parameters
    ----------
    classes : int
    input_shape : (H, W, C)
    init : Initialiser or str, optional
        Initial values in place of those above, "he" say; see :class:`pyconvnet.Network`.
    """
    check_number("cifar10_80sec: classes", classes, "positive int")
    net = Network("cifar10_80sec", input_shape, {**_RECIPE, "epochs": 10, "schedule": [(8, 0.1)]}, init)
    net.add(_conv(32, 1e-4, None), "conv1").add(MaxPool2d(ceil_mode=True), "pool1").add(ReLU(), "relu1")
    net.add(_conv(32, 0.01), "conv2").add(AvgPool2d(ceil_mode=True), "pool2")
    net.add(_conv(64, 0.01), "conv3").add(AvgPool2d(ceil_mode=True), "pool3")
    net.add(_fc(64, 0.1, 0.03, "relu"), "fc64").add(_fc(classes, 0.1, 0.03), "fc10")
    return net.add(SoftmaxCrossEntropy(), "loss")


def cifar10_18pct(
    classes: int = 10,
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    init: Initialiser | str | None = None,
) -> Network:
    """Build ``layers-18pct.cfg``: 18% test error, in 20 minutes of 2011. Rates divided by ten after epochs
    120 and 130.

    Response normalisation over 3x3 pixels of the same map follows the first two pools (scale 5e-5 / 9, k =
    1).

    Parameters
    ----------
    classes : int
    input_shape : (H, W, C)
    init : Initialiser or str, optional
        Initial values in place of those above, "he" say; see :class:`pyconvnet.Network`.
    """
    check_number("cifar10_18pct: classes", classes, "positive int")
    recipe = {**_RECIPE, "epochs": 140, "schedule": [(120, 0.1), (130, 0.1)]}
    norm = SpatialLRN(3, 5e-5 / 9, 0.75, 1.0)
    net = Network("cifar10_18pct", input_shape, recipe, init)
    net.add(_conv(32, 1e-4, None), "conv1").add(MaxPool2d(ceil_mode=True), "pool1").add(ReLU(), "relu1").add(
        norm, "norm1"
    )
    net.add(_conv(32, 0.01), "conv2").add(AvgPool2d(ceil_mode=True), "pool2").add(norm, "norm2")
    net.add(_conv(64, 0.01), "conv3").add(AvgPool2d(ceil_mode=True), "pool3")
    return net.add(_fc(classes, 0.01, 1.0), "fc10").add(SoftmaxCrossEntropy(), "loss")
