"""AlexNet's convolutions in all three directions and precisions: every kernel that applies, beside cuDNN.

python benchmarks/bench_conv.py --device cuda:0 --batch 128 --json conv.json

The rows "conv2 tf32" and "conv2 fp32x3" time the tensor-core kernels, and first layers that call them. The
limit and the peer are those of float32: on tensor cores more than the limit is possible. On the cpu every
precision is float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from harness import Row, alexnet_convs, main

from pyconvnet import ops

PRECISIONS = ("fp32", "tf32", "fp32x3")


def _rows(s: SimpleNamespace, precision: str) -> Iterator[Row]:
    options = {"stride": s.stride, "pad": s.pad, "groups": s.groups}
    ours: dict[str, Any] = {**options, "precision": precision}
    fp32 = precision == "fp32"

    def kernels(op: str, device: str) -> list[str]:
        names = ops.kernels(op, s.x, s.w, **ours, device=device)
        return [name for name in names if fp32 or "_mma" in name or name.endswith("first_layer")]

    common: dict[str, Any] = {
        "name": s.name if fp32 else f"{s.name} {precision}",
        "flops": s.flops,
        "workspace": True,
    }
    yield Row(
        op="conv2d",
        inputs={"x": s.x, "w": s.w, "b": (s.w[0],)},
        call=lambda a, **kw: ops.conv2d(a["x"], a["w"], a["b"], activation="relu", **ours, **kw),
        kernels=lambda device: kernels("conv2d", device),
        peer=lambda t, a: t.conv2d(a["x"], a["w"], a["b"], activation="relu", **options),
        **common,
    )
    yield Row(
        op="conv2d_dgrad",
        inputs={"dy": s.y, "w": s.w},
        call=lambda a, **kw: ops.conv2d_dgrad(a["dy"], a["w"], s.x, **ours, **kw),
        kernels=lambda device: kernels("conv2d_dgrad", device),
        peer=lambda t, a: t.conv2d_dgrad(a["dy"], a["w"], s.x, **options),
        **common,
    )
    yield Row(
        op="conv2d_wgrad",
        inputs={"dy": s.y, "x": s.x},
        call=lambda a, **kw: ops.conv2d_wgrad(a["dy"], a["x"], s.w, **ours, **kw),
        kernels=lambda device: kernels("conv2d_wgrad", device),
        peer=lambda t, a: t.conv2d_wgrad(a["dy"], a["x"], s.w, **options),
        **common,
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """conv1 to conv5. conv1's dgrad is no part of training: the image needs no gradient."""
    for s in alexnet_convs(batch, tiny):
        for precision in PRECISIONS:
            yield from _rows(s, precision)


if __name__ == "__main__":
    main("conv", rows)
