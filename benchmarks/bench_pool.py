"""AlexNet's three overlapping pools, and cuda-convnet's average pools for CIFAR-10, both directions.

python benchmarks/bench_pool.py --device cuda:0 --batch 128 --json pool.json
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from harness import OnDevice, Row, alexnet_pools, images, main, separated

from pyconvnet import ops

PRECISIONS = {"fp32": 4, "bf16": 2}  # bytes of an element of a map


def _max_rows(s: SimpleNamespace, precision: str) -> Iterator[Row]:
    item = PRECISIONS[precision]

    @functools.lru_cache(maxsize=1)
    def example(device: Any) -> tuple[Any, Any]:
        """The forward input that a backward row's argmax belongs to, and that argmax."""
        x = separated(device, s.x, 1)
        return x, ops.max_pool2d(x, s.size, s.stride)[1]

    yield Row(
        name=s.name,
        op="max_pool2d",
        inputs={"x": s.x},
        call=lambda a, **kw: ops.max_pool2d(a["x"], s.size, s.stride, **kw),
        kernels=lambda device: ops.kernels("max_pool2d", s.x, s.size, s.stride, device=device),
        peer=lambda t, a: t.max_pool2d(a["x"], s.size, s.stride),
        compare=lambda result: result[0],
        exact=images("x"),
        precision=precision,
        half=("x",),
    )
    yield Row(
        name=s.name,
        op="max_pool2d_backward",
        inputs={
            "dy": s.y,
            "argmax": OnDevice(lambda device: example(device)[1].copy()),
            # For PyTorch, which makes its own indices of it.
            "x": OnDevice(lambda device: example(device)[0].copy()),
        },
        call=lambda a, **kw: ops.max_pool2d_backward(
            a["dy"], a["argmax"], (len(a["dy"]), *s.x[1:]), s.size, s.stride, **kw
        ),
        kernels=lambda device: ops.kernels("max_pool2d_backward", s.x, s.size, s.stride, device=device),
        bytes=(item + 1.0) * np.prod(s.y) + float(item) * np.prod(s.x),
        peer=lambda t, a: t.max_pool2d_backward(a["dy"], a["x"], s.size, s.stride),
        exact=images("dy", "argmax", "x"),
        shape=f"x{'x'.join(map(str, s.x))}",
        precision=precision,
        half=("dy", "x"),
    )


def _avg_rows(name: str, x: tuple[int, ...], y: tuple[int, ...], precision: str) -> Iterator[Row]:
    window = (3, 2, 0, True)
    yield Row(
        name=name,
        op="avg_pool2d",
        inputs={"x": x},
        call=lambda a, **kw: ops.avg_pool2d(a["x"], *window, **kw),
        kernels=lambda device: ops.kernels("avg_pool2d", x, *window, device=device),
        peer=lambda t, a: t.avg_pool2d(a["x"], *window),
        exact=images("x"),
        precision=precision,
        half=("x",),
    )
    yield Row(
        name=name,
        op="avg_pool2d_backward",
        inputs={"dy": y},
        call=lambda a, **kw: ops.avg_pool2d_backward(a["dy"], (len(a["dy"]), *x[1:]), *window, **kw),
        kernels=lambda device: ops.kernels("avg_pool2d_backward", x, *window, device=device),
        peer=lambda t, a: t.avg_pool2d_backward(a["dy"], x, *window),
        exact=images("dy"),
        shape=f"x{'x'.join(map(str, x))}",
        precision=precision,
        half=("dy",),
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """AlexNet's layers, then the 80sec net's."""
    for precision in PRECISIONS:
        for s in alexnet_pools(batch, tiny):
            yield from _max_rows(s, precision)
        for name, extent, channels in [("cifar pool2", 16, 32), ("cifar pool3", 8, 64)]:
            channels = channels // 8 if tiny else channels
            shapes = [(batch, e, e, channels) for e in (extent, extent // 2)]
            yield from _avg_rows(name, *shapes, precision)


if __name__ == "__main__":
    main("pool", rows)
