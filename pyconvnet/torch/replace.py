"""PyTorch's layers in a model replaced by those on the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from . import modules


def _conv2d(layer: nn.Conv2d) -> nn.Module | None:
    if layer.dilation != (1, 1) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    options = layer.kernel_size, layer.stride, layer.padding, layer.groups, layer.bias is not None
    made = modules.Conv2d(layer.in_channels, layer.out_channels, *options, device="meta")
    return _with_parameters(made, layer)


def _linear(layer: nn.Linear) -> nn.Module:
    how = {"bias": layer.bias is not None, "device": "meta"}
    return _with_parameters(modules.Linear(layer.in_features, layer.out_features, **how), layer)


def _max_pool2d(layer: nn.MaxPool2d) -> nn.Module | None:
    if layer.dilation not in (1, (1, 1)) or layer.return_indices:
        return None
    return modules.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)


def _avg_pool2d(layer: nn.AvgPool2d) -> nn.Module | None:
    if layer.divisor_override is not None:
        return None
    options = layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode
    return modules.AvgPool2d(*options, layer.count_include_pad)


#: By the exact class: of subclasses nobody knows what they compute.
_REPLACEMENTS: dict[type, Callable[[Any], nn.Module | None]] = {
    nn.Conv2d: _conv2d,
    nn.Linear: _linear,
    nn.ReLU: lambda layer: modules.ReLU(),
    nn.LocalResponseNorm: modules.LocalResponseNorm.from_torch,
    nn.MaxPool2d: _max_pool2d,
    nn.AvgPool2d: _avg_pool2d,
}


def replace_layers(model: nn.Module) -> nn.Module:
    """Replace layers of PyTorch's in a model by those on the kernels, which compute the same.

    Conv2d, Linear, ReLU, LocalResponseNorm, MaxPool2d and AvgPool2d are replaced, with their parameters and
    so the state dict as they are; the weights of convolutions are put in channels_last memory. What the
    kernels do not have (dilation, padding that is not zeros, returned indices, other layers) stays, and so
    does a layer with hooks.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place; a layer itself is left as it is.

    Returns
    -------
    The model, or what replaces it where it is a layer.
    """
    return _replaced(model, {})


def _replaced(module: nn.Module, known: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return what a module becomes; `known`: what others became, for one that stands at several places."""
    if module not in known:
        known[module] = module
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _replaced(child, known)
        made = None if _hooked(module) else _REPLACEMENTS.get(type(module), lambda layer: None)(module)
        if made is not None:
            known[module] = made.train(module.training)
    return known[module]


def _hooked(module: nn.Module) -> bool:
    return any(hooks for name, hooks in vars(module).items() if name.endswith("_hooks"))


def _with_parameters(made: nn.Module, layer: nn.Module) -> nn.Module:
    """Give a module the very parameters of another: optimizers that know them go on knowing them."""
    made.weight, made.bias = layer.weight, layer.bias
    if layer.weight.dim() == 4:
        made.weight.data = made.weight.data.contiguous(memory_format=torch.channels_last)
    return made
