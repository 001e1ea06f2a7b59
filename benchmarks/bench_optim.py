"""Benchmark of the optim family over AlexNet's parameters: ``python benchmarks/bench_optim.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from harness import Row, alexnet_convs, alexnet_linears, main

from pyconvnet import ops


def update(a: dict[str, Any], **kw: Any) -> None:
    """One step; in float64, where there is no bfloat16 copy, the copy is made by hand."""
    if "w_bf16" in a and a["w"].dtype == np.float64:
        ops.sgd_momentum(**{name: array for name, array in a.items() if name != "w_bf16"}, **kw)
        a["w_bf16"][...] = a["w"]
    else:
        ops.sgd_momentum(**a, **kw)


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """All parameters; "bf16" with the copy of the weights that products in bfloat16 read."""
    lengths: list[int] = []
    for layer in (*alexnet_convs(batch, tiny), *alexnet_linears(batch, tiny)):
        lengths += [int(np.prod(layer.w)), layer.w[0]]  # weights, biases
    count, segments = sum(lengths), len(lengths)
    inputs: dict[str, Any] = {
        "w": (count,),
        "v": lambda rng: np.zeros(count, np.float32),  # from zero the first step is PyTorch's too
        "g": (count,),
        "hyper": lambda rng: np.array([0.01, 0.9], np.float32),
        "ends": lambda rng: np.cumsum(lengths, dtype=np.int64),
        "lr_mult": lambda rng: np.tile(np.array([1, 2], np.float32), segments // 2),
        "weight_decay": lambda rng: np.tile(np.array([5e-4, 0], np.float32), segments // 2),
    }
    for precision, more in (("fp32", {}), ("bf16", {"w_bf16": (count,)})):
        yield Row(
            name="alexnet",
            op="sgd_momentum",
            inputs=inputs | more,
            call=update,
            kernels=lambda device: ops.kernels("sgd_momentum", count, segments, device=device),
            shape=f"{count} parameters in {segments} segments",
            bytes=(22.0 if more else 20.0) * count,
            out=False,
            # PyTorch keeps no copy: it casts the weights anew in every step, which is not timed here.
            peer=lambda t, a: t.sgd_momentum(
                a["w"],
                a["g"],
                a["ends"].tolist(),
                lrs=[0.01, 0.02] * (segments // 2),
                momentum=0.9,
                decays=[5e-4, 0] * (segments // 2),
            ),
            compare=lambda arrays: arrays["w"],
            precision=precision,
            half=("w_bf16",),
        )


if __name__ == "__main__":
    main("optim", rows)
