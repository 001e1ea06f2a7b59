"""Layers: hyper-parameters, shapes, and forward and backward in terms of :mod:`pyconvnet.ops`."""

from .base import Context, Layer, Parameter, Slice, WeightLayer, from_dict, register
from .conv import Conv2d
from .initialisers import (
    Constant,
    Initialiser,
    Normal,
    Orthogonal,
    Uniform,
    VarianceScaling,
    initialiser,
)
from .linear import Linear
from .loss import SoftmaxCrossEntropy
from .norm import LRN, SpatialLRN
from .pointwise import Add, Concat, Dropout, Logistic, ReLU, Tanh
from .pool import AvgPool2d, MaxPool2d

__all__ = [
    "LRN",
    "Add",
    "AvgPool2d",
    "Concat",
    "Constant",
    "Context",
    "Conv2d",
    "Dropout",
    "Initialiser",
    "Layer",
    "Linear",
    "Logistic",
    "MaxPool2d",
    "Normal",
    "Orthogonal",
    "Parameter",
    "ReLU",
    "Slice",
    "SoftmaxCrossEntropy",
    "SpatialLRN",
    "Tanh",
    "Uniform",
    "VarianceScaling",
    "WeightLayer",
    "from_dict",
    "initialiser",
    "register",
]
