"""The space-to-depth layout: images regrouped so that a convolution's stride becomes channels.

A first layer sees few channels and takes large strides: AlexNet's has 11x11 filters at stride 4 on 3
channels. With blocks of t x t pixels (t the stride) taken as the channels of one pixel, it is exactly a 3x3
convolution of stride 1 on 48 channels, which the fast kernels take:

``x'[n, i, j, (a t + b) C + c] = x[n, t i + a - top, t j + b - left, c]``, 0 outside the image
``w'[k, r', s', (a t + b) C + c] = w[k, t r' + a, t s' + b, c]``, 0 beyond the filter

``conv2d`` rearranges both at each call where that pays. Here the images are given in the space-to-depth
layout from the start: :func:`pyconvnet.ops.augment` writes it, or :func:`images_to_depth`, once for both
directions.

Padding lies in x' as zeros, and so do channels that fill D up to whole accesses of 16 bytes: D is t t C
rounded up to a multiple of 4, in bfloat16 of 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from ..common.precision import BFLOAT16
from . import conv, core
from .augment import prepare
from .launch import HostCall, Launch, Prepared, Step
from .operation import operation
from .reference import space_to_depth as reference
from .reference.space_to_depth import Depth, block_side, channels, filters_shape


def _extent(dev: Device, w_shape: tuple[int, ...], shape: tuple[int, ...], side: int) -> Any:
    (k, r, s, c), (_, to_r, to_s, to_c) = w_shape, shape
    return dev.ext.DepthShape(k=k, r=r, s=s, c=c, side=side, to_r=to_r, to_s=to_s, to_c=to_c)


@operation()
def images_to_depth(x: Any, depth: Depth, *, out: Any = None, kernel: str | None = None) -> Any:
    """Rearrange images (N, H, W, C) for the space-to-depth layout of a convolution.

    Parameters
    ----------
    x : array (N, H, W, C), float32; on the cpu also float64
    depth : Depth
    out : array (N, I, J, D), optional; float32 or bfloat16
    kernel : str, optional
        Forces one of ``ops.kernels("augment", x.shape, x.shape[1:3], depth=depth)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`pyconvnet.ops.augment`.
    """
    op = "images_to_depth"
    dev, inputs = core.arrays(op, x=x)
    if not isinstance(depth, Depth):
        raise TypeError(f"{op}: depth must be a Depth, got {type(depth).__name__}")
    _, h, w, _ = checks.check_rank(op, "x", inputs["x"], "N, H, W, C")
    return prepare(op, dev, inputs, "x", size=(h, w), depth=depth, out=out, kernel=kernel)


@operation()
def filters_to_depth(w: Any, stride: int, *, out: Any = None, kernel: str | None = None) -> Any:
    """Rearrange filters for images in the space-to-depth layout.

    Parameters
    ----------
    w : array (K, R, S, C), float32 or bfloat16, on the cpu also float64
    stride : int
    out : array (K, R', S', D), optional; dtype of w
    kernel : str, optional
        Forces one of ``ops.kernels("filters_to_depth", w.shape, stride)``.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape; not contiguous; `out` that does not fit.
    """
    op = "filters_to_depth"
    dev, inputs = core.arrays(op, w=w)
    w = inputs["w"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, w=w)
    w_shape = checks.check_rank(op, "w", w, "K, R, S, C")
    side = block_side(op, stride)
    checks.check_contiguous(op, w=w)
    to = core.output(op, dev, inputs, out, filters_shape(w_shape, side, dtype), dtype)
    return Prepared(dev, to, _rearrange(op, dev, w, to, side, kernel))


def _rearrange(op: str, dev: Device, w: Any, filters: Any, side: int, kernel: str | None = None) -> Step:
    """Prepare filters_to_depth, of w, or filters_from_depth, of filters; the arrays have been checked."""
    target, source = (filters, w) if op == "filters_to_depth" else (w, filters)
    if dev.ext is None:
        return HostCall(getattr(reference, op), source, side, out=target)
    return Launch(op, dev, op, _extent(dev, w.shape, filters.shape, side), (target, source), kernel=kernel)


@operation()
def filters_from_depth(
    filters: Any,
    w_shape: tuple[int, int, int, int],
    stride: int,
    *,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Undo :func:`filters_to_depth`: the filters' gradient from that of the rearranged ones.

    Parameters
    ----------
    filters : array (K, R', S', D), float32, on the cpu also float64; D of float32 or of bfloat16 arrays
    w_shape : (K, R, S, C)
    stride : int
    out : array (K, R, S, C), optional; dtype of filters
    kernel : str, optional
        Forces one of ``ops.kernels("filters_from_depth", w_shape, stride)``.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shapes; not contiguous; `out` that does not fit.
    """
    op = "filters_from_depth"
    dev, inputs = core.arrays(op, filters=filters)
    filters = inputs["filters"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    floats = (np.float32,) if dev.ext is not None else (np.float32, np.float64)
    checks.check_dtype(op, "filters", filters, *floats)
    shape = checks.check_rank(op, "filters", filters, "K, R', S', D")
    w_shape = checks.shape_tuple(op, "w_shape", w_shape, "K, R, S, C")
    side = block_side(op, stride)
    wanted = [filters_shape(w_shape, side, dtype) for dtype in (np.float32, BFLOAT16)]
    if shape not in wanted:
        raise ValueError(
            f"{op}: filters must have shape {wanted[0]} (of bfloat16 arrays {wanted[1]}) "
            f"for w_shape {w_shape} and stride {side}, got {shape}"
        )
    checks.check_contiguous(op, filters=filters)
    dw = core.output(op, dev, inputs, out, w_shape, filters.dtype)
    return Prepared(dev, dw, _rearrange(op, dev, dw, filters, side, kernel))


@operation(updated=("filters",), alignment=True)
def conv2d_depth(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: int,
    activation: str | None = None,
    precision: str | None = None,
    out: Any = None,
    filters: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Any:
    """Compute :func:`pyconvnet.ops.conv2d` of images in the space-to-depth layout.

    Parameters
    ----------
    x : array (N, I, J, D)
        In the space-to-depth layout of the convolution, its padding included.
    w : array (K, R, S, C), b : array (K,), optional
        As ``conv2d`` takes them.
    stride : int
    filters : array (K, R', S', D), optional
        Where w is rearranged; else it is allocated.
    kernel : str, optional
        Forces one of ``ops.kernels("conv2d", x.shape, (K, R', S', D))``.
    activation, precision, out, workspace :
        See :mod:`pyconvnet.ops.conv`.

    Returns
    -------
    y : array (N, I - R' + 1, J - S' + 1, K)

    Raises
    ------
    TypeError, ValueError
        As ``conv2d``; x whose channels are not those of the layout.
    """
    op = "conv2d_depth"
    dev, inputs = core.arrays(op, ("b",), x=x, w=w, b=b)
    x, w = inputs["x"], inputs["w"]
    dtype, w_shape = core.check_float(op, dev, x=x, w=w), checks.check_rank(op, "w", w, "K, R, S, C")
    side, shape = _rearranged(op, x, w_shape, stride, dtype)
    checks.check_contiguous(op, w=w)
    filters = core.output(op, dev, inputs, filters, shape, dtype, name="filters")
    options = {"activation": activation, "precision": precision, "kernel": kernel, "workspace": workspace}
    product = conv.fprop(op, dev, inputs | {"filters": filters}, filters, out=out, **options)
    steps = _rearrange("filters_to_depth", dev, w, filters, side), *product.steps
    return Prepared(dev, product.result, *steps, scratch=(filters,))


@operation(updated=("filters", "bias_grad"), alignment=True)
def conv2d_depth_wgrad(
    dy: Any,
    x: Any,
    w_shape: tuple[int, int, int, int],
    *,
    stride: int,
    precision: str | None = None,
    bias_grad: Any = None,
    out: Any = None,
    filters: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Any:
    """Compute :func:`pyconvnet.ops.conv2d_wgrad` of images in the space-to-depth layout.

    Parameters
    ----------
    dy : array (N, P, Q, K)
    x : array (N, I, J, D), dtype of dy
        As :func:`conv2d_depth` took it.
    w_shape : (K, R, S, C)
    stride : int
    bias_grad : array (K,), of out's dtype, optional
        As for ``conv2d_wgrad``.
    out : array (K, R, S, C), optional
    filters : array (K, R', S', D), of out's dtype, optional
        Where the gradient of the rearranged filters is put; else it is allocated.
    kernel : str, optional
        Forces one of ``ops.kernels("conv2d_wgrad", x.shape, (K, R', S', D))``.
    precision, workspace :
        See :mod:`pyconvnet.ops.conv`.

    Returns
    -------
    dw : array (K, R, S, C), float32, or float64 where dy is

    Raises
    ------
    TypeError, ValueError
        As ``conv2d_wgrad``; x whose channels are not those of the layout.
    """
    op = "conv2d_depth_wgrad"
    dev, inputs = core.arrays(op, dy=dy, x=x)
    dtype = core.check_float(op, dev, **inputs)
    w_shape = checks.shape_tuple(op, "w_shape", w_shape, "K, R, S, C")
    side, shape = _rearranged(op, inputs["x"], w_shape, stride, dtype)
    options = {"precision": precision, "bias_grad": bias_grad, "kernel": kernel, "workspace": workspace}
    product = conv.wgrad(op, dev, inputs, shape, out=filters, name="filters", **options)
    filters = product.result
    written = {"filters": filters} | ({} if bias_grad is None else core.arrays(op, bias_grad=bias_grad)[1])
    dw = core.output(op, dev, inputs | written, out, w_shape, filters.dtype)
    steps = *product.steps, _rearrange("filters_from_depth", dev, dw, filters, side)
    return Prepared(dev, dw, *steps, scratch=(filters,))


def _rearranged(
    op: str, x: Any, w_shape: tuple[int, ...], stride: Any, dtype: np.dtype
) -> tuple[int, tuple[int, int, int, int]]:
    """Return a block's side and the shape of the rearranged filters, for x whose channels are checked."""
    side = block_side(op, stride)
    shape, wanted = checks.check_rank(op, "x", x, "N, I, J, D"), channels(w_shape[3], side, dtype)
    if shape[3] != wanted:
        raise ValueError(
            f"{op}: x must have {wanted} channels, those of the space-to-depth layout of {w_shape[3]} at "
            f"stride {side} in {dtype}, got shape {shape}"
        )
    return side, filters_shape(w_shape, side, dtype)


@core.lists_kernels("filters_to_depth", "filters_from_depth")
def _list_kernels(op: str, dev: Device, w_shape: tuple[int, ...], stride: int) -> Any:
    shape, side = checks.shape_tuple(op, "w_shape", w_shape, "K, R, S, C"), block_side(op, stride)
    return _extent(dev, shape, filters_shape(shape, side, np.float32), side)
