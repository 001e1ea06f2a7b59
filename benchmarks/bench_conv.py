"""AlexNet's convolutions in all three directions: every kernel that applies, beside cuDNN.

python benchmarks/bench_conv.py --device cuda:0 --batch 128 --json conv.json
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

from harness import Row, alexnet_convs, main

from pyconvnet import ops


def _rows(s: SimpleNamespace) -> Iterator[Row]:
    options = {"stride": s.stride, "pad": s.pad, "groups": s.groups}
    yield Row(
        name=s.name,
        op="conv2d",
        inputs={"x": s.x, "w": s.w, "b": (s.w[0],)},
        call=lambda a, **kw: ops.conv2d(a["x"], a["w"], a["b"], activation="relu", **options, **kw),
        kernels=lambda device: ops.kernels("conv2d", s.x, s.w, **options, device=device),
        flops=s.flops,
        workspace=True,
        peer=lambda t, a: t.conv2d(a["x"], a["w"], a["b"], activation="relu", **options),
    )
    yield Row(
        name=s.name,
        op="conv2d_dgrad",
        inputs={"dy": s.y, "w": s.w},
        call=lambda a, **kw: ops.conv2d_dgrad(a["dy"], a["w"], s.x, **options, **kw),
        kernels=lambda device: ops.kernels("conv2d_dgrad", s.x, s.w, **options, device=device),
        flops=s.flops,
        workspace=True,
        peer=lambda t, a: t.conv2d_dgrad(a["dy"], a["w"], s.x, **options),
    )
    yield Row(
        name=s.name,
        op="conv2d_wgrad",
        inputs={"dy": s.y, "x": s.x},
        call=lambda a, **kw: ops.conv2d_wgrad(a["dy"], a["x"], s.w, **options, **kw),
        kernels=lambda device: ops.kernels("conv2d_wgrad", s.x, s.w, **options, device=device),
        flops=s.flops,
        workspace=True,
        peer=lambda t, a: t.conv2d_wgrad(a["dy"], a["x"], s.w, **options),
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """conv1 to conv5. conv1's dgrad is no part of training: the image needs no gradient."""
    for s in alexnet_convs(batch, tiny):
        yield from _rows(s)


if __name__ == "__main__":
    main("conv", rows)
