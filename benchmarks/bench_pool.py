"""AlexNet's three overlapping pools, and cuda-convnet's average pools for CIFAR-10, both directions.

python benchmarks/bench_pool.py --device cuda:0 --batch 128 --json pool.json
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
from harness import Row, alexnet_pools, main

from pyconvnet import ops


@functools.lru_cache(maxsize=1)
def _image(shape: tuple[int, ...]) -> np.ndarray:
    """The forward input that a backward row's argmax belongs to."""
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def _max_rows(s: SimpleNamespace) -> Iterator[Row]:
    yield Row(
        name=s.name,
        op="max_pool2d",
        inputs={"x": s.x},
        call=lambda a, **kw: ops.max_pool2d(a["x"], s.size, s.stride, **kw),
        kernels=lambda device: ops.kernels("max_pool2d", s.x, s.size, s.stride, device=device),
        peer=lambda t, a: t.max_pool2d(a["x"], s.size, s.stride),
        compare=lambda result: result[0],
    )
    yield Row(
        name=s.name,
        op="max_pool2d_backward",
        inputs={
            "dy": s.y,
            "argmax": lambda rng: ops.max_pool2d(_image(s.x), s.size, s.stride)[1],
            "x": lambda rng: _image(s.x),  # for PyTorch, which makes its own indices of it
        },
        call=lambda a, **kw: ops.max_pool2d_backward(a["dy"], a["argmax"], s.x, s.size, s.stride, **kw),
        kernels=lambda device: ops.kernels("max_pool2d_backward", s.x, s.size, s.stride, device=device),
        bytes=5.0 * np.prod(s.y) + 4.0 * np.prod(s.x),
        peer=lambda t, a: t.max_pool2d_backward(a["dy"], a["x"], s.size, s.stride),
        shape=f"x{'x'.join(map(str, s.x))}",
    )


def _avg_rows(name: str, x: tuple[int, ...], y: tuple[int, ...]) -> Iterator[Row]:
    window = (3, 2, 0, True)
    yield Row(
        name=name,
        op="avg_pool2d",
        inputs={"x": x},
        call=lambda a, **kw: ops.avg_pool2d(a["x"], *window, **kw),
        kernels=lambda device: ops.kernels("avg_pool2d", x, *window, device=device),
        peer=lambda t, a: t.avg_pool2d(a["x"], *window),
    )
    yield Row(
        name=name,
        op="avg_pool2d_backward",
        inputs={"dy": y},
        call=lambda a, **kw: ops.avg_pool2d_backward(a["dy"], x, *window, **kw),
        kernels=lambda device: ops.kernels("avg_pool2d_backward", x, *window, device=device),
        peer=lambda t, a: t.avg_pool2d_backward(a["dy"], x, *window),
        shape=f"x{'x'.join(map(str, x))}",
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """AlexNet's layers, then the 80sec net's."""
    for s in alexnet_pools(batch, tiny):
        yield from _max_rows(s)
    for name, extent, channels in [("cifar pool2", 16, 32), ("cifar pool3", 8, 64)]:
        channels = channels // 8 if tiny else channels
        yield from _avg_rows(
            name, (batch, extent, extent, channels), (batch, extent // 2, extent // 2, channels)
        )


if __name__ == "__main__":
    main("pool", rows)
