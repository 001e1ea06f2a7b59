"""Layers: hyper-parameters, shapes, and forward and backward in terms of :mod:`pyconvnet.ops`."""

# ruff: noqa: F401  (all that is imported here is meant to be read from here)

from ..common.names import public_names as _public_names
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

__all__ = _public_names(globals())
