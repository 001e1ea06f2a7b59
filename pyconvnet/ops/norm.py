"""Local response normalisation across channels (the paper, section 3.3) or pixels (cuda-convnet's ``rnorm``).

Across channels, with a window of `size` channels around i that stays inside i's group::

    scale[i] = k + alpha * sum over j in [i - size//2, i - size//2 + size - 1] of x[j]^2
    y[i]     = x[i] / scale[i]^beta

`alpha` multiplies the plain sum, as the paper prints it. Others divide by the size of the window first:

================================ ============== ====== ====================================================
from                             alpha here     k here remark
================================ ============== ====== ====================================================
the paper                        1e-4           2
PyTorch ``LocalResponseNorm``    alpha / size   k      its k is 1 by default; even windows are the same
Caffe ``LRN`` ACROSS_CHANNELS    alpha / size   k      odd sizes only; AlexNet's prototxt leaves k = 1
cuDNN ``CrossChannel``           alpha / n      k
ONNX ``LRN``                     alpha / size   bias   even windows are the other way round
TensorFlow                       alpha          bias   size = 2 * depth_radius + 1
cuda-convnet ``cmrnorm``         scale / size   minDiv 1 in cuda-convnet 1; the code of 2012: 2e-5, k = 2
cuda-convnet ``rnorm``           scale / size^2 minDiv 1 in cuda-convnet 1; here :func:`lrn_spatial`
Caffe ``LRN`` WITHIN_CHANNEL     alpha / size^2 1      here :func:`lrn_spatial`
================================ ============== ====== ====================================================

So the printed formula is ``torch.nn.LocalResponseNorm(5, alpha=5e-4, k=2)``, while the code that won in 2012
is ``LocalResponseNorm(5, alpha=1e-4, k=2)``, here ``alpha=2e-5``. That code kept windows inside a tower:
``groups=2``.

Beside bfloat16 arrays `scale` is float32. y is then rounded once, from float32, and the gradients work out y
anew from x and `scale` instead of reading it rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from ..common.precision import accumulation_dtype
from . import core
from .launch import HostCall, Launch, Prepared
from .operation import operation
from .reference import norm as reference

_MAX_SIZE = 2**31 - 1


def _number(op: str, name: str, value: Any, dtype: np.dtype, *, positive: bool = False) -> float:
    """Return a number that is neither negative nor, in the arrays' dtype, infinite; `positive`: nor zero."""
    value = checks.real(op, name, value, minimum=0.0, positive=positive)
    dtype = accumulation_dtype(dtype)
    limits = np.finfo(dtype)
    if value > float(limits.max) or (positive and value < float(limits.tiny)):
        raise ValueError(f"{op}: {name} must be in the range of {dtype}, got {value}")
    return value


def _groups(op: str, groups: Any, channels: int) -> int:
    groups = checks.integer(op, "groups", groups, 1)
    if channels % groups:
        raise ValueError(f"{op}: groups must divide the number of channels {channels}, got {groups}")
    return groups


def _channels_shape(dev: Device, shape: tuple[int, ...], size: int, groups: int) -> Any:
    rows = 1
    for extent in shape[:-1]:
        rows *= extent
    return dev.ext.LrnShape(n=rows, c=shape[-1], size=size, groups=groups)


def _pixels_shape(dev: Device, shape: tuple[int, ...], size: int) -> Any:
    n, h, w, c = shape
    return dev.ext.LrnSpatialShape(n=n, h=h, w=w, c=c, size=size)


@core.lists_kernels("lrn", "lrn_backward")
def _list_across_channels(op: str, dev: Device, x_shape: Any, size: int = 5, groups: int = 1) -> Any:
    size, x_shape = checks.integer(op, "size", size, 1, _MAX_SIZE), checks.shape_tuple(op, "x_shape", x_shape)
    return _channels_shape(dev, x_shape, size, _groups(op, groups, x_shape[-1]))


@core.lists_kernels("lrn_spatial", "lrn_spatial_backward")
def _list_across_pixels(op: str, dev: Device, x_shape: Any, size: int = 5, groups: int = 1) -> Any:
    size = checks.integer(op, "size", size, 1, _MAX_SIZE)
    if groups != 1:
        raise ValueError(f"{op}: groups must be 1, got {groups}")
    return _pixels_shape(dev, checks.shape_tuple(op, "x_shape", x_shape, "N, H, W, C"), size)


def _outputs(op: str, dev: Device, out: Any, inputs: dict[str, Any], dtype: np.dtype) -> tuple[Any, Any]:
    shape = inputs["x"].shape
    specs = ("y", shape, dtype), ("scale", shape, accumulation_dtype(dtype))
    return core.outputs(op, dev, inputs, out, *specs)


def _backward_inputs(
    op: str, kernel: str | None, out: Any, spatial: bool, **named: Any
) -> tuple[Device, np.dtype, dict[str, Any], Any]:
    """Check what both gradients share; return (device, dtype, arrays, dx)."""
    dev, inputs = core.arrays(op, **named)
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, **{name: array for name, array in inputs.items() if name != "scale"})
    checks.check_dtype(op, "scale", inputs["scale"], accumulation_dtype(dtype))
    x = inputs["x"]
    shape = checks.check_rank(op, "x", x, "N, H, W, C" if spatial else "..., C")
    for name in ("dy", "y", "scale"):
        checks.check_shape(op, name, inputs[name], shape, "like x")
    checks.check_contiguous(op, **inputs)
    dx = core.output(op, dev, inputs, out, shape, dtype)
    return dev, dtype, inputs, dx


# ---------------------------------------------------------------- across channels


@operation()
def lrn(
    x: Any,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    groups: int = 1,
    *,
    out: tuple[Any, Any] | None = None,
    kernel: str | None = None,
) -> tuple[Any, Any]:
    """Normalise responses across channels (the paper, section 3.3, with its numbers as defaults).

    ``y[i] = x[i] / (k + alpha * sum of x[j]^2)^beta`` over the `size` channels j around i. See the module for
    the window, and for how to convert the parameters of PyTorch, Caffe, cuDNN, ONNX and cuda-convnet.

    Parameters
    ----------
    x : array (..., C), float32 or bfloat16 (on the cpu also float64)
    size : int, at least 1
        Channels in a window; an even one has its longer half before i.
    alpha, beta : float, not negative
    k : float, positive
    groups : int
        Windows stay inside one of so many equal parts of the channels: the towers of a two-tower network.
    out : (y, scale), optional
    kernel : str, optional
        Forces one of ``ops.kernels("lrn", x.shape, size, groups)``.

    Returns
    -------
    y, scale : arrays like x, scale float32 beside bfloat16
        ``scale = k + alpha * sum``, which :func:`lrn_backward` needs.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or parameter; groups that do not divide C; x not contiguous; `out` that does not fit or
        overlaps.
    """
    op = "lrn"
    dev, inputs = core.arrays(op, x=x)
    x = inputs["x"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, x=x)
    shape = checks.check_rank(op, "x", x, "..., C")
    size = checks.integer(op, "size", size, 1, _MAX_SIZE)
    alpha, beta = _number(op, "alpha", alpha, dtype), _number(op, "beta", beta, dtype)
    k = _number(op, "k", k, dtype, positive=True)
    groups = _groups(op, groups, shape[-1])
    checks.check_contiguous(op, x=x)
    y, scale = _outputs(op, dev, out, inputs, dtype)
    if dev.ext is None:
        step = HostCall(reference.lrn, x, size, alpha, beta, k, groups, out=(y, scale))
    else:
        extent = _channels_shape(dev, shape, size, groups)
        step = Launch(op, dev, op, extent, (y, scale, x, alpha, beta, k), kernel=kernel)
    return Prepared(dev, (y, scale), step)


@operation()
def lrn_backward(
    dy: Any,
    x: Any,
    y: Any,
    scale: Any,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    groups: int = 1,
    *,
    relu: bool = False,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Compute the gradient of :func:`lrn` for its input.

    ``dx[i] = dy[i] * scale[i]^-beta - 2 * alpha * beta * x[i] * sum of dy[j] * y[j] / scale[j]`` over the
    channels j whose windows hold i.

    Parameters
    ----------
    dy, x, y, scale : arrays (..., C) of one dtype, scale float32 beside bfloat16
        x, and what :func:`lrn` made of it. A kernel may work out y anew from x and scale instead of reading
        it.
    size, alpha, beta, groups :
        As in the forward call.
    relu : bool
        x came out of a ReLU: the result is the gradient of what went into it, that is ``relu_backward(dx,
        x)`` of the gradient dx without, in the same pass: zero where x <= 0.
    out : array like x, optional
    kernel : str, optional
        Forces one of ``ops.kernels("lrn_backward", x.shape, size, groups)``.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or parameter; arrays of different shapes; not contiguous; `out` that does not fit or
        overlaps.
    """
    op = "lrn_backward"
    dev, dtype, inputs, dx = _backward_inputs(op, kernel, out, False, dy=dy, x=x, y=y, scale=scale)
    relu = checks.flag(op, "relu", relu)
    size = checks.integer(op, "size", size, 1, _MAX_SIZE)
    alpha, beta = _number(op, "alpha", alpha, dtype), _number(op, "beta", beta, dtype)
    groups = _groups(op, groups, dx.shape[-1])
    if dev.ext is None:
        args = (*inputs.values(), size, alpha, beta, groups, relu)
        return Prepared(dev, dx, HostCall(reference.lrn_backward, *args, out=dx))
    shape, args = _channels_shape(dev, dx.shape, size, groups), (dx, *inputs.values(), alpha, beta, relu)
    return Prepared(dev, dx, Launch(op, dev, op, shape, args, kernel=kernel))


# ---------------------------------------------------------------- across pixels


@operation()
def lrn_spatial(
    x: Any,
    size: int = 5,
    alpha: float = 1e-3 / 25,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    out: tuple[Any, Any] | None = None,
    kernel: str | None = None,
) -> tuple[Any, Any]:
    """Normalise responses across the pixels of one channel: cuda-convnet's ``rnorm``.

    ``y = x / (k + alpha * sum of x^2)^beta`` over ``size x size`` pixels around each, cut off at the image's
    edge. The code of 2012 has one after its second normalisation across channels, with the defaults' alpha
    (not in the paper).

    Parameters
    ----------
    x : array (N, H, W, C), float32 or bfloat16 (on the cpu also float64)
    size : int, at least 1
        Rows and columns [i - size//2, i - size//2 + size - 1].
    alpha, beta : float, not negative
        alpha multiplies the plain sum; cuda-convnet's ``scale`` is alpha * size^2.
    k : float, positive
    out : (y, scale), optional
    kernel : str, optional
        Forces one of ``ops.kernels("lrn_spatial", x.shape, size)``.

    Returns
    -------
    y, scale : arrays like x, scale float32 beside bfloat16
        ``scale = k + alpha * sum``, which :func:`lrn_spatial_backward` needs.

    Raises
    ------
    TypeError, ValueError
        Wrong rank, dtype or parameter; x not contiguous; `out` that does not fit or overlaps.
    """
    op = "lrn_spatial"
    dev, inputs = core.arrays(op, x=x)
    x = inputs["x"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, x=x)
    shape = checks.check_rank(op, "x", x, "N, H, W, C")
    size = checks.integer(op, "size", size, 1, _MAX_SIZE)
    alpha, beta = _number(op, "alpha", alpha, dtype), _number(op, "beta", beta, dtype)
    k = _number(op, "k", k, dtype, positive=True)
    checks.check_contiguous(op, x=x)
    y, scale = _outputs(op, dev, out, inputs, dtype)
    if dev.ext is None:
        step = HostCall(reference.lrn_spatial, x, size, alpha, beta, k, out=(y, scale))
    else:
        extent = _pixels_shape(dev, shape, size)
        step = Launch(op, dev, op, extent, (y, scale, x, alpha, beta, k), kernel=kernel)
    return Prepared(dev, (y, scale), step)


@operation()
def lrn_spatial_backward(
    dy: Any,
    x: Any,
    y: Any,
    scale: Any,
    size: int = 5,
    alpha: float = 1e-3 / 25,
    beta: float = 0.75,
    *,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Compute the gradient of :func:`lrn_spatial` for its input.

    ``dx = dy * scale^-beta - 2 * alpha * beta * x * sum of dy * y / scale`` over the pixels whose windows
    hold this one.

    Parameters
    ----------
    dy, x, y, scale : arrays (N, H, W, C) of one dtype, scale float32 beside bfloat16
        x, and what :func:`lrn_spatial` made of it. A kernel may work out y anew from x and scale instead of
        reading it.
    size, alpha, beta :
        As in the forward call.
    out : array like x, optional
    kernel : str, optional
        Forces one of ``ops.kernels("lrn_spatial_backward", x.shape, size)``.

    Raises
    ------
    TypeError, ValueError
        Wrong rank, dtype or parameter; arrays of different shapes; not contiguous; `out` that does not fit or
        overlaps.
    """
    op = "lrn_spatial_backward"
    dev, dtype, inputs, dx = _backward_inputs(op, kernel, out, True, dy=dy, x=x, y=y, scale=scale)
    size = checks.integer(op, "size", size, 1, _MAX_SIZE)
    alpha, beta = _number(op, "alpha", alpha, dtype), _number(op, "beta", beta, dtype)
    if dev.ext is None:
        args = (*inputs.values(), size, alpha, beta)
        return Prepared(dev, dx, HostCall(reference.lrn_spatial_backward, *args, out=dx))
    shape, args = _pixels_shape(dev, dx.shape, size), (dx, *inputs.values(), alpha, beta)
    return Prepared(dev, dx, Launch(op, dev, op, shape, args, kernel=kernel))
