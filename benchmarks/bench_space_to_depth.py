"""Benchmark of the space_to_depth family, ``python benchmarks/bench_space_to_depth.py``: filters of first
layers rearranged, and conv1 on images that are in the space-to-depth layout already, as augmentation leaves
them in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from bench_conv import applying
from harness import OnDevice, Row, alexnet_convs, filters, images, main, normal

from pyconvnet import ops
from pyconvnet.common.precision import BFLOAT16, PRECISIONS
from pyconvnet.ops import space_to_depth


class Plain:
    """The same convolution of the images as they are: what float64 computes."""

    out = True

    def __init__(self, call: Callable[[dict[str, Any]], Any]):
        self.call = call

    def compare(self, result: Any) -> Any:
        return result


def first_layer(batch: int, tiny: bool, precision: str) -> Iterator[Row]:
    """conv1 and the gradient of its filters, from the space-to-depth layout; peers take plain images."""
    s = next(iter(alexnet_convs(batch, tiny)))
    options = {"stride": s.stride, "pad": s.pad}
    depth = space_to_depth.Depth(s.w[1:3], **options)
    dtype = BFLOAT16 if precision == "bf16" else np.dtype(np.float32)
    x = (batch, *depth.shape("conv1", s.x[1:], dtype))
    w = space_to_depth.filters_shape(s.w, s.stride, dtype)
    x_bytes, w_bytes, y_bytes = (float(np.prod(shape)) * dtype.itemsize for shape in (x, s.w, s.y))

    def to_depth(device: Any) -> Any:  # of the "image" below
        return space_to_depth.images_to_depth(normal(device, s.x, 0), depth)

    common: dict[str, Any] = {
        "name": "conv1 from depth",
        "flops": s.flops,
        "workspace": True,
        "precision": precision,
        "precise": True,
        "half": ("image", "x", "w", "dy"),
        "shape": f"x{'x'.join(map(str, x))} w{'x'.join(map(str, s.w))}",
    }
    image: dict[str, Any] = {"image": s.x, "x": OnDevice(to_depth)}
    plain = Plain(lambda a: ops.conv2d(a["image"], a["w"], a["b"], activation="relu", **options))
    yield Row(
        op="conv2d_depth",
        part="fused",
        inputs=image | {"w": s.w, "b": s.w[:1]},
        call=lambda a, **kw: space_to_depth.conv2d_depth(
            a["x"], a["w"], a["b"], stride=s.stride, activation="relu", **kw
        ),
        kernels=lambda device: applying("conv2d", precision, x, w, device=device),
        bytes=x_bytes + w_bytes + y_bytes + 4.0 * s.w[0],
        peer=lambda t, a: t.conv2d(a["image"], a["w"], a["b"], activation="relu", **options),
        exact=lambda row, arrays, device: images("image")(
            plain, {name: a for name, a in arrays.items() if name != "x"}, device
        ),
        **common,
    )
    yield Row(
        op="conv2d_depth_wgrad",
        part="wgrad",
        inputs=image | {"dy": s.y},
        call=lambda a, **kw: space_to_depth.conv2d_depth_wgrad(a["dy"], a["x"], s.w, stride=s.stride, **kw),
        kernels=lambda device: applying("conv2d_wgrad", precision, x, w, device=device),
        bytes=x_bytes + y_bytes + 4.0 * np.prod(s.w),
        peer=lambda t, a: t.conv2d_wgrad(a["dy"], a["image"], s.w, **options),
        exact=lambda row, arrays, device: filters(s)(row, {"dy": arrays["dy"], "x": arrays["image"]}, device),
        **common,
    )


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    for precision in PRECISIONS:
        yield from first_layer(batch, tiny, precision)
    for name, shape, stride in (
        ("alexnet conv1", (8 if tiny else 96, 11, 11, 3), 4),
        ("3x3", (32, 3, 3, 3), 2),
    ):
        to = space_to_depth.filters_shape(shape, stride, np.float32)
        text = f"{'x'.join(map(str, shape))} stride {stride}"
        moved = 4.0 * (np.prod(shape) + np.prod(to))
        yield Row(
            name=name,
            op="filters_to_depth",
            inputs={"w": shape},
            call=lambda a, stride=stride, **kw: ops.filters_to_depth(a["w"], stride, **kw),
            kernels=lambda device, s=shape, t=stride: ops.kernels("filters_to_depth", s, t, device=device),
            shape=text,
            bytes=moved,
        )
        yield Row(
            name=name,
            op="filters_from_depth",
            inputs={"filters": to},
            call=lambda a, s=shape, t=stride, **kw: ops.filters_from_depth(a["filters"], s, t, **kw),
            kernels=lambda device, s=shape, t=stride: ops.kernels("filters_from_depth", s, t, device=device),
            shape=text,
            bytes=moved,
        )


if __name__ == "__main__":
    main("space_to_depth", rows)
