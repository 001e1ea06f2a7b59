"""What every function, operator and module of ``pyconvnet.torch`` is tried on, and PyTorch's equals."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

import pyconvnet.torch as pt
from pyconvnet import ops

LABELS = torch.tensor([2, 0, 1])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)


class Case(NamedTuple):
    """A call of a function."""

    function: Callable[..., torch.Tensor]  #: of the tensors alone
    equal: Callable[..., torch.Tensor]  #: the same by PyTorch
    tensors: Callable[[torch.Generator], tuple[torch.Tensor, ...]]
    constants: tuple[torch.Tensor, ...] = ()  #: that follow, without a derivative


def _normal(*shape: int) -> Callable[[torch.Generator], torch.Tensor]:
    """Numbers no two of which are so close that a difference quotient confuses them, none next to zero."""

    def draw(generator: torch.Generator) -> torch.Tensor:
        count = torch.Size(shape).numel()
        steps = (torch.randperm(count, generator=generator, dtype=torch.float64) - count / 2 + 0.25) / count
        made = (4 * steps).reshape(shape)
        return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made

    return draw


def _all(*shapes: tuple[int, ...]) -> Callable[[torch.Generator], tuple[torch.Tensor, ...]]:
    return lambda generator: tuple(_normal(*shape)(generator) for shape in shapes)


def _padded(x: torch.Tensor) -> torch.Tensor:
    return F.pad(x, (1, 0, 2, 1))


def _kept(x: torch.Tensor) -> torch.Tensor:
    """What dropout keeps, as an array's Philox says."""
    rows = x.detach().permute(0, 2, 3, 1).contiguous().double().numpy()
    with ops.on("cpu"):
        _, mask = ops.dropout(rows, 0.25, 3, 7, 1)
    return torch.from_numpy(mask).permute(0, 3, 1, 2).to(x.dtype)


#: By name of the function; where there are several, the first is what the others are variations of.
FUNCTIONS: dict[str, list[Case]] = {
    "conv2d": [
        Case(
            lambda x, w, b: pt.conv2d(x, w, b, stride=2, pad=1, groups=2, activation="relu"),
            lambda x, w, b: F.relu(F.conv2d(x, w, b, 2, 1, 1, 2)),
            _all((1, 4, 6, 5), (4, 2, 3, 2), (4,)),
        ),
        Case(
            lambda x, w: pt.conv2d(x, w, pad=((2, 1), (1, 0))),
            lambda x, w: F.conv2d(_padded(x), w),
            _all((2, 3, 5, 6), (4, 3, 2, 3)),
        ),
    ],
    "linear": [
        Case(
            lambda x, w, b: pt.linear(x, w, b, activation="relu"),
            lambda x, w, b: F.relu(F.linear(x, w, b)),
            _all((3, 6), (4, 6), (4,)),
        ),
        Case(pt.linear, F.linear, _all((2, 3, 4), (5, 4))),
    ],
    "lrn": [
        Case(
            lambda x: pt.lrn(x, 4, 0.05, 0.75, 1.5),
            lambda x: F.local_response_norm(x, 4, 0.2, 0.75, 1.5),
            _all((2, 8, 3, 3)),
        ),
        Case(
            lambda x: pt.lrn(x, 5, 0.1, groups=2),
            lambda x: torch.cat(
                [F.local_response_norm(part, 5, 0.5, 0.75, 2.0) for part in x.split(4, 1)], 1
            ),
            _all((2, 8, 3, 2)),
        ),
    ],
    "max_pool2d": [
        Case(pt.max_pool2d, lambda x: F.max_pool2d(x, 3, 2), _all((2, 3, 7, 6))),
        Case(
            lambda x: pt.max_pool2d(x, (2, 3), 2, (0, 1), True),
            lambda x: F.max_pool2d(x, (2, 3), 2, (0, 1), ceil_mode=True),
            _all((2, 3, 5, 6)),
        ),
    ],
    "avg_pool2d": [
        Case(
            lambda x: pt.avg_pool2d(x, 3, 2, 1, count_include_pad=True),
            lambda x: F.avg_pool2d(x, 3, 2, 1),
            _all((2, 3, 7, 6)),
        ),
        Case(
            lambda x: pt.avg_pool2d(x, 3, 2, 1),
            lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            _all((2, 3, 6, 6)),
        ),
    ],
    "lrn_max_pool2d": [
        Case(
            lambda x: pt.lrn_max_pool2d(x, alpha=0.1, ceil_mode=True),
            lambda x: F.max_pool2d(F.local_response_norm(x, 5, 0.5, 0.75, 2.0), 3, 2, ceil_mode=True),
            _all((2, 6, 6, 5)),
        ),
    ],
    "relu": [
        Case(pt.relu, F.relu, _all((2, 3, 2, 2))),
        Case(pt.relu, F.relu, _all((2, 3, 4))),
    ],
    "dropout": [
        Case(
            lambda x: pt.dropout(x, 0.25, seed=3, step=7, layer=1),
            lambda x: x * _kept(x) / 0.75,
            _all((2, 3, 4, 2)),
        )
    ],
    "softmax_cross_entropy": [
        Case(pt.softmax_cross_entropy, F.cross_entropy, _all((3, 4)), (LABELS,)),
        Case(
            lambda x, labels, w: pt.softmax_cross_entropy(x, labels, class_weights=w),
            lambda x, labels, w: F.cross_entropy(x, labels, w, reduction="sum") / 3,
            _all((3, 4)),
            (LABELS, WEIGHTS),
        ),
    ],
}


_WINDOWS = [3, 3], [2, 2], [1, 0, 0, 1], False
_NORM = 5, 0.1, 0.75, 2.0, 2
_CONV = [1, 1], [1, 1, 1, 1], 2


def _t(*shape: int, seed: int = 0, grad: bool = True) -> torch.Tensor:
    return _normal(*shape)(torch.Generator().manual_seed(seed)).float().requires_grad_(grad)


def _places(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)


#: By name of the operator, the arguments of a call; those of functions have a derivative.
OPERATORS: dict[str, Callable[[], tuple]] = {
    "conv2d": lambda: (_t(2, 4, 5, 4), _t(6, 2, 3, 3), _t(6), *_CONV, "relu", None),
    "conv2d_dgrad": lambda: (
        _t(2, 6, 5, 4, grad=False), _t(6, 2, 3, 3, grad=False), [2, 4, 5, 4], *_CONV, None,
    ),
    "conv2d_wgrad": lambda: (
        _t(2, 6, 5, 4, grad=False), _t(2, 4, 5, 4, grad=False), [6, 2, 3, 3], *_CONV, True, None,
    ),
    "linear": lambda: (_t(3, 4), _t(5, 4), _t(5), "relu", None),
    "linear_dgrad": lambda: (_t(3, 5, grad=False), _t(5, 4, grad=False), None),
    "linear_wgrad": lambda: (_t(3, 5, grad=False), _t(3, 4, grad=False), True, None),
    "lrn": lambda: (_t(2, 4, 3, 3), *_NORM),
    "lrn_backward": lambda: (
        *(_t(2, 4, 3, 3, grad=False) for _ in range(3)), _t(2, 4, 3, 3, grad=False).abs() + 1,
        5, 0.1, 0.75, 2,
    ),
    "max_pool2d": lambda: (_t(2, 4, 6, 5), *_WINDOWS),
    "max_pool2d_backward": lambda: (
        _t(2, 4, 3, 2, grad=False), _places(2, 4, 3, 2), [2, 4, 6, 5], *_WINDOWS,
    ),
    "avg_pool2d": lambda: (_t(2, 4, 6, 5), *_WINDOWS, True),
    "avg_pool2d_backward": lambda: (_t(2, 4, 3, 2, grad=False), [2, 4, 6, 5], *_WINDOWS, True),
    "lrn_max_pool2d": lambda: (_t(2, 4, 6, 5), *_NORM, *_WINDOWS),
    "lrn_max_pool2d_backward": lambda: (
        _t(2, 4, 3, 2, grad=False), _places(2, 4, 3, 2), _t(2, 4, 6, 5, grad=False), *_NORM, *_WINDOWS,
    ),
    "relu": lambda: (_t(2, 4, 3, 3),),
    "relu_backward": lambda: (_t(2, 4, 3, 3, grad=False), _t(2, 4, 3, 3, seed=1, grad=False)),
    "bias_backward": lambda: (_t(2, 4, 3, 3, grad=False),),
    "dropout": lambda: (_t(2, 4, 3, 3), 0.5, 1, 2, 3),
    "dropout_backward": lambda: (_t(2, 4, 3, 3, grad=False), _places(2, 4, 3, 3), 0.5),
    "softmax_cross_entropy": lambda: (_t(3, 4), LABELS, WEIGHTS.float()),
}  # fmt: skip

#: By name of the module: ours, PyTorch's, the shape of the input.
MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv2d": (
        lambda: pt.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        (2, 4, 7, 6),
    ),
    "Linear": (lambda: pt.Linear(5, 3), lambda: nn.Linear(5, 3), (2, 5)),
    "ReLU": (pt.ReLU, nn.ReLU, (2, 3, 4, 4)),
    "LocalResponseNorm": (
        lambda: pt.LocalResponseNorm(5, alpha=1e-1, k=2),
        lambda: nn.LocalResponseNorm(5, alpha=5e-1, k=2),
        (2, 7, 3, 3),
    ),
    "MaxPool2d": (lambda: pt.MaxPool2d(3, 2), lambda: nn.MaxPool2d(3, 2), (2, 3, 7, 6)),
    "AvgPool2d": (lambda: pt.AvgPool2d(3, padding=1), lambda: nn.AvgPool2d(3, padding=1), (2, 3, 7, 6)),
    "LRNMaxPool2d": (
        lambda: pt.LRNMaxPool2d(pt.LocalResponseNorm(alpha=0.1)),
        lambda: nn.Sequential(nn.LocalResponseNorm(5, 0.5, k=2.0), nn.MaxPool2d(3, 2)),
        (2, 6, 7, 5),
    ),
}
