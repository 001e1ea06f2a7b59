"""Which kernels run AlexNet's convolutions and fully connected layers on a GPU where nothing was tuned."""

from __future__ import annotations

from typing import Any

from shapes import alexnet_convs, alexnet_linears

BATCH = 128
PRECISIONS = ("fp32", "tf32", "bf16")
OPS = ("conv2d", "conv2d_dgrad", "conv2d_wgrad")


def layers() -> list[tuple[str, dict[str, Any]]]:
    """List (name, shapes and options) of the convolutions as a plan runs them: the first one on images in the
    space-to-depth layout, a fully connected one on images of one pixel.
    """
    from pyconvnet import ops

    found = []
    for s in alexnet_convs(BATCH):
        shapes = {"x": s.x, "w": s.w, "stride": s.stride, "pad": s.pad, "groups": s.groups}
        if s.name == "conv1":
            depth = ops.space_to_depth.Depth(s.w[1:3], s.stride, s.pad)
            x = (BATCH, *depth.shape("conv1", s.x[1:], "float32"))
            w = ops.space_to_depth.filters_shape(s.w, s.stride, "float32")
            shapes = {"x": x, "w": w, "stride": 1, "pad": 0, "groups": 1}
        found.append((s.name, shapes))
    for s in alexnet_linears(BATCH):
        x, w = (s.x[0], 1, 1, s.x[1]), (s.w[0], 1, 1, s.w[1])
        found.append((s.name, {"x": x, "w": w, "stride": 1, "pad": 0, "groups": 1}))
    return found


def step() -> list[dict[str, str]]:
    """List a row per layer and operation: the kernel of each precision."""
    from pyconvnet import ops

    rows = []
    for name, shapes in layers():
        for op in OPS:
            if (name, op) == ("conv1", "conv2d_dgrad"):
                continue  # nothing reads the images' gradient
            options = {key: shapes[key] for key in ("stride", "pad", "groups")}
            row = {"layer": name, "op": op}
            for precision in PRECISIONS:
                found = ops.kernels(
                    op, shapes["x"], shapes["w"], **options, precision=precision, device="emulator"
                )
                row[precision] = found[0]
            rows.append(row)
    return rows
