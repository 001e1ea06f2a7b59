"""The kernels inside PyTorch: functions on tensors, and modules, that autograd and ``torch.compile`` know.

Functions are :mod:`pyconvnet.ops`' under the same names and with the same options, on PyTorch's tensors
(N, C, H, W) and filters (K, C / groups, R, S); modules are ``torch.nn``'s under the same names, with the same
arguments and state dicts, but for :class:`LocalResponseNorm`, which keeps the paper's formula. Nothing is
copied where tensors are in ``torch.channels_last`` memory, which is the kernels' own layout; others are
converted first. Results are in ``channels_last``.

CPU tensors run on the ``cpu`` device (inside ``ops.on("emulator")`` on the emulated kernels), CUDA tensors on
their GPU, on PyTorch's current stream, with results and scratch memory from PyTorch's allocator. Tensors are
float32 or bfloat16, on the CPU also float64; float16 is refused. Beside bfloat16 activations, weights and
biases may be float32, and their gradients are then not rounded. Each function is an operator of
``torch.library`` with its derivative, ``torch.ops.pyconvnet.conv2d`` and so on; second derivatives there are
none.
"""

# ruff: noqa: F401  (all that is imported here is meant to be read from here)

from ..common.names import public_names as _public_names

try:
    import torch as _torch
except ImportError as _error:
    raise ImportError(
        f"pyconvnet.torch needs PyTorch, which cannot be imported ({_error}); install it with: "
        "pip install torch"
    ) from None

from .conv import conv2d
from .linear import linear
from .loss import softmax_cross_entropy
from .lrn_max_pool import lrn_max_pool2d
from .modules import (
    AvgPool2d,
    Conv2d,
    CrossEntropyLoss,
    Linear,
    LocalResponseNorm,
    LRNMaxPool2d,
    MaxPool2d,
    ReLU,
)
from .norm import lrn
from .pointwise import dropout, relu
from .pool import avg_pool2d, max_pool2d
from .replace import replace_layers

__all__ = _public_names(globals())
