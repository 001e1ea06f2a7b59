"""Pooling: maximum and average over windows of pixels.

Overlapping pooling (the paper, section 3.4) is ``size=3, stride=2``, the default. All functions take arrays
N, H, W, C and

size, stride : int or (vertical, horizontal), at least 1
    A stride larger than the size leaves pixels out.
pad : int, (vertical, horizontal) or ((top, bottom), (left, right)), smaller than `size`
    Room for windows outside the image; the pixels there take no part. (PyTorch allows half the size only. Any
    padding below the size leaves each window a pixel of the image, which is all that is needed:
    cuda-convnet's ``start=-2, sizeX=3`` is ``pad=((2, 0), (2, 0))``.)
ceil_mode : bool
    P = (H + top + bottom - size) / stride + 1, rounded down; or rounded up, as in cuda-convnet and Caffe,
    whereupon the last window may hang over the edge. As in PyTorch, a last window that would start beyond the
    image is left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from . import core
from .launch import HostCall, Launch, Prepared
from .operation import operation
from .reference import pool as reference

Pair = tuple[int, int]
_LIMIT = 2**31


class Geometry:
    """The windows of one call, checked: pairs, paddings, and the shapes of x and y."""

    def __init__(self, op: str, x_shape: tuple[int, ...], size: Any, stride: Any, pad: Any, ceil_mode: bool):
        self.op, self.x_shape = op, x_shape
        self.size = checks.pair(op, "size", size, 1)
        self.stride = checks.pair(op, "stride", stride, 1)
        self.pad = checks.padding(op, "pad", pad)
        ceil_mode = checks.flag(op, "ceil_mode", ceil_mode)
        for before_after, extent in zip(self.pad, self.size, strict=True):
            if max(before_after) >= extent:
                raise ValueError(f"{op}: pad must be smaller than size {self.size}, got {pad}")
        n, h, w, c = x_shape
        p, q = (self._windows(axis, x_shape[1 + axis], ceil_mode) for axis in (0, 1))
        if p < 1 or q < 1:
            raise ValueError(
                f"{op}: a window of {self.size} pixels does not fit x of {h} x {w} with padding {self.pad}"
            )
        self.y_shape = (n, p, q, c)
        axes = zip((h, w), self.size, self.stride, (p, q), strict=True)
        if math.prod(self.size) >= _LIMIT or any(
            extent + r >= _LIMIT or (windows - 1) * d + r >= _LIMIT for extent, r, d, windows in axes
        ):
            raise ValueError(
                f"{op}: size must stay below 2^31 pixels, and below 2^31 - H and - W, got {self.size}"
            )

    def _windows(self, axis: int, extent: int, ceil_mode: bool) -> int:
        (before, after), size, stride = self.pad[axis], self.size[axis], self.stride[axis]
        room = extent + before + after - size
        if not ceil_mode:
            return room // stride + 1
        windows = -(-room // stride) + 1
        return windows - 1 if (windows - 1) * stride >= extent + before else windows

    @property
    def windows(self) -> tuple[Any, ...]:
        """What the reference wants beside the arrays."""
        return self.size, self.stride, self.pad

    @property
    def argmax_dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if math.prod(self.size) <= 255 else np.int32)

    def shape_of(self, dev: Device) -> Any:
        """Make the kernels' shape struct."""
        (n, h, w, c), (_, p, q, _) = self.x_shape, self.y_shape
        return dev.ext.Pool2dShape(
            n=n, h=h, w=w, c=c, r=self.size[0], s=self.size[1], p=p, q=q,
            stride_h=self.stride[0], stride_w=self.stride[1], pad_h=self.pad[0][0], pad_w=self.pad[1][0],
        )  # fmt: skip


def _forward(
    op: str, x: Any, size: Any, stride: Any, pad: Any, ceil_mode: bool, kernel: str | None
) -> tuple[Device, dict[str, Any], np.dtype, Geometry]:
    """Check what both forward functions share: device, arrays, dtype, windows."""
    dev, inputs = core.arrays(op, x=x)
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, **inputs)
    x_shape = checks.check_rank(op, "x", inputs["x"], "N, H, W, C")
    geometry = Geometry(op, x_shape, size, stride, pad, ceil_mode)
    checks.check_contiguous(op, **inputs)
    return dev, inputs, dtype, geometry


def _backward_geometry(
    op: str, dy: Any, x_shape: Any, size: Any, stride: Any, pad: Any, ceil_mode: bool | None
) -> Geometry:
    """Find the windows of the forward call that dy is a gradient of; `ceil_mode` None: whichever fits dy."""
    dy_shape = checks.check_rank(op, "dy", dy, "N, P, Q, C")
    x_shape = checks.shape_tuple(op, "x_shape", x_shape, "N, H, W, C")
    modes = (False, True) if ceil_mode is None else (ceil_mode,)
    wanted = []
    for mode in modes:
        try:
            geometry = Geometry(op, x_shape, size, stride, pad, mode)
        except ValueError:
            if mode is modes[-1] and not wanted:
                raise
            continue
        if geometry.y_shape == dy_shape:
            return geometry
        wanted.append(geometry.y_shape)
    text = " or ".join(str(shape) for shape in dict.fromkeys(wanted))
    raise ValueError(f"{op}: dy must have shape {text} for x_shape {x_shape}, got {dy_shape}")


def check_argmax(op: str, argmax: Any, positions: int) -> None:
    """Check that every element is a position inside a window of so many pixels; ValueError else."""
    if argmax.max() >= positions or argmax.min() < 0:
        raise ValueError(f"{op}: argmax must be in [0, {positions}), got {argmax.min()} … {argmax.max()}")


@core.lists_kernels("max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward")
def _list_kernels(
    op: str, dev: Device, x_shape: Any, size: Any = 3, stride: Any = 2, pad: Any = 0, ceil_mode: bool = False
) -> Any:
    x_shape = checks.shape_tuple(op, "x_shape", x_shape, "N, H, W, C")
    return Geometry(op, x_shape, size, stride, pad, ceil_mode).shape_of(dev)


# ---------------------------------------------------------------- maximum


@operation()
def max_pool2d(
    x: Any,
    size: int | Pair = 3,
    stride: int | Pair = 2,
    pad: Any = 0,
    ceil_mode: bool = False,
    *,
    out: tuple[Any, Any] | None = None,
    kernel: str | None = None,
) -> tuple[Any, Any]:
    """Find the largest element of each window, and its place in the window.

    ``y[n,p,q,c] = max over r,s of x[n, p*stride + r - top, q*stride + s - left, c]``. The first maximum in
    row-major order wins; a NaN beats every number, and the first NaN every other.

    Parameters
    ----------
    x : array (N, H, W, C), float32 or bfloat16 (on the cpu also float64)
    size, stride, pad, ceil_mode :
        See the module. The defaults are the paper's.
    out : (y, argmax), optional
    kernel : str, optional
        Forces one of ``ops.kernels("max_pool2d", x.shape, size, stride, pad, ceil_mode)``.

    Returns
    -------
    y : array (N, P, Q, C), dtype of x
    argmax : array (N, P, Q, C)
        Position r * size_w + s inside the window: uint8 where size_h * size_w <= 255, else int32.

    Raises
    ------
    TypeError, ValueError
        Wrong rank, dtype, size, stride or padding; no window fits; x not contiguous; `out` that does not fit
        or overlaps.
    """
    op = "max_pool2d"
    dev, inputs, dtype, geometry = _forward(op, x, size, stride, pad, ceil_mode, kernel)
    x, y_shape = inputs["x"], geometry.y_shape
    specs = ("y", y_shape, dtype), ("argmax", y_shape, geometry.argmax_dtype)
    y, argmax = core.outputs(op, dev, inputs, out, *specs)
    if dev.ext is None:
        step = HostCall(reference.max_pool2d, x, *geometry.windows, out=(y, argmax))
    else:
        step = Launch(op, dev, op, geometry.shape_of(dev), (y, argmax, x), kernel=kernel)
    return Prepared(dev, (y, argmax), step)


@operation()
def max_pool2d_backward(
    dy: Any,
    argmax: Any,
    x_shape: tuple[int, int, int, int],
    size: int | Pair = 3,
    stride: int | Pair = 2,
    pad: Any = 0,
    ceil_mode: bool | None = None,
    *,
    mask: Any = None,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Compute the gradient of :func:`max_pool2d`: each dy goes to the pixel its argmax points at.

    Windows overlap, so a pixel may collect several; they are added in a fixed order.

    Parameters
    ----------
    dy : array (N, P, Q, C), float32 or bfloat16 (on the cpu also float64)
    argmax : array (N, P, Q, C), uint8 or int32
        As :func:`max_pool2d` returned it. A position that is not in the window is refused in host arrays; on
        a CUDA device, and wherever a position is in the part of the window outside the image, its dy goes
        nowhere.
    x_shape : (N, H, W, C)
    size, stride, pad :
        As in the forward call.
    ceil_mode : bool, optional
        As in the forward call; None: whichever gives dy's shape.
    mask : array (N, H, W, C), dtype of dy, optional
        Where x came out of a ReLU: x itself. The result is the gradient of what went into the ReLU, that is
        ``relu_backward(dx, mask)`` of the gradient dx without, in the same pass: zero where mask <= 0.
    out : array (N, H, W, C), optional
    kernel : str, optional
        Forces one of ``ops.kernels("max_pool2d_backward", x_shape, size, stride, pad, ceil_mode)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`max_pool2d`; dy, argmax or mask that do not fit `x_shape`; a position outside the window.
    """
    op = "max_pool2d_backward"
    dev, inputs = core.arrays(op, optional=("mask",), dy=dy, argmax=argmax, mask=mask)
    dy, argmax, mask = inputs["dy"], inputs["argmax"], inputs["mask"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, dy=dy, mask=mask)
    geometry = _backward_geometry(op, dy, x_shape, size, stride, pad, ceil_mode)
    checks.check_shape(op, "argmax", argmax, geometry.y_shape, "like dy")
    checks.check_dtype(op, "argmax", argmax, geometry.argmax_dtype)
    checks.check_contiguous(op, dy=dy, argmax=argmax)
    checks.check_mask(op, mask, geometry.x_shape)
    dx = core.output(op, dev, inputs, out, geometry.x_shape, dtype)
    if dev.ext is None:
        args = (dy, argmax, geometry.x_shape, *geometry.windows)
        step = HostCall(reference.max_pool2d_backward, *args, mask=mask, out=dx)
    else:
        step = Launch(op, dev, op, geometry.shape_of(dev), (dx, dy, argmax, mask), kernel=kernel)
    positions = HostCall(check_argmax, op, argmax, math.prod(geometry.size))
    return Prepared(dev, dx, step, checks=() if dev.kind == "cuda" else (positions,))


# ---------------------------------------------------------------- average


def _counted(op: str, geometry: Geometry, count_include_pad: bool) -> tuple[int, int, int, int]:
    """Return the padding whose pixels an average divides by: (top, bottom, left, right)."""
    counts = checks.flag(op, "count_include_pad", count_include_pad)
    return (*geometry.pad[0], *geometry.pad[1]) if counts else (0, 0, 0, 0)


@operation()
def avg_pool2d(
    x: Any,
    size: int | Pair = 3,
    stride: int | Pair = 2,
    pad: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    *,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Average each window.

    ``y[n,p,q,c] = (sum over r,s of x[n, p*stride + r - top, q*stride + s - left, c]) / count[p,q]``

    Parameters
    ----------
    x : array (N, H, W, C), float32 or bfloat16 (on the cpu also float64)
    size, stride, pad, ceil_mode :
        See the module.
    count_include_pad : bool
        False: count the window's pixels inside the image (cuda-convnet). True: those in the image and in
        `pad`, though not those where `ceil_mode` hangs over the padding too (PyTorch's default).
    out : array (N, P, Q, C), optional
    kernel : str, optional
        Forces one of ``ops.kernels("avg_pool2d", x.shape, size, stride, pad, ceil_mode)``.

    Raises
    ------
    TypeError, ValueError
        Wrong rank, dtype, size, stride or padding; no window fits; x not contiguous; `out` that does not fit
        or overlaps.
    """
    op = "avg_pool2d"
    dev, inputs, dtype, geometry = _forward(op, x, size, stride, pad, ceil_mode, kernel)
    x, counted = inputs["x"], _counted(op, geometry, count_include_pad)
    y = core.output(op, dev, inputs, out, geometry.y_shape, dtype)
    if dev.ext is None:
        step = HostCall(reference.avg_pool2d, x, *geometry.windows, bool(count_include_pad), out=y)
    else:
        step = Launch(op, dev, op, geometry.shape_of(dev), (y, x, counted), kernel=kernel)
    return Prepared(dev, y, step)


@operation()
def avg_pool2d_backward(
    dy: Any,
    x_shape: tuple[int, int, int, int],
    size: int | Pair = 3,
    stride: int | Pair = 2,
    pad: Any = 0,
    ceil_mode: bool | None = None,
    count_include_pad: bool = False,
    *,
    mask: Any = None,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Compute the gradient of :func:`avg_pool2d`: dx[n,h,w,c] sums dy / count over the pixel's windows.

    Parameters
    ----------
    dy : array (N, P, Q, C), float32 or bfloat16 (on the cpu also float64)
    x_shape : (N, H, W, C)
    size, stride, pad, count_include_pad :
        As in the forward call.
    ceil_mode : bool, optional
        As in the forward call; None: whichever gives dy's shape.
    mask : array (N, H, W, C), dtype of dy, optional
        Where x came out of a ReLU: x itself. The result is the gradient of what went into the ReLU, that is
        ``relu_backward(dx, mask)`` of the gradient dx without, in the same pass: zero where mask <= 0.
    out : array (N, H, W, C), optional
    kernel : str, optional
        Forces one of ``ops.kernels("avg_pool2d_backward", x_shape, size, stride, pad, ceil_mode)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`avg_pool2d`; dy or mask that does not fit `x_shape`.
    """
    op = "avg_pool2d_backward"
    dev, inputs = core.arrays(op, optional=("mask",), dy=dy, mask=mask)
    dy, mask = inputs["dy"], inputs["mask"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, dy=dy, mask=mask)
    geometry = _backward_geometry(op, dy, x_shape, size, stride, pad, ceil_mode)
    counted = _counted(op, geometry, count_include_pad)
    checks.check_contiguous(op, dy=dy)
    checks.check_mask(op, mask, geometry.x_shape)
    dx = core.output(op, dev, inputs, out, geometry.x_shape, dtype)
    if dev.ext is None:
        args = (dy, geometry.x_shape, *geometry.windows, bool(count_include_pad))
        step = HostCall(reference.avg_pool2d_backward, *args, mask=mask, out=dx)
    else:
        step = Launch(op, dev, op, geometry.shape_of(dev), (dx, dy, mask, counted), kernel=kernel)
    return Prepared(dev, dx, step)
