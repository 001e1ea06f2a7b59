"""The kernels as functions on arrays.

Arrays in, arrays out; the device is the arrays' own: NumPy arrays run on ``cpu`` (inside
``ops.on("emulator")`` on the emulated kernels), CuPy arrays and everything with
``__cuda_array_interface__`` or DLPack on their GPU, on the caller's current stream. Layouts: activations
N, H, W, C; filters K, R, S, C / groups; channels last. Every function takes ``out=`` and allocates only
without it. An output shares no memory with an input or another output, but may be an input itself where
its function says so. Masked arrays are refused, other subclasses of ``numpy.ndarray`` seen as plain arrays.
:mod:`pyconvnet.ops.space_to_depth` has what first layers with a stride can do with their images.
"""

# ruff: noqa: F401  (all that is imported here is meant to be read from here)

from ..common.names import public_names as _public_names
from . import space_to_depth
from .arrays import on
from .augment import augment
from .bias_relu_dropout import bias_relu_dropout
from .conv import conv2d, conv2d_dgrad, conv2d_wgrad
from .core import kernels
from .launch import Launch, Prepared, choice, problems
from .linear import linear, linear_dgrad, linear_wgrad
from .loss import softmax, softmax_cross_entropy
from .lrn_max_pool import lrn_max_pool2d, lrn_max_pool2d_backward
from .norm import lrn, lrn_backward, lrn_spatial, lrn_spatial_backward
from .operation import Repeated, perform, recording
from .optim import sgd_momentum
from .pointwise import (
    add,
    add_bias,
    bias_backward,
    concat,
    dropout,
    dropout_backward,
    logistic,
    logistic_backward,
    relu,
    relu_backward,
    split,
    tanh,
    tanh_backward,
)
from .pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from .space_to_depth import filters_from_depth, filters_to_depth

depth = space_to_depth  #: the name until 0.1

__all__ = _public_names(globals())
