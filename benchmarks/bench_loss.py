"""Benchmark of the loss family: ``python benchmarks/bench_loss.py``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from harness import Row, main

from pyconvnet import ops


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    classes = {"cifar10": 10, "ilsvrc": 200 if tiny else 1000, "fall2009": 300 if tiny else 10_184}
    for precision in ("fp32", "bf16"):
        for name, k in classes.items():
            shape = (batch, k)
            yield Row(
                name=name,
                op="softmax",
                inputs={"logits": shape},
                call=lambda a, **kw: ops.softmax(a["logits"], **kw),
                kernels=lambda device, shape=shape: ops.kernels("softmax", shape, device=device),
                peer=lambda t, a: t.softmax(a["logits"]),
                precision=precision,
                half=("logits",),
            )
            yield Row(
                name=name,
                op="softmax_cross_entropy",
                inputs={
                    "logits": shape,
                    "labels": lambda rng, shape=shape: rng.integers(0, shape[1], shape[0], dtype=np.int32),
                    "metrics": lambda rng: np.zeros(4),
                },
                call=lambda a, **kw: ops.softmax_cross_entropy(
                    a["logits"], a["labels"], metrics=a["metrics"], **kw
                ),
                kernels=lambda device, shape=shape: ops.kernels(
                    "softmax_cross_entropy", shape, device=device
                ),
                workspace=True,
                peer=lambda t, a: t.softmax_cross_entropy(a["logits"], a["labels"]),
                precision=precision,
                half=("logits",),
            )


if __name__ == "__main__":
    main("loss", rows)
