"""Modules: ``torch.nn``'s under the same names, on the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..common import checks
from ..ops.conv import activation_code
from .conv import conv2d
from .linear import linear
from .loss import softmax_cross_entropy
from .lrn_max_pool import lrn_max_pool2d
from .norm import lrn
from .pointwise import relu
from .pool import avg_pool2d, max_pool2d


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` on the kernels, its weight in channels_last memory, which is theirs.

    The state dict is that of PyTorch's module, and so are the initial values.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, groups, bias, device, dtype :
        As in PyTorch; padding also ((top, bottom), (left, right)), but no string. There is no dilation.
    activation : None or "relu"
        Applied in the same pass.
    precision : None, "fp32", "tf32", "fp32x3" or "bf16"
        See :func:`conv2d`.

    Raises
    ------
    ValueError, TypeError
        An option that is none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        *,
        activation: str | None = None,
        precision: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ):
        padding = _padding("Conv2d", padding)
        activation_code("Conv2d", activation)
        how = {"stride": stride, "groups": groups, "bias": bias, "device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, kernel_size, **how)
        self.padding, self.activation, self.precision = padding, activation, precision
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve a batch (N, C, H, W)."""
        how = {"stride": self.stride, "pad": self.padding, "groups": self.groups}
        how |= {"activation": self.activation, "precision": self.precision}
        return conv2d(x, self.weight, self.bias, **how)

    def extra_repr(self) -> str:
        """Describe the options."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        text += f", padding={self.padding}, groups={self.groups}, bias={self.bias is not None}"
        return text + _told(activation=self.activation, precision=self.precision)


class Linear(nn.Linear):
    """``torch.nn.Linear`` on the kernels.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype :
        As in PyTorch.
    activation, precision :
        As of :class:`Conv2d`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str | None = None,
        precision: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ):
        activation_code("Linear", activation)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.activation, self.precision = activation, precision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer of rows (..., I)."""
        how = {"activation": self.activation, "precision": self.precision}
        return linear(x, self.weight, self.bias, **how)

    def extra_repr(self) -> str:
        """Describe the options."""
        return super().extra_repr() + _told(activation=self.activation, precision=self.precision)


class ReLU(nn.Module):
    """``torch.nn.ReLU`` on the kernels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Set what is negative to zero."""
        return relu(x)


class LocalResponseNorm(nn.Module):
    """Response normalisation across channels with the paper's formula, `alpha` times the plain sum.

    **This is not the meaning of torch.nn.LocalResponseNorm**, which divides alpha by `size`:
    :meth:`from_torch` converts, and ``torch.nn.LocalResponseNorm(5, alpha=5e-4, k=2)`` is
    ``LocalResponseNorm(5, alpha=1e-4, k=2)``, the paper's numbers and the defaults here.

    Parameters
    ----------
    size, alpha, beta, k, groups :
        As of :func:`lrn`.
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, groups: int = 1
    ):
        super().__init__()
        self.size = checks.integer("LocalResponseNorm", "size", size, 1)
        self.alpha, self.beta, self.k, self.groups = alpha, beta, k, groups

    @classmethod
    def from_torch(cls, module: nn.LocalResponseNorm) -> LocalResponseNorm:
        """Make the module that computes what PyTorch's does."""
        return cls(module.size, module.alpha / module.size, module.beta, module.k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch (N, C, H, W)."""
        return lrn(x, self.size, self.alpha, self.beta, self.k, self.groups)

    def extra_repr(self) -> str:
        """Describe the options."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, groups={self.groups}"


class _Pool2d(nn.Module):
    """What pooling modules share: PyTorch's options."""

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False):
        super().__init__()
        where, stride = type(self).__name__, kernel_size if stride is None else stride
        self.kernel_size = checks.pair(where, "kernel_size", kernel_size, 1)
        self.stride = checks.pair(where, "stride", stride, 1)
        self.padding = _padding(where, padding)
        self.ceil_mode = checks.flag(where, "ceil_mode", ceil_mode)

    def extra_repr(self) -> str:
        """Describe the options."""
        text = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{text}, ceil_mode={self.ceil_mode}"


class MaxPool2d(_Pool2d):
    """``torch.nn.MaxPool2d`` on the kernels; the paper's overlapping pooling is ``MaxPool2d(3, 2)``.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode :
        As in PyTorch; padding also ((top, bottom), (left, right)), smaller than kernel_size. There is no
        dilation.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take the largest of each window of a batch (N, C, H, W)."""
        return max_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)


class AvgPool2d(_Pool2d):
    """``torch.nn.AvgPool2d`` on the kernels.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad :
        As in PyTorch.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = checks.flag("AvgPool2d", "count_include_pad", count_include_pad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average each window of a batch (N, C, H, W)."""
        options = self.kernel_size, self.stride, self.padding, self.ceil_mode
        return avg_pool2d(x, *options, self.count_include_pad)

    def extra_repr(self) -> str:
        """Describe the options."""
        return f"{super().extra_repr()}, count_include_pad={self.count_include_pad}"


class LRNMaxPool2d(_Pool2d):
    """:class:`LocalResponseNorm` and then :class:`MaxPool2d` in one pass over memory.

    Parameters
    ----------
    norm : LocalResponseNorm
    kernel_size, stride, padding, ceil_mode :
        As of :class:`MaxPool2d`, with the paper's as defaults.
    """

    def __init__(
        self,
        norm: LocalResponseNorm,
        kernel_size: Any = 3,
        stride: Any = 2,
        padding: Any = 0,
        ceil_mode: bool = False,
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.norm = checks.check_type("LRNMaxPool2d: norm", norm, LocalResponseNorm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch (N, C, H, W) and take the largest of each window."""
        norm = self.norm
        how = {"lrn_size": norm.size, "alpha": norm.alpha, "beta": norm.beta, "k": norm.k}
        windows = {"size": self.kernel_size, "stride": self.stride, "pad": self.padding}
        return lrn_max_pool2d(x, groups=norm.groups, **how, **windows, ceil_mode=self.ceil_mode)


class CrossEntropyLoss(nn.Module):
    """``torch.nn.CrossEntropyLoss`` on the kernels: the mean over a batch.

    Parameters
    ----------
    weight : tensor (C,), optional
        Factors of the classes; as in PyTorch the mean divides by the sum of those of the batch's labels.
    """

    def __init__(self, weight: torch.Tensor | None = None):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss of logits (N, C) and labels (N,)."""
        if self.weight is None:
            return softmax_cross_entropy(logits, labels)
        loss = softmax_cross_entropy(logits, labels, class_weights=self.weight)
        return loss * (labels.shape[0] / self.weight[labels.long()].sum())


def _padding(where: str, value: Any) -> tuple:
    """Return a padding as (vertical, horizontal), as PyTorch's modules have it, where that says it all."""
    sides = checks.padding(where, "padding", value)
    (top, bottom), (left, right) = sides
    return (top, left) if (top, left) == (bottom, right) else sides


def _told(**options: Any) -> str:
    """Tell the options that are not None."""
    return "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
