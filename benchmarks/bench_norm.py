"""Response normalisation, both directions: the paper's, and the one across pixels of the code of 2012; the
paper's with the maximum behind it, in one pass and in two.

python benchmarks/bench_norm.py --device cuda:0 --batch 128 --json norm.json
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from harness import Row, alexnet_lrns, alexnet_pools, main

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


def _pooled(name: str, x: tuple[int, ...], y: tuple[int, ...], groups: int) -> Iterator[Row]:
    """Normalisation and 3x3 maximum every 2 in one pass, and as the separate calls that it replaces."""
    options = {"alpha": 1e-4, "beta": 0.75, "k": 2.0, "groups": groups}
    pixels, windows = float(np.prod(x)), float(np.prod(y))
    text = "x".join(map(str, x))

    @functools.lru_cache(maxsize=1)
    def example() -> dict[str, np.ndarray]:
        image = np.random.default_rng(1).standard_normal(x, dtype=np.float32)
        u, scale = ops.lrn(image, **options)
        argmax = ops.max_pool2d(u)[1]
        return {"argmax": argmax, "x": image, "u": u, "scale": scale}

    def some(*names: str) -> dict[str, Any]:
        return {"dy": y} | {name: lambda rng, name=name: example()[name] for name in names}

    def two_passes(a: dict[str, Any], out: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        u, scale = ops.lrn(a["x"], **options, out=out and out[2:])
        return (*ops.max_pool2d(u, out=out and out[:2]), u, scale)

    def two_passes_backward(a: dict[str, Any], out: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        g = ops.max_pool2d_backward(a["dy"], a["argmax"], x, out=out and out[1])
        rest = {name: value for name, value in options.items() if name != "k"}
        return ops.lrn_backward(g, a["x"], a["u"], a["scale"], **rest, out=out and out[0]), g

    def peer(t: Any, image: Any) -> Any:
        return t.max_pool2d(t.lrn(image, **options)(), 3, 2)()

    yield Row(
        name=name,
        op="lrn_max_pool2d",
        inputs={"x": x},
        call=lambda a, **kw: ops.lrn_max_pool2d(a["x"], **options, **kw),
        kernels=lambda device: ops.kernels("lrn_max_pool2d", x, groups=groups, device=device),
        peer=lambda t, a: lambda: peer(t, a["x"]),
        compare=lambda result: result[0],
        shape=text,
    )
    yield Row(
        name=f"{name}, two passes",
        op="lrn, max_pool2d",
        inputs={"x": x},
        call=two_passes,
        bytes=16 * pixels + 5 * windows,
        shape=text,
    )
    backward = "lrn_max_pool2d_backward"
    yield Row(
        name=name,
        op=backward,
        inputs=some("argmax", "x"),
        call=lambda a, **kw: ops.lrn_max_pool2d_backward(a["dy"], a["argmax"], a["x"], **options, **kw),
        kernels=lambda device: ops.kernels(backward, x, groups=groups, device=device),
        bytes=8 * pixels + 5 * windows,
        peer=lambda t, a: t.autograd(lambda v: peer(t, v), a["x"], a["dy"]),
        shape=text,
    )
    yield Row(
        name=f"{name}, two passes",
        op="max_pool2d_backward, lrn_backward",
        inputs=some("argmax", "x", "u", "scale"),
        call=two_passes_backward,
        bytes=20 * pixels + 5 * windows,
        shape=text,
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """norm1 and norm2 of the paper, with pool1 and pool2 too; the one across pixels of the code of 2012."""
    for s in alexnet_lrns(batch, tiny):
        options = {"size": 5, "alpha": 1e-4, "beta": 0.75, "groups": s.groups}
        yield from _both_ways(s.name, "lrn", s.x, (5, s.groups), options, {"k": 2.0})
    for s, pool in zip(alexnet_lrns(batch, tiny), alexnet_pools(batch, tiny), strict=False):
        yield from _pooled(f"{s.name} + {pool.name}", pool.x, pool.y, s.groups)
    shape = (batch, 5, 5, 16) if tiny else (batch, 27, 27, 256)
    options = {"size": 5, "alpha": 1e-3 / 25, "beta": 0.75}
    yield from _both_ways("rnorm2", "lrn_spatial", shape, (5,), options, {"k": 1.0})


if __name__ == "__main__":
    main("norm", rows)
