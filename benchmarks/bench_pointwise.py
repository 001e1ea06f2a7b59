"""Benchmark of the pointwise family over AlexNet's maps: ``python benchmarks/bench_pointwise.py``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from harness import Row, alexnet_maps, main

from pyconvnet import ops

ACTIVATIONS = ("relu", "tanh", "logistic")


def activations(layer) -> Iterator[Row]:
    """One input, one output; and the gradients from the output."""
    for op in ACTIVATIONS:
        yield Row(
            name=layer.name,
            op=op,
            inputs={"x": layer.x},
            call=lambda a, op=op, **kw: getattr(ops, op)(a["x"], **kw),
            kernels=lambda device, op=op: ops.kernels(op, layer.x, device=device),
            peer=lambda t, a, op=op: getattr(t, op)(a["x"]),
        )
        yield Row(
            name=layer.name,
            op=f"{op}_backward",
            inputs={"dy": layer.x, "y": layer.x},
            call=lambda a, op=op, **kw: getattr(ops, f"{op}_backward")(a["dy"], a["y"], **kw),
            kernels=lambda device, op=op: ops.kernels(f"{op}_backward", layer.x, device=device),
            peer=lambda t, a, op=op: getattr(t, f"{op}_backward")(a["dy"], a["y"]),
        )


def sums(layer) -> Iterator[Row]:
    """Bias, its gradient, and the sum of two maps."""
    yield Row(
        name=layer.name,
        op="add_bias",
        inputs={"x": layer.x, "b": layer.x[-1:]},
        call=lambda a, **kw: ops.add_bias(a["x"], a["b"], **kw),
        kernels=lambda device: ops.kernels("add_bias", layer.x, device=device),
        peer=lambda t, a: t.add_bias(a["x"], a["b"]),
    )
    yield Row(
        name=layer.name,
        op="bias_backward",
        # Positive, so that the sums are far from zero and the comparison with the peer means something.
        inputs={"dy": lambda rng: rng.random(layer.x, dtype=np.float32)},
        shape=f"dy{'x'.join(map(str, layer.x))}",
        call=lambda a, **kw: ops.bias_backward(a["dy"], **kw),
        kernels=lambda device: ops.kernels("bias_backward", layer.x, device=device),
        workspace=True,
        peer=lambda t, a: t.bias_backward(a["dy"]),
    )
    yield Row(
        name=layer.name,
        op="add",
        inputs={"a": layer.x, "b": layer.x},
        call=lambda a, **kw: ops.add(a["a"], a["b"], **kw),
        kernels=lambda device: ops.kernels("add", layer.x, device=device),
        peer=lambda t, a: t.add(a["a"], a["b"]),
    )


def towers(layer) -> Iterator[Row]:
    """The two towers of a map side by side, and apart."""
    half = (*layer.x[:-1], layer.x[-1] // 2)
    yield Row(
        name=layer.name,
        op="concat",
        inputs={"a": half, "b": half},
        call=lambda a, **kw: ops.concat([a["a"], a["b"]], **kw),
        peer=lambda t, a: t.concat([a["a"], a["b"]]),
    )
    yield Row(
        name=layer.name,
        op="split",
        inputs={"x": (*half[:-1], 2 * half[-1])},
        call=lambda a, **kw: ops.split(a["x"], [half[-1]] * 2, **kw),
        peer=lambda t, a: t.split(a["x"], [half[-1]] * 2),
    )


def dropouts(layer) -> Iterator[Row]:
    """Dropout as on fc6 and fc7, and backwards."""
    yield Row(
        name=layer.name,
        op="dropout",
        inputs={"x": layer.x},
        call=lambda a, **kw: ops.dropout(a["x"], 0.5, seed=1, step=2, layer=3, **kw),
        kernels=lambda device: ops.kernels("dropout", layer.x, device=device),
        peer=lambda t, a: t.dropout(a["x"], 0.5),
        compare=None,
    )
    yield Row(
        name=layer.name,
        op="bias_relu_dropout",
        inputs={"x": layer.x, "b": layer.x[-1:]},
        call=lambda a, **kw: ops.bias_relu_dropout(a["x"], a["b"], 0.5, seed=1, step=2, layer=3, **kw),
        kernels=lambda device: ops.kernels("bias_relu_dropout", layer.x, device=device),
        peer=lambda t, a: t.bias_relu_dropout(a["x"], a["b"], 0.5),
        compare=None,
    )
    yield Row(
        name=layer.name,
        op="dropout_backward",
        inputs={"dy": layer.x, "mask": lambda rng: rng.integers(0, 2, layer.x, dtype=np.uint8)},
        call=lambda a, **kw: ops.dropout_backward(a["dy"], a["mask"], 0.5, **kw),
        kernels=lambda device: ops.kernels("dropout_backward", layer.x, device=device),
        peer=lambda t, a: t.dropout_backward(a["dy"], a["mask"], 0.5),
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    for layer in alexnet_maps(batch, tiny):
        if layer.name in ("conv1", "conv3", "fc7"):
            yield from activations(layer)
            yield from sums(layer)
        if layer.name in ("conv2", "conv5", "fc7"):
            yield from towers(layer)
        if layer.name in ("conv1", "fc7"):
            yield from dropouts(layer)


if __name__ == "__main__":
    main("pointwise", rows)
