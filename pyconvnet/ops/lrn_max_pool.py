"""Response normalisation across channels and maximum over windows of pixels in one pass.

:func:`lrn_max_pool2d` is :func:`.lrn` and then :func:`.max_pool2d`, as AlexNet has them twice, and
:func:`lrn_max_pool2d_backward` the gradient of both, without the maps between in memory: the normalised
values and `scale` are worked out in registers, and anew from x in the backward pass, which therefore needs x
and the argmax only. With 3x3 windows every 2 this moves 2.7 times fewer bytes than the four separate calls,
and saves the memory of both maps. Of bfloat16 arrays the normalised values stay float32 until the greatest is
rounded.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from . import core
from .launch import HostCall, Launch, Prepared
from .norm import _MAX_SIZE, _groups, _number
from .operation import operation
from .pool import Geometry, Pair, check_argmax
from .reference import norm as reference


@dataclasses.dataclass(frozen=True)
class _Call:
    """What both directions share, checked."""

    geometry: Geometry
    lrn_size: int
    alpha: float
    beta: float
    k: float
    groups: int

    @staticmethod
    def of(
        op: str, x_shape: tuple[int, ...], dtype: np.dtype, lrn_size: Any, alpha: Any, beta: Any, k: Any,
        groups: Any, size: Any, stride: Any, pad: Any, ceil_mode: Any,
    ) -> _Call:  # fmt: skip
        return _Call(
            Geometry(op, x_shape, size, stride, pad, ceil_mode),
            checks.integer(op, "lrn_size", lrn_size, 1, _MAX_SIZE),
            _number(op, "alpha", alpha, dtype),
            _number(op, "beta", beta, dtype),
            _number(op, "k", k, dtype, positive=True),
            _groups(op, groups, x_shape[-1]),
        )

    def shape_of(self, dev: Device) -> Any:
        """Make the kernels' shape struct."""
        g = self.geometry
        (n, h, w, c), (_, p, q, _) = g.x_shape, g.y_shape
        return dev.ext.LrnMaxPool2dShape(
            n=n, h=h, w=w, c=c, lrn_size=self.lrn_size, groups=self.groups,
            r=g.size[0], s=g.size[1], p=p, q=q,
            stride_h=g.stride[0], stride_w=g.stride[1], pad_h=g.pad[0][0], pad_w=g.pad[1][0],
        )  # fmt: skip

    @property
    def for_reference(self) -> tuple[Any, ...]:
        g = self.geometry
        return (self.lrn_size, self.alpha, self.beta, self.k, self.groups, g.size, g.stride, g.pad)

    def launch(self, op: str, dev: Device, kernel: str | None, *arrays: Any, options: tuple = ()) -> Launch:
        args = (*arrays, self.alpha, self.beta, self.k, *options)
        return Launch(op, dev, op, self.shape_of(dev), args, kernel=kernel)


@core.lists_kernels("lrn_max_pool2d", "lrn_max_pool2d_backward")
def _list_kernels(
    op: str, dev: Device, x_shape: Any, *, lrn_size: int = 5, groups: int = 1, size: Any = 3, stride: Any = 2,
    pad: Any = 0, ceil_mode: bool = False,
) -> Any:  # fmt: skip
    x_shape = checks.shape_tuple(op, "x_shape", x_shape, "N, H, W, C")
    windows = (size, stride, pad, ceil_mode)
    call = _Call.of(op, x_shape, np.dtype(np.float32), lrn_size, 1.0, 1.0, 1.0, groups, *windows)
    return call.shape_of(dev)


@operation()
def lrn_max_pool2d(
    x: Any,
    *,
    lrn_size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    groups: int = 1,
    size: int | Pair = 3,
    stride: int | Pair = 2,
    pad: Any = 0,
    ceil_mode: bool = False,
    out: tuple[Any, Any] | None = None,
    kernel: str | None = None,
) -> tuple[Any, Any]:
    """Find the largest element of each window of pixels after normalisation across channels, and its place.

    ``u[i] = x[i] / (k + alpha * sum of x[j]^2)^beta`` over the `lrn_size` channels j around i (:func:`.lrn`;
    the paper, section 3.3), then ``y[n,p,q,c] = max over r,s of u[n, p*stride + r - top, q*stride + s - left,
    c]`` (:func:`.max_pool2d`; section 3.4). The first maximum in row-major order wins; a NaN beats every
    number, and the first NaN every other.

    Parameters
    ----------
    x : array (N, H, W, C), float32 or bfloat16 (on the cpu also float64)
    lrn_size : int, at least 1
        Channels in a window of the normalisation, `size` of :func:`.lrn`.
    alpha, beta, k, groups :
        As in :func:`.lrn`.
    size, stride, pad, ceil_mode :
        As in :func:`.max_pool2d`.
    out : (y, argmax), optional
    kernel : str, optional
        Forces one of ``ops.kernels("lrn_max_pool2d", x.shape, lrn_size=..., groups=..., size=..., stride=...,
        pad=..., ceil_mode=...)``.

    Returns
    -------
    y : array (N, P, Q, C), dtype of x
    argmax : array (N, P, Q, C)
        Position r * size_w + s inside the window: uint8 where size_h * size_w <= 255, else int32. Where two
        normalised values differ by rounding alone, kernels may choose either.

    Raises
    ------
    TypeError, ValueError
        Wrong rank, dtype or parameter; groups that do not divide C; no window fits; x not contiguous; `out`
        that does not fit or overlaps.
    """
    op = "lrn_max_pool2d"
    dev, inputs = core.arrays(op, x=x)
    x = inputs["x"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, x=x)
    x_shape = checks.check_rank(op, "x", x, "N, H, W, C")
    windows = (size, stride, pad, ceil_mode)
    call = _Call.of(op, x_shape, dtype, lrn_size, alpha, beta, k, groups, *windows)
    checks.check_contiguous(op, x=x)
    y_shape, argmax_dtype = call.geometry.y_shape, call.geometry.argmax_dtype
    specs = ("y", y_shape, dtype), ("argmax", y_shape, argmax_dtype)
    y, argmax = core.outputs(op, dev, inputs, out, *specs)
    if dev.ext is None:
        step = HostCall(reference.lrn_max_pool2d, x, *call.for_reference, out=(y, argmax))
    else:
        step = call.launch(op, dev, kernel, y, argmax, x)
    return Prepared(dev, (y, argmax), step)


@operation()
def lrn_max_pool2d_backward(
    dy: Any,
    argmax: Any,
    x: Any,
    *,
    lrn_size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    groups: int = 1,
    size: int | Pair = 3,
    stride: int | Pair = 2,
    pad: Any = 0,
    ceil_mode: bool = False,
    relu: bool = False,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Compute the gradient of :func:`lrn_max_pool2d` for its input.

    With g, the sum of the dy whose argmax points at an element, and `scale` made of x anew: ``dx[i] = g[i] *
    scale[i]^-beta - 2 * alpha * beta * x[i] * sum of g[j] * x[j] * scale[j]^(-beta - 1)`` over the channels j
    whose windows hold i. Sums have a fixed order.

    Parameters
    ----------
    dy : array (N, P, Q, C), dtype of x
    argmax : array (N, P, Q, C), uint8 or int32
        As :func:`lrn_max_pool2d` returned it. A position that is not in the window is refused in host arrays;
        on a CUDA device, and wherever a position is in the part of the window outside the image, its dy goes
        nowhere.
    x : array (N, H, W, C), float32 or bfloat16 (on the cpu also float64)
        The forward input.
    lrn_size, alpha, beta, k, groups, size, stride, pad, ceil_mode :
        As in the forward call.
    relu : bool
        x came out of a ReLU: the result is the gradient of what went into it, that is ``relu_backward(dx,
        x)`` of the gradient dx without, in the same pass: zero where x <= 0.
    out : array like x, optional
    kernel : str, optional
        Forces one of ``ops.kernels("lrn_max_pool2d_backward", x.shape, ...)``, options as in the forward
        call.

    Raises
    ------
    TypeError, ValueError
        As :func:`lrn_max_pool2d`; dy or argmax that do not fit x; a position outside the window.
    """
    op = "lrn_max_pool2d_backward"
    dev, inputs = core.arrays(op, dy=dy, argmax=argmax, x=x)
    dy, argmax, x = inputs.values()
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, x=x, dy=dy)
    x_shape = checks.check_rank(op, "x", x, "N, H, W, C")
    relu = checks.flag(op, "relu", relu)
    windows = (size, stride, pad, ceil_mode)
    call = _Call.of(op, x_shape, dtype, lrn_size, alpha, beta, k, groups, *windows)
    checks.check_rank(op, "dy", dy, "N, P, Q, C")
    checks.check_shape(op, "dy", dy, call.geometry.y_shape, f"for x {x_shape}")
    checks.check_shape(op, "argmax", argmax, call.geometry.y_shape, "like dy")
    checks.check_dtype(op, "argmax", argmax, call.geometry.argmax_dtype)
    checks.check_contiguous(op, **inputs)
    dx = core.output(op, dev, inputs, out, x_shape, dtype)
    if dev.ext is None:
        args = (dy, argmax, x, *call.for_reference, relu)
        step = HostCall(reference.lrn_max_pool2d_backward, *args, out=dx)
    else:
        step = call.launch(op, dev, kernel, dx, dy, argmax, x, options=(relu,))
    positions = HostCall(check_argmax, op, argmax, math.prod(call.geometry.size))
    return Prepared(dev, dx, step, checks=() if dev.kind == "cuda" else (positions,))
