"""AlexNet's convolutions in all directions and precisions: every kernel that applies, beside its peers.

python benchmarks/bench_conv.py --device cuda:0 --batch 128 --json conv.json

A layer has four rows a precision: the convolution alone ("fprop"), its gradients ("dgrad", "wgrad"), and with
bias and ReLU behind it ("fused"). Rows of TF32 and 3xTF32 time the tensor-core kernels, and first layers that
call them. On the cpu every precision but bf16 is float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from harness import Row, alexnet_convs, filters, images, main

from pyconvnet import ops
from pyconvnet.common.precision import PRECISIONS
from pyconvnet.ops.conv import on_tensor_cores


def applying(op: str, precision: str, *shapes: Any, device: str, **options: Any) -> list[str]:
    """The kernels of a precision: in TF32 and 3xTF32 those that use it, and the one a call takes unasked."""
    names = ops.kernels(op, *shapes, **options, precision=precision, device=device)
    if precision in ("fp32", "bf16"):
        return names
    return [n for n in names if n == names[0] or on_tensor_cores(n) or n.endswith("first_layer")]


def _rows(s: SimpleNamespace, precision: str) -> Iterator[Row]:
    options = {"stride": s.stride, "pad": s.pad, "groups": s.groups}

    def kernels(op: str, device: str) -> list[str]:
        return applying(op, precision, s.x, s.w, **options, device=device)

    common: dict[str, Any] = {
        "name": s.name,
        "flops": s.flops,
        "workspace": True,
        "precision": precision,
        "precise": True,
        "half": ("x", "w", "dy"),
    }
    yield Row(
        op="conv2d",
        part="fprop",
        inputs={"x": s.x, "w": s.w},
        call=lambda a, **kw: ops.conv2d(a["x"], a["w"], **options, **kw),
        kernels=lambda device: kernels("conv2d", device),
        peer=lambda t, a: t.conv2d(a["x"], a["w"], **options),
        exact=images("x"),
        **common,
    )
    yield Row(
        op="conv2d_dgrad",
        part="dgrad",
        inputs={"dy": s.y, "w": s.w},
        call=lambda a, **kw: ops.conv2d_dgrad(a["dy"], a["w"], (len(a["dy"]), *s.x[1:]), **options, **kw),
        kernels=lambda device: kernels("conv2d_dgrad", device),
        peer=lambda t, a: t.conv2d_dgrad(a["dy"], a["w"], s.x, **options),
        exact=images("dy"),
        **common,
    )
    yield Row(
        op="conv2d_wgrad",
        part="wgrad",
        inputs={"dy": s.y, "x": s.x},
        call=lambda a, **kw: ops.conv2d_wgrad(a["dy"], a["x"], s.w, **options, **kw),
        kernels=lambda device: kernels("conv2d_wgrad", device),
        peer=lambda t, a: t.conv2d_wgrad(a["dy"], a["x"], s.w, **options),
        exact=filters(s),
        **common,
    )
    yield Row(
        op="conv2d",
        part="fused",
        inputs={"x": s.x, "w": s.w, "b": (s.w[0],)},
        call=lambda a, **kw: ops.conv2d(a["x"], a["w"], a["b"], activation="relu", **options, **kw),
        kernels=lambda device: kernels("conv2d", device),
        peer=lambda t, a: t.conv2d(a["x"], a["w"], a["b"], activation="relu", **options),
        exact=images("x"),
        **common,
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """conv1 to conv5. conv1's dgrad is no part of training: the image needs no gradient."""
    for s in alexnet_convs(batch, tiny):
        for precision in PRECISIONS:
            yield from _rows(s, precision)


if __name__ == "__main__":
    main("conv", rows)
