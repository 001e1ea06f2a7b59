"""AlexNet's fully connected layers in all directions and precisions: every kernel, cuBLAS among them, beside
its peers.

python benchmarks/bench_linear.py --device cuda:0 --batch 128 --json linear.json

A layer has four rows a precision: the product alone ("fprop"), its gradients ("dgrad", "wgrad"), and with
bias and ReLU behind it ("fused"). On the cpu every precision but bf16 is float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from bench_conv import applying
from harness import Row, alexnet_linears, filters, images, main

from pyconvnet import ops
from pyconvnet.common.precision import PRECISIONS


def _rows(s: SimpleNamespace, precision: str) -> Iterator[Row]:
    def kernels(op: str, device: str) -> list[str]:
        return applying(op, precision, s.x, s.w, device=device)

    common: dict[str, Any] = {
        "name": s.name,
        "flops": s.flops,
        "workspace": True,
        "precision": precision,
        "precise": True,
        "half": ("x", "w", "dy"),
    }
    yield Row(
        op="linear",
        part="fprop",
        inputs={"x": s.x, "w": s.w},
        call=lambda a, **kw: ops.linear(a["x"], a["w"], **kw),
        kernels=lambda device: kernels("linear", device),
        peer=lambda t, a: t.linear(a["x"], a["w"]),
        exact=images("x"),
        **common,
    )
    yield Row(
        op="linear_dgrad",
        part="dgrad",
        inputs={"dy": s.y, "w": s.w},
        call=lambda a, **kw: ops.linear_dgrad(a["dy"], a["w"], **kw),
        kernels=lambda device: kernels("linear_dgrad", device),
        peer=lambda t, a: t.linear_dgrad(a["dy"], a["w"]),
        exact=images("dy"),
        **common,
    )
    yield Row(
        op="linear_wgrad",
        part="wgrad",
        inputs={"dy": s.y, "x": s.x},
        call=lambda a, **kw: ops.linear_wgrad(a["dy"], a["x"], **kw),
        kernels=lambda device: kernels("linear_wgrad", device),
        peer=lambda t, a: t.linear_wgrad(a["dy"], a["x"]),
        exact=filters(s),
        **common,
    )
    yield Row(
        op="linear",
        part="fused",
        inputs={"x": s.x, "w": s.w, "b": (s.w[0],)},
        call=lambda a, **kw: ops.linear(a["x"], a["w"], a["b"], activation="relu", **kw),
        kernels=lambda device: kernels("linear", device),
        peer=lambda t, a: t.linear(a["x"], a["w"], a["b"], activation="relu"),
        exact=images("x"),
        **common,
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """fc6, fc7, fc8."""
    for s in alexnet_linears(batch, tiny):
        for precision in PRECISIONS:
            yield from _rows(s, precision)


if __name__ == "__main__":
    main("linear", rows)
