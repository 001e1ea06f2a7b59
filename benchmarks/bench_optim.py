"""Benchmark of the optim family over AlexNet's parameters: ``python benchmarks/bench_optim.py``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from harness import Row, alexnet_convs, alexnet_linears, main

from pyconvnet import ops


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    lengths: list[int] = []
    for layer in (*alexnet_convs(batch, tiny), *alexnet_linears(batch, tiny)):
        lengths += [int(np.prod(layer.w)), layer.w[0]]  # weights, biases
    count, segments = sum(lengths), len(lengths)
    yield Row(
        name="alexnet",
        op="sgd_momentum",
        inputs={
            "w": (count,),
            "v": (count,),
            "g": (count,),
            "hyper": lambda rng: np.array([0.01, 0.9], np.float32),
            "ends": lambda rng: np.cumsum(lengths, dtype=np.int64),
            "lr_mult": lambda rng: np.tile(np.array([1, 2], np.float32), segments // 2),
            "weight_decay": lambda rng: np.tile(np.array([5e-4, 0], np.float32), segments // 2),
        },
        call=lambda a, **kw: ops.sgd_momentum(**a, **kw),
        kernels=lambda device: ops.kernels("sgd_momentum", count, segments, device=device),
        shape=f"{count} parameters in {segments} segments",
        bytes=20.0 * count,
        out=False,
        peer=lambda t, a: t.sgd_momentum(a["w"], a["g"]),
        compare=None,
    )


if __name__ == "__main__":
    main("optim", rows)
