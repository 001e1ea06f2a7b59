"""AlexNet's fully connected layers in all three directions: every kernel, cuBLAS among them, beside PyTorch.

python benchmarks/bench_linear.py --device cuda:0 --batch 128 --json linear.json
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

from harness import Row, alexnet_linears, main

from pyconvnet import ops


def _rows(s: SimpleNamespace) -> Iterator[Row]:
    yield Row(
        name=s.name,
        op="linear",
        inputs={"x": s.x, "w": s.w, "b": (s.w[0],)},
        call=lambda a, **kw: ops.linear(a["x"], a["w"], a["b"], activation="relu", **kw),
        kernels=lambda device: ops.kernels("linear", s.x, s.w, device=device),
        flops=s.flops,
        workspace=True,
        peer=lambda t, a: t.linear(a["x"], a["w"], a["b"], activation="relu"),
    )
    yield Row(
        name=s.name,
        op="linear_dgrad",
        inputs={"dy": s.y, "w": s.w},
        call=lambda a, **kw: ops.linear_dgrad(a["dy"], a["w"], **kw),
        kernels=lambda device: ops.kernels("linear_dgrad", s.x, s.w, device=device),
        flops=s.flops,
        workspace=True,
        peer=lambda t, a: t.linear_dgrad(a["dy"], a["w"]),
    )
    yield Row(
        name=s.name,
        op="linear_wgrad",
        inputs={"dy": s.y, "x": s.x},
        call=lambda a, **kw: ops.linear_wgrad(a["dy"], a["x"], **kw),
        kernels=lambda device: ops.kernels("linear_wgrad", s.x, s.w, device=device),
        flops=s.flops,
        workspace=True,
        peer=lambda t, a: t.linear_wgrad(a["dy"], a["x"]),
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """fc6, fc7, fc8."""
    for s in alexnet_linears(batch, tiny):
        yield from _rows(s)


if __name__ == "__main__":
    main("linear", rows)
