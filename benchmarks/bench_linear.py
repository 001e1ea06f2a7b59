"""AlexNet's fully connected layers in all three directions and precisions: every kernel, cuBLAS among them,
beside PyTorch.

python benchmarks/bench_linear.py --device cuda:0 --batch 128 --json linear.json

The rows "fc6 tf32" and "fc6 fp32x3" time the tensor-core kernels. The limit and the peer are those of
float32: on tensor cores more than the limit is possible. On the cpu every precision is float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from harness import Row, alexnet_linears, main

from pyconvnet import ops

PRECISIONS = ("fp32", "tf32", "fp32x3")


def _rows(s: SimpleNamespace, precision: str) -> Iterator[Row]:
    ours: dict[str, Any] = {"precision": precision}
    fp32 = precision == "fp32"

    def kernels(op: str, device: str) -> list[str]:
        names = ops.kernels(op, s.x, s.w, **ours, device=device)
        return [name for name in names if fp32 or "_mma" in name]

    common: dict[str, Any] = {
        "name": s.name if fp32 else f"{s.name} {precision}",
        "flops": s.flops,
        "workspace": True,
    }
    yield Row(
        op="linear",
        inputs={"x": s.x, "w": s.w, "b": (s.w[0],)},
        call=lambda a, **kw: ops.linear(a["x"], a["w"], a["b"], activation="relu", **ours, **kw),
        kernels=lambda device: kernels("linear", device),
        peer=lambda t, a: t.linear(a["x"], a["w"], a["b"], activation="relu"),
        **common,
    )
    yield Row(
        op="linear_dgrad",
        inputs={"dy": s.y, "w": s.w},
        call=lambda a, **kw: ops.linear_dgrad(a["dy"], a["w"], **ours, **kw),
        kernels=lambda device: kernels("linear_dgrad", device),
        peer=lambda t, a: t.linear_dgrad(a["dy"], a["w"]),
        **common,
    )
    yield Row(
        op="linear_wgrad",
        inputs={"dy": s.y, "x": s.x},
        call=lambda a, **kw: ops.linear_wgrad(a["dy"], a["x"], **ours, **kw),
        kernels=lambda device: kernels("linear_wgrad", device),
        peer=lambda t, a: t.linear_wgrad(a["dy"], a["x"]),
        **common,
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """fc6, fc7, fc8."""
    for s in alexnet_linears(batch, tiny):
        for precision in PRECISIONS:
            yield from _rows(s, precision)


if __name__ == "__main__":
    main("linear", rows)
