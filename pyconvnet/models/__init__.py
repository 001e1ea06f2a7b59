"""Networks by name.

``models.build("alexnet", classes=10)`` calls the function of that name with the options; each function
documents its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..network.network import Network
from .alexnet import alexnet, alexnet_2012
from .cifar import cifar10_18pct, cifar10_80sec
from .digits import digits

_MODELS: dict[str, Callable[..., Network]] = {
    f.__name__: f for f in (alexnet, alexnet_2012, cifar10_80sec, cifar10_18pct, digits)
}


def names() -> list[str]:
    """Return the names that :func:`build` and ``pyconvnet.train`` know."""
    return list(_MODELS)


def build(name: str, **options: Any) -> Network:
    """Build a network by name.

    Raises
    ------
    ValueError
        No such network, or an option it does not take.
    """
    if not isinstance(name, str):
        raise TypeError(f"model must be a name or a Network, got {type(name).__name__}")
    if name not in _MODELS:
        raise ValueError(f"model must be one of {', '.join(_MODELS)}, got {name!r}")
    try:
        return _MODELS[name](**options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"model {name!r}: {error}") from None


__all__ = [
    "alexnet",
    "alexnet_2012",
    "build",
    "cifar10_18pct",
    "cifar10_80sec",
    "digits",
    "names",
]
