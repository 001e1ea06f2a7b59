"""Response normalisation, both directions: the paper's, and the one across pixels of the code of 2012.

python benchmarks/bench_norm.py --device cuda:0 --batch 128 --json norm.json
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from harness import Row, alexnet_lrns, main

from pyconvnet import ops


def _both_ways(
    name: str,
    op: str,
    shape: tuple[int, ...],
    extra: tuple[int, ...],
    options: dict[str, Any],
    forward: dict[str, Any],
) -> Iterator[Row]:
    """`extra`: what picks the kernel (size, groups); `options` and, for the forward alone, `forward`."""

    @functools.lru_cache(maxsize=1)
    def example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        return x, *getattr(ops, op)(x, **options, **forward)

    def one_of(i: int) -> Callable[[np.random.Generator], np.ndarray]:
        return lambda rng: example()[i]

    text = "x".join(map(str, shape))
    yield Row(
        name=name,
        op=op,
        inputs={"x": shape},
        call=lambda a, **kw: getattr(ops, op)(a["x"], **options, **forward, **kw),
        kernels=lambda device: ops.kernels(op, shape, *extra, device=device),
        peer=lambda t, a: getattr(t, op)(a["x"], **options, **forward),
        compare=lambda result: result[0],
        shape=text,
    )
    backward = f"{op}_backward"
    yield Row(
        name=name,
        op=backward,
        inputs={"dy": shape, "x": one_of(0), "y": one_of(1), "scale": one_of(2)},
        call=lambda a, **kw: getattr(ops, backward)(a["dy"], a["x"], a["y"], a["scale"], **options, **kw),
        kernels=lambda device: ops.kernels(backward, shape, *extra, device=device),
        bytes=16.0 * np.prod(shape),  # dy, x and scale in, dx out: y follows from x and scale
        peer=lambda t, a: getattr(t, backward)(a["dy"], a["x"], **options, **forward),
        shape=text,
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """norm1 and norm2 of the paper, then the one across pixels that follows norm2 in the code of 2012."""
    for s in alexnet_lrns(batch, tiny):
        options = {"size": 5, "alpha": 1e-4, "beta": 0.75, "groups": s.groups}
        yield from _both_ways(s.name, "lrn", s.x, (5, s.groups), options, {"k": 2.0})
    shape = (batch, 5, 5, 16) if tiny else (batch, 27, 27, 256)
    options = {"size": 5, "alpha": 1e-3 / 25, "beta": 0.75}
    yield from _both_ways("rnorm2", "lrn_spatial", shape, (5,), options, {"k": 1.0})


if __name__ == "__main__":
    main("norm", rows)
