"""Response normalisation, both directions: the paper's, and the one across pixels of the code of 2012; the
paper's with the maximum behind it, in one pass and in two.

python benchmarks/bench_norm.py --device cuda:0 --batch 128 --json norm.json
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from harness import OnDevice, Row, alexnet_lrns, alexnet_pools, images, main, normal, separated

from pyconvnet import ops

PRECISIONS = {"fp32": 4, "bf16": 2}  # bytes of an element of a map


def _both_ways(
    name: str,
    op: str,
    shape: tuple[int, ...],
    extra: tuple[int, ...],
    options: dict[str, Any],
    forward: dict[str, Any],
    precision: str,
) -> Iterator[Row]:
    """`extra`: what picks the kernel (size, groups); `options` and, for the forward alone, `forward`."""

    @functools.lru_cache(maxsize=1)
    def example(device: Any) -> tuple[Any, ...]:
        x = normal(device, shape, 1)
        return x, *getattr(ops, op)(x, **options, **forward)

    def one_of(i: int) -> OnDevice:
        return OnDevice(lambda device: example(device)[i].copy())

    text, item = "x".join(map(str, shape)), PRECISIONS[precision]
    yield Row(
        name=name,
        op=op,
        inputs={"x": shape},
        call=lambda a, **kw: getattr(ops, op)(a["x"], **options, **forward, **kw),
        kernels=lambda device: ops.kernels(op, shape, *extra, device=device),
        peer=lambda t, a: getattr(t, op)(a["x"], **options, **forward),
        compare=lambda result: result[0],
        exact=images("x"),
        shape=text,
        precision=precision,
        half=("x",),
    )
    backward = f"{op}_backward"
    yield Row(
        name=name,
        op=backward,
        inputs={"dy": shape, "x": one_of(0), "y": one_of(1), "scale": one_of(2)},
        call=lambda a, **kw: getattr(ops, backward)(a["dy"], a["x"], a["y"], a["scale"], **options, **kw),
        kernels=lambda device: ops.kernels(backward, shape, *extra, device=device),
        # dy, x and scale (float32) in, dx out: y follows from x and scale
        bytes=(3.0 * item + 4.0) * np.prod(shape),
        peer=lambda t, a: getattr(t, backward)(a["dy"], a["x"], **options, **forward),
        exact=images("dy", "x", "y", "scale"),
        shape=text,
        precision=precision,
        half=("dy", "x", "y"),
    )


def _pooled(name: str, x: tuple[int, ...], y: tuple[int, ...], groups: int, precision: str) -> Iterator[Row]:
    """Normalisation and 3x3 maximum every 2 in one pass, and as the separate calls that it replaces."""
    options = {"alpha": 1e-4, "beta": 0.75, "k": 2.0, "groups": groups}
    pixels, windows = float(np.prod(x)), float(np.prod(y))
    text, item = "x".join(map(str, x)), PRECISIONS[precision]

    @functools.lru_cache(maxsize=1)
    def example(device: Any) -> dict[str, Any]:
        image = separated(device, x, 1)
        u, scale = ops.lrn(image, **options)
        argmax = ops.max_pool2d(u)[1]
        return {"argmax": argmax, "x": image, "u": u, "scale": scale}

    def some(*names: str) -> dict[str, Any]:
        return {"dy": y} | {n: OnDevice(lambda device, n=n: example(device)[n].copy()) for n in names}

    def two_passes(a: dict[str, Any], out: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        u, scale = ops.lrn(a["x"], **options, out=out and out[2:])
        return (*ops.max_pool2d(u, out=out and out[:2]), u, scale)

    def two_passes_backward(a: dict[str, Any], out: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        g = ops.max_pool2d_backward(a["dy"], a["argmax"], a["x"].shape, out=out and out[1])
        rest = {name: value for name, value in options.items() if name != "k"}
        return ops.lrn_backward(g, a["x"], a["u"], a["scale"], **rest, out=out and out[0]), g

    def preferred(*names: str) -> Any:
        extra = {"lrn": (5, groups), "lrn_backward": (5, groups)}
        return lambda device: {n: ops.kernels(n, x, *extra.get(n, ()), device=device)[0] for n in names}

    common: dict[str, Any] = {"shape": text, "precision": precision, "half": ("dy", "x", "u")}
    yield Row(
        name=name,
        op="lrn_max_pool2d",
        inputs={"x": x},
        call=lambda a, **kw: ops.lrn_max_pool2d(a["x"], **options, **kw),
        kernels=lambda device: ops.kernels("lrn_max_pool2d", x, groups=groups, device=device),
        peer=lambda t, a: t.lrn_max_pool2d(a["x"], **options),
        compare=lambda result: result[0],
        exact=images("x"),
        **common,
    )
    yield Row(
        name=f"{name}, two passes",
        op="lrn, max_pool2d",
        # Rounded between the two, near maxima would change places: here there are none.
        inputs={"x": OnDevice(lambda device: separated(device, x, 2))},
        call=two_passes,
        runs=preferred("lrn", "max_pool2d"),
        bytes=(3 * item + 4) * pixels + (item + 1) * windows,
        compare=lambda result: result[0],
        exact=images("x"),
        **common,
    )
    backward = "lrn_max_pool2d_backward"
    yield Row(
        name=name,
        op=backward,
        inputs=some("argmax", "x"),
        call=lambda a, **kw: ops.lrn_max_pool2d_backward(a["dy"], a["argmax"], a["x"], **options, **kw),
        kernels=lambda device: ops.kernels(backward, x, groups=groups, device=device),
        bytes=2 * item * pixels + (item + 1) * windows,
        peer=lambda t, a: t.lrn_max_pool2d_backward(a["dy"], a["x"], **options),
        exact=images("dy", "argmax", "x"),
        **common,
    )
    yield Row(
        name=f"{name}, two passes",
        op="max_pool2d_backward, lrn_backward",
        inputs=some("argmax", "x", "u", "scale"),
        call=two_passes_backward,
        runs=preferred("max_pool2d_backward", "lrn_backward"),
        bytes=(4 * item + 4) * pixels + (item + 1) * windows,
        compare=lambda result: result[0],
        exact=images("dy", "argmax", "x", "u", "scale"),
        **common,
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """norm1 and norm2 of the paper, with pool1 and pool2 too; the one across pixels of the code of 2012."""
    for precision in PRECISIONS:
        for s, pool in zip(alexnet_lrns(batch, tiny), alexnet_pools(batch, tiny), strict=False):
            yield from _pooled(f"{s.name} + {pool.name}", pool.x, pool.y, s.groups, precision)
        for s in alexnet_lrns(batch, tiny):
            options = {"size": 5, "alpha": 1e-4, "beta": 0.75, "groups": s.groups}
            yield from _both_ways(s.name, "lrn", s.x, (5, s.groups), options, {"k": 2.0}, precision)
        shape = (batch, 5, 5, 16) if tiny else (batch, 27, 27, 256)
        options = {"size": 5, "alpha": 1e-3 / 25, "beta": 0.75}
        yield from _both_ways("rnorm2", "lrn_spatial", shape, (5,), options, {"k": 1.0}, precision)


if __name__ == "__main__":
    main("norm", rows)
