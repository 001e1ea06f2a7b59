"""Benchmark of the depth family, the filters of first layers: ``python benchmarks/bench_depth.py``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from harness import Row, main

from pyconvnet import ops


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    for name, shape, stride in (
        ("alexnet conv1", (8 if tiny else 96, 11, 11, 3), 4),
        ("3x3", (32, 3, 3, 3), 2),
    ):
        to = ops.depth.filters_shape(shape, stride, np.float32)
        text = f"{'x'.join(map(str, shape))} stride {stride}"
        moved = 4.0 * (np.prod(shape) + np.prod(to))
        yield Row(
            name=name,
            op="filters_to_depth",
            inputs={"w": shape},
            call=lambda a, stride=stride, **kw: ops.depth.filters_to_depth(a["w"], stride, **kw),
            kernels=lambda device, s=shape, t=stride: ops.kernels("filters_to_depth", s, t, device=device),
            shape=text,
            bytes=moved,
        )
        yield Row(
            name=name,
            op="filters_from_depth",
            inputs={"filters": to},
            call=lambda a, s=shape, t=stride, **kw: ops.depth.filters_from_depth(a["filters"], s, t, **kw),
            kernels=lambda device, s=shape, t=stride: ops.kernels("filters_from_depth", s, t, device=device),
            shape=text,
            bytes=moved,
        )


if __name__ == "__main__":
    main("depth", rows)
