"""Every operation in NumPy: the `cpu` device, and the oracle of the kernel tests.

The functions take arguments that `pyconvnet.ops` has already checked and normalised (use that module from
outside) and fill `out` completely. float32, float64, and bfloat16 computed in float32 and rounded once; the
result has the dtype of the first array.
Threads: see `pyconvnet.common.threads`.

`linear` and `augment` here are the functions; their modules of the same name are reached through
`sys.modules` only.
"""

# ruff: noqa: F401  (all that is imported here is meant to be read from here)

from ...common import philox
from .augment import augment
from .conv import conv2d, conv2d_dgrad, conv2d_wgrad
from .linear import linear, linear_dgrad, linear_wgrad
from .loss import softmax, softmax_cross_entropy
from .norm import (
    lrn,
    lrn_backward,
    lrn_max_pool2d,
    lrn_max_pool2d_backward,
    lrn_spatial,
    lrn_spatial_backward,
)
from .optim import sgd_momentum
from .pointwise import (
    add,
    add_bias,
    bias_backward,
    bias_relu_dropout,
    concat,
    dropout,
    dropout_backward,
    dropout_threshold,
    logistic,
    logistic_backward,
    relu,
    relu_backward,
    split,
    tanh,
    tanh_backward,
)
from .pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
