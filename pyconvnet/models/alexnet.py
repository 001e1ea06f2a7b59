"""AlexNet: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet classification with deep convolutional neural
networks", 2012.
"""

from __future__ import annotations

from ..common.checks import check_number
from ..layers import (
    LRN,
    Constant,
    Conv2d,
    Dropout,
    Initialiser,
    Linear,
    MaxPool2d,
    Normal,
    ReLU,
    SoftmaxCrossEntropy,
    SpatialLRN,
)
from ..network.network import Network

#: How an 11x11 stride-4 window finds 55 positions: route -> (input for 55 positions, padding of the first
#: convolution).
ROUTES = {
    "overhang": (224, ((0, 3), (0, 3))),  # the 2012 code: windows hang 3 zeros over the right and bottom edge
    "crop227": (227, 0),  # Caffe: a larger crop, exact
    "pad2": (224, 2),  # Torch: 2 zeros left and top, 1 of the 2 right and bottom used
}

_TRAINING = {
    "batch_size": 128,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "epochs": 90,
    "schedule": "plateau:factor=0.1,patience=2,times=3",
}


def _input(model: str, route: str, input_size: int | None) -> tuple[int, object]:
    if route not in ROUTES:
        raise ValueError(f"{model}: route must be one of {', '.join(ROUTES)}, got {route!r}")
    size, pad = ROUTES[route]
    if input_size is not None:
        check_number(f"{model}: input_size", input_size, "positive int")
        size = input_size
    return size, pad


def _widths(model: str, width: float, groups: int) -> tuple[int, ...]:
    """Return the paper's filter counts times ``width``, in multiples of 2 * groups: towers stay whole."""
    check_number(f"{model}: width", width, "number >= 0")
    check_number(f"{model}: groups", groups, "positive int")
    step = 2 * groups
    return tuple(
        max(step, round(full * width / step) * step) for full in (96, 256, 384, 384, 256, 4096, 4096)
    )


def alexnet(
    classes: int = 1000,
    *,
    route: str = "overhang",
    groups: int = 2,
    input_size: int | None = None,
    width: float = 1.0,
    dropout: float = 0.5,
    lrn_alpha: float = 1e-4,
    init: Initialiser | str | None = None,
) -> Network:
    """Build the network the paper prints: 60,965,224 parameters at 1000 classes, two towers as ``groups=2``.

    Five convolutions (the 2nd, 4th and 5th inside their tower) and three fully connected layers; ReLU after
    every layer; response normalisation (k=2, n=5, alpha=1e-4, beta=0.75, alpha not divided by n, windows
    inside a tower) after the first two, overlapping max pooling 3/2 after 1, 2 and 5; dropout 0.5 on fc6 and
    fc7. Weights start from N(0, 0.01), biases from 1 in conv2, conv4, conv5, fc6 and fc7, from 0 elsewhere
    (section 5).

    Parameters
    ----------
    classes : int
    route : "overhang", "crop227" or "pad2"
        Which of the published ways gives the first layer 55 positions: 224 pixels with 3 zeros right and
        bottom (the 2012 code), a crop of 227 (Caffe), 224 pixels with padding 2 (Torch).
    groups : int
        Towers; 1 makes one tower of the same width (no longer the paper's count of parameters).
    input_size : int, optional
        Side of the input, for reduced experiments; at least 67.
    width : float
        Factor on the number of filters and hidden units, for reduced experiments.
    dropout : float
        Probability of zero in fc6 and fc7.
    lrn_alpha : float
        Response normalisation's alpha (tests use values near 1, where the layer matters).
    init : Initialiser or str, optional
        Initial values in place of the paper's, "he" say; see :class:`pyconvnet.Network`.
    """
    check_number("alexnet: classes", classes, "positive int")
    size, pad = _input("alexnet", route, input_size)
    k1, k2, k3, k4, k5, f6, f7 = _widths("alexnet", width, groups)
    norm = LRN(5, lrn_alpha, 0.75, 2.0, groups)
    one = Constant(1.0)
    augment = {"crop": size, "mirror": True, "pca": 0.1, "mean": "image"}
    net = Network("alexnet", (size, size, 3), {**_TRAINING, "augment": augment}, init)
    net.add(Conv2d(k1, 11, stride=4, pad=pad, activation="relu"), "conv1").add(norm, "norm1").add(
        MaxPool2d(), "pool1"
    )
    net.add(Conv2d(k2, 5, pad=2, groups=groups, activation="relu", bias_init=one), "conv2")
    net.add(norm, "norm2").add(MaxPool2d(), "pool2")
    net.add(Conv2d(k3, 3, pad=1, activation="relu"), "conv3")
    net.add(Conv2d(k4, 3, pad=1, groups=groups, activation="relu", bias_init=one), "conv4")
    net.add(Conv2d(k5, 3, pad=1, groups=groups, activation="relu", bias_init=one), "conv5").add(
        MaxPool2d(), "pool5"
    )
    net.add(Linear(f6, activation="relu", bias_init=one), "fc6").add(Dropout(dropout, "paper"), "drop6")
    net.add(Linear(f7, activation="relu", bias_init=one), "fc7").add(Dropout(dropout, "paper"), "drop7")
    return net.add(Linear(classes), "fc8").add(SoftmaxCrossEntropy(), "loss")


def alexnet_2012(
    classes: int = 1000,
    *,
    groups: int = 2,
    input_size: int | None = None,
    width: float = 1.0,
    dropout: float = 0.5,
    lrn_alpha: float = 1e-4 / 5,
    spatial_alpha: float = 1e-3 / 25,
    init: Initialiser | str | None = None,
) -> Network:
    """Build AlexNet as the original code ran it (its released definition files, network 145), where it
    differs from the paper.

    * conv1 is linear, then response normalisation, pooling, and only then ReLU.
    * Response normalisation divides alpha by the window: 1e-4 / 5 = 2e-5 in this library's convention.
    * After conv2's normalisation comes a second one over 5x5 pixels of the same map (scale 1e-3 / 25, k = 1).
    * conv3, conv4 and conv5 start from N(0, 0.03); conv5 is linear, its ReLU comes after the pooling.
    * Biases learn at 0.02 where weights learn at 0.01, and are not decayed.
    * Colour noise uses standard deviations, and its images are divided by 1.1; ``recipe`` says both.
    * Pools round up (the sizes come out the same); input of 224 with the overhanging first layer only.

    Parameters
    ----------
    classes, groups, input_size, width, dropout, lrn_alpha :
        As for :func:`alexnet`.
    spatial_alpha : float
        Alpha of the normalisation over pixels.
    init : Initialiser or str, optional
        As for :func:`alexnet`.
    """
    check_number("alexnet_2012: classes", classes, "positive int")
    size, pad = _input("alexnet_2012", "overhang", input_size)
    k1, k2, k3, k4, k5, f6, f7 = _widths("alexnet_2012", width, groups)
    norm = LRN(5, lrn_alpha, 0.75, 2.0, groups)
    pool = MaxPool2d(3, 2, ceil_mode=True)
    one, bias = Constant(1.0), {"bias_lr_mult": 2.0}
    augment = {"crop": size, "mirror": True, "pca": 0.1, "mean": "image", "scale": 1 / 1.1}
    schedule = [(25, 0.1), (51, 0.1), (79, 0.1)]  # by hand, from the run's notes
    net = Network(
        "alexnet_2012",
        (size, size, 3),
        {**_TRAINING, "epochs": 91, "schedule": schedule, "augment": augment},
        init,
    )
    net.add(Conv2d(k1, 11, stride=4, pad=pad, **bias), "conv1").add(norm, "norm1").add(pool, "pool1").add(
        ReLU(), "relu1"
    )
    net.add(Conv2d(k2, 5, pad=2, groups=groups, activation="relu", bias_init=one, **bias), "conv2").add(
        norm, "norm2"
    )
    net.add(SpatialLRN(5, spatial_alpha, 0.75, 1.0), "cnorm2").add(pool, "pool2")
    wide = {"init": Normal(0.03), **bias}
    net.add(Conv2d(k3, 3, pad=1, activation="relu", **wide), "conv3")
    net.add(Conv2d(k4, 3, pad=1, groups=groups, activation="relu", bias_init=one, **wide), "conv4")
    net.add(Conv2d(k5, 3, pad=1, groups=groups, bias_init=one, **wide), "conv5").add(pool, "pool5").add(
        ReLU(), "relu5"
    )
    net.add(Linear(f6, activation="relu", bias_init=one, **bias), "fc6").add(
        Dropout(dropout, "paper"), "drop6"
    )
    net.add(Linear(f7, activation="relu", bias_init=one, **bias), "fc7").add(
        Dropout(dropout, "paper"), "drop7"
    )
    return net.add(Linear(classes, **bias), "fc8").add(SoftmaxCrossEntropy(), "loss")
