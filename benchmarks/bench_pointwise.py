"""Benchmark of the pointwise family over AlexNet's maps: ``python benchmarks/bench_pointwise.py``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from harness import Row, alexnet_maps, channels, images, main

from pyconvnet import ops

ACTIVATIONS = ("relu", "tanh", "logistic")


def activations(layer, precision: str) -> Iterator[Row]:
    """One input, one output; and the gradients from the output."""
    for op in ACTIVATIONS:
        yield Row(
            name=layer.name,
            op=op,
            inputs={"x": layer.x},
            call=lambda a, op=op, **kw: getattr(ops, op)(a["x"], **kw),
            kernels=lambda device, op=op: ops.kernels(op, layer.x, device=device),
            peer=lambda t, a, op=op: getattr(t, op)(a["x"]),
            exact=images("x"),
            precision=precision,
            half=("x",),
        )
        yield Row(
            name=layer.name,
            op=f"{op}_backward",
            inputs={"dy": layer.x, "y": layer.x},
            call=lambda a, op=op, **kw: getattr(ops, f"{op}_backward")(a["dy"], a["y"], **kw),
            kernels=lambda device, op=op: ops.kernels(f"{op}_backward", layer.x, device=device),
            peer=lambda t, a, op=op: getattr(t, f"{op}_backward")(a["dy"], a["y"]),
            exact=images("dy", "y"),
            precision=precision,
            half=("dy", "y"),
        )


def sums(layer, precision: str) -> Iterator[Row]:
    """Bias, its gradient, and the sum of two maps."""
    yield Row(
        name=layer.name,
        op="add_bias",
        inputs={"x": layer.x, "b": layer.x[-1:]},
        call=lambda a, **kw: ops.add_bias(a["x"], a["b"], **kw),
        kernels=lambda device: ops.kernels("add_bias", layer.x, device=device),
        peer=lambda t, a: t.add_bias(a["x"], a["b"]),
        exact=images("x"),
        precision=precision,
        half=("x",),
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
        exact=channels,
        precision=precision,
        half=("dy",),
    )
    yield Row(
        name=layer.name,
        op="add",
        inputs={"a": layer.x, "b": layer.x},
        call=lambda a, **kw: ops.add(a["a"], a["b"], **kw),
        kernels=lambda device: ops.kernels("add", layer.x, device=device),
        peer=lambda t, a: t.add(a["a"], a["b"]),
        exact=images("a", "b"),
        precision=precision,
        half=("a", "b"),
    )


def towers(layer, precision: str) -> Iterator[Row]:
    """The two towers of a map side by side, and apart."""
    half = (*layer.x[:-1], layer.x[-1] // 2)
    yield Row(
        name=layer.name,
        op="concat",
        inputs={"a": half, "b": half},
        call=lambda a, **kw: ops.concat([a["a"], a["b"]], **kw),
        runs=lambda device: {"copy_columns": "copy_columns_strided"},
        peer=lambda t, a: t.concat([a["a"], a["b"]]),
        exact=images("a", "b"),
        precision=precision,
        half=("a", "b"),
    )
    yield Row(
        name=layer.name,
        op="split",
        inputs={"x": (*half[:-1], 2 * half[-1])},
        call=lambda a, **kw: ops.split(a["x"], [half[-1]] * 2, **kw),
        runs=lambda device: {"copy_columns": "copy_columns_strided"},
        peer=lambda t, a: t.split(a["x"], [half[-1]] * 2),
        exact=images("x"),
        precision=precision,
        half=("x",),
    )


class _Undropped:
    """A dropout row without its dropout: what is kept of it is each generator's own."""

    out = True

    def call(self, a):
        return ops.relu(ops.add_bias(a["x"], a["b"])) if "b" in a else a["x"]

    def compare(self, result):
        return result


def dropped(row, arrays, device):
    """Exact up to which elements are dropped."""
    return images("x", drop=0.5)(_Undropped(), arrays, device)


def dropouts(layer, precision: str) -> Iterator[Row]:
    """Dropout as on fc6 and fc7, and backwards."""
    yield Row(
        name=layer.name,
        op="dropout",
        inputs={"x": layer.x},
        call=lambda a, **kw: ops.dropout(a["x"], 0.5, seed=1, step=2, layer=3, **kw),
        kernels=lambda device: ops.kernels("dropout", layer.x, device=device),
        peer=lambda t, a: t.dropout(a["x"], 0.5),
        exact=dropped,
        precision=precision,
        half=("x",),
        compare=lambda result: result[0],
    )
    yield Row(
        name=layer.name,
        op="bias_relu_dropout",
        inputs={"x": layer.x, "b": layer.x[-1:]},
        call=lambda a, **kw: ops.bias_relu_dropout(a["x"], a["b"], 0.5, seed=1, step=2, layer=3, **kw),
        kernels=lambda device: ops.kernels("bias_relu_dropout", layer.x, device=device),
        peer=lambda t, a: t.bias_relu_dropout(a["x"], a["b"], 0.5),
        exact=dropped,
        precision=precision,
        half=("x",),
    )
    yield Row(
        name=layer.name,
        op="dropout_backward",
        inputs={"dy": layer.x, "mask": lambda rng: rng.integers(0, 2, layer.x, dtype=np.uint8)},
        call=lambda a, **kw: ops.dropout_backward(a["dy"], a["mask"], 0.5, **kw),
        kernels=lambda device: ops.kernels("dropout_backward", layer.x, device=device),
        peer=lambda t, a: t.dropout_backward(a["dy"], a["mask"], 0.5),
        exact=images("dy", "mask"),
        precision=precision,
        half=("dy",),
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    for precision in ("fp32", "bf16"):
        for layer in alexnet_maps(batch, tiny):
            if layer.name in ("conv1", "fc7"):
                yield from dropouts(layer, precision)
            if layer.name in ("conv1", "conv3", "fc7"):
                yield from activations(layer, precision)
                yield from sums(layer, precision)
            if layer.name in ("conv2", "conv5", "fc7"):
                yield from towers(layer, precision)


if __name__ == "__main__":
    main("pointwise", rows)
