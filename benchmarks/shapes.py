"""AlexNet's layers (section 3.5 and figure 2 of the paper), as the benchmarks time them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any


def _layer(name: str, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(name=name, **fields)


def alexnet_convs(batch: int, tiny: bool = False) -> Iterator[SimpleNamespace]:
    """conv1 to conv5: x (N, H, W, C), w (K, R, S, C/groups), y (N, P, Q, K), stride, pad, groups, flops.

    conv1's pad ((0, 3), (0, 3)) is the overhang of the original code: 224 pixels give 55 outputs. `tiny`
    keeps filters, strides and groups and shrinks extents and channels.
    """
    table = [
        ("conv1", 224, 3, 96, 11, 4, ((0, 3), (0, 3)), 1, 55),
        ("conv2", 27, 96, 256, 5, 1, 2, 2, 27),
        ("conv3", 13, 256, 384, 3, 1, 1, 1, 13),
        ("conv4", 13, 384, 384, 3, 1, 1, 2, 13),
        ("conv5", 13, 384, 256, 3, 1, 1, 2, 13),
    ]
    for name, h, c, k, r, stride, pad, groups, p in table:
        if tiny:
            h, p = (32, 7) if name == "conv1" else (5, 5)
            c, k = (c if c == 3 else c // 16), k // 16
        yield _layer(
            name,
            x=(batch, h, h, c),
            w=(k, r, r, c // groups),
            y=(batch, p, p, k),
            stride=stride,
            pad=pad,
            groups=groups,
            flops=2.0 * batch * p * p * k * r * r * (c // groups),
        )


def alexnet_pools(batch: int, tiny: bool = False) -> Iterator[SimpleNamespace]:
    """pool1, pool2, pool5: name, x (N, H, W, C), y (N, P, Q, C), size, stride."""
    for name, h, c, p in [("pool1", 55, 96, 27), ("pool2", 27, 256, 13), ("pool5", 13, 256, 6)]:
        if tiny:
            h, p, c = 7, 3, c // 16
        yield _layer(name, x=(batch, h, h, c), y=(batch, p, p, c), size=3, stride=2)


def alexnet_lrns(batch: int, tiny: bool = False) -> Iterator[SimpleNamespace]:
    """norm1 and norm2: name, x (N, H, W, C), groups (a window stays inside a tower)."""
    for name, h, c in [("norm1", 55, 96), ("norm2", 27, 256)]:
        if tiny:
            h, c = 5, c // 8
        yield _layer(name, x=(batch, h, h, c), groups=2)


def alexnet_linears(batch: int, tiny: bool = False) -> Iterator[SimpleNamespace]:
    """fc6, fc7, fc8: name, x (N, I), w (O, I), y (N, O)."""
    for name, i, o in [("fc6", 9216, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 1000)]:
        if tiny:
            i, o = i // 64, o // 64
        yield _layer(name, x=(batch, i), w=(o, i), y=(batch, o), flops=2.0 * batch * i * o)


def alexnet_maps(batch: int, tiny: bool = False) -> Iterator[SimpleNamespace]:
    """The outputs of the layers, for pointwise kernels: name, x."""
    for layer in (*alexnet_convs(batch, tiny), *alexnet_linears(batch, tiny)):
        yield _layer(layer.name, x=layer.y)
