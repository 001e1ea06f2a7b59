"""Benchmark of the augment family: ``python benchmarks/bench_augment.py``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from harness import Row, images, main

from pyconvnet import ops


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    table = [  # name, edge of the image, of the crop, channels
        ("ilsvrc", 32 if tiny else 256, 27 if tiny else 224, 3),
        ("cifar10", 32, 24, 3),
        ("gray", 32 if tiny else 256, 27 if tiny else 224, 1),
    ]
    for name, edge, size, channels in table:
        shape = (batch, edge, edge, channels)
        pixels = batch * size * size * channels
        for dtype in (np.uint8, np.float32):
            yield Row(
                name=name,
                op="augment",
                inputs={
                    "images": lambda rng, shape=shape, dtype=dtype: rng.integers(0, 256, shape).astype(dtype),
                    "crop": lambda rng, room=edge - size: rng.integers(0, room + 1, (batch, 2)).astype(
                        np.int32
                    ),
                    "mirror": lambda rng: rng.integers(0, 2, batch, dtype=np.uint8),
                    "colour": (batch, channels),
                    "mean": shape[1:],
                },
                call=lambda a, size=size, **kw: ops.augment(**a, size=(size, size), **kw),
                kernels=lambda device, shape=shape, size=size: ops.kernels(
                    "augment", shape, (size, size), device=device
                ),
                shape=f"{np.dtype(dtype).name} {'x'.join(map(str, shape))} to {size}x{size}",
                # What lies outside of the crops need not be read; the mean image is read once.
                peer=lambda t, a, size=size: t.augment(**a, size=(size, size)),
                exact=images("images", "crop", "mirror", "colour"),
                bytes=float(pixels * (np.dtype(dtype).itemsize + 4) + 4 * edge * edge * channels),
            )


if __name__ == "__main__":
    main("augment", rows)
