"""Activations, bias, sums, concatenation and dropout.

Arrays are float32 or bfloat16, on the cpu also float64, all arguments of a call alike; what each function
computes it computes in float32 at least and rounds once. Biases and their gradients are float32 beside
bfloat16 arrays, masks uint8. Where a function says so, `out` may be one of its inputs; any other overlap with
an input is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from ..common.precision import accumulation_dtype
from . import core, draws, reference
from .launch import HostCall, Launch, Prepared
from .operation import operation

# ---- what the functions share ------------------------------------------------------------------------------


def _elementwise(op: str, out: Any, kernel: str | None, *scalars: float, **named: Any) -> Prepared:
    """Prepare one of the functions that take arrays of one shape."""
    dev, inputs = core.arrays(op, **named)
    names = list(named)
    first = inputs[names[0]]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, **inputs)
    shape = checks.check_size(op, names[0], first)
    for name in names[1:]:
        checks.check_shape(op, name, inputs[name], shape, f"like {names[0]}")
    checks.check_contiguous(op, **inputs)
    y = core.output(op, dev, inputs, out, shape, dtype, itself=tuple(inputs))
    if dev.ext is None:
        return Prepared(dev, y, HostCall(getattr(reference, op), *inputs.values(), *scalars, out=y))
    extent = dev.ext.ElementwiseShape(count=first.size)
    return Prepared(dev, y, Launch(op, dev, op, extent, (y, *inputs.values(), *scalars), kernel=kernel))


_ELEMENTWISE = "relu relu_backward tanh tanh_backward logistic logistic_backward add dropout_backward"


@core.lists_kernels(*_ELEMENTWISE.split())
def _list_elementwise(op: str, dev: Device, shape: tuple[int, ...]) -> Any:
    return dev.ext.ElementwiseShape(count=math.prod(checks.shape_tuple(op, "shape", shape)))


# ---- activations -------------------------------------------------------------------------------------------


@operation()
def relu(x: Any, *, out: Any = None, kernel: str | None = None) -> Any:
    """Apply a rectified linear unit, ``y = max(x, 0)``; NaN stays NaN (the paper, section 3.1).

    Parameters
    ----------
    x : array, any shape, float32 or bfloat16 (on the cpu also float64)
    out : array like x, optional; may be x.
    kernel : str, optional
        Forces one of ``ops.kernels("relu", x.shape)``.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype; empty or not contiguous x; `out` that does not fit or overlaps x without being it.
    """
    return _elementwise("relu", out, kernel, x=x)


@operation()
def relu_backward(dy: Any, y: Any, *, out: Any = None, kernel: str | None = None) -> Any:
    """Compute the gradient of ``y = relu(x)``: ``dx = 0 where y <= 0, else dy``.

    Parameters
    ----------
    dy, y : arrays of one shape and dtype
    out : array like dy, optional; may be dy or y.

    Raises
    ------
    TypeError, ValueError
        As for :func:`relu`; shapes that differ.
    """
    return _elementwise("relu_backward", out, kernel, dy=dy, y=y)


@operation()
def tanh(x: Any, *, out: Any = None, kernel: str | None = None) -> Any:
    """Compute ``y = tanh(x)``, element by element. Arguments and errors as for :func:`relu`."""
    return _elementwise("tanh", out, kernel, x=x)


@operation()
def tanh_backward(dy: Any, y: Any, *, out: Any = None, kernel: str | None = None) -> Any:
    """Compute the gradient of ``y = tanh(x)``: ``dx = dy (1 - y^2)``.

    Arguments and errors as for :func:`relu_backward`.
    """
    return _elementwise("tanh_backward", out, kernel, dy=dy, y=y)


@operation()
def logistic(x: Any, *, out: Any = None, kernel: str | None = None) -> Any:
    """Apply the logistic function, ``y = 1 / (1 + exp(-x))``. Arguments and errors as for :func:`relu`."""
    return _elementwise("logistic", out, kernel, x=x)


@operation()
def logistic_backward(dy: Any, y: Any, *, out: Any = None, kernel: str | None = None) -> Any:
    """Compute the gradient of ``y = logistic(x)``: ``dx = dy y (1 - y)``.

    Arguments and errors as for :func:`relu_backward`.
    """
    return _elementwise("logistic_backward", out, kernel, dy=dy, y=y)


# ---- sums --------------------------------------------------------------------------------------------------


@operation()
def add(
    a: Any, b: Any, *, alpha: float = 1.0, beta: float = 1.0, out: Any = None, kernel: str | None = None
) -> Any:
    """Add two arrays, scaled: ``y = alpha a + beta b``.

    With ``beta=0``, b is not read: ``add(a, a, alpha=s, beta=0)`` scales a.

    Parameters
    ----------
    a, b : arrays of one shape and dtype
    alpha, beta : finite numbers
    out : array like a, optional; may be a or b.

    Raises
    ------
    TypeError, ValueError
        As for :func:`relu_backward`; a factor that is not finite.
    """
    alpha, beta = checks.real("add", "alpha", alpha), checks.real("add", "beta", beta)
    return _elementwise("add", out, kernel, alpha, beta, a=a, b=b)


@operation()
def add_bias(x: Any, b: Any, *, out: Any = None, kernel: str | None = None) -> Any:
    """Add one number per channel: ``y[..., c] = x[..., c] + b[c]``.

    Parameters
    ----------
    x : array (..., C)
    b : array (C,), of the dtype of x, or float32 where that is bfloat16
    out : array like x, optional; may be x.
    kernel : str, optional
        Forces one of ``ops.kernels("add_bias", x.shape)``.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, empty or not contiguous arrays, b of another length, `out` that does not fit.
    """
    op = "add_bias"
    dev, inputs = core.arrays(op, x=x, b=b)
    x, b = inputs["x"], inputs["b"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, x=x)
    checks.check_dtype(op, "b", b, accumulation_dtype(dtype))
    shape = checks.check_rank(op, "x", x, "..., C")
    checks.check_shape(op, "b", b, shape[-1:], "for the last axis of x")
    checks.check_contiguous(op, x=x, b=b)
    y = core.output(op, dev, inputs, out, shape, dtype, itself=("x",))
    if dev.ext is None:
        return Prepared(dev, y, HostCall(reference.add_bias, x, b, out=y))
    extent = dev.ext.RowsShape(rows=x.size // shape[-1], cols=shape[-1])
    return Prepared(dev, y, Launch(op, dev, op, extent, (y, x, b), kernel=kernel))


@operation()
def bias_backward(dy: Any, *, out: Any = None, kernel: str | None = None, workspace: Any = None) -> Any:
    """Sum a bias's gradient, ``db[c] = sum of dy[..., c]`` over all axes but the last, in a fixed order.

    Parameters
    ----------
    dy : array (..., C)
    out : array (C,), of the dtype of dy, or float32 where that is bfloat16, optional
    kernel : str, optional
        Forces one of ``ops.kernels("bias_backward", dy.shape)``.
    workspace : object with ``get(nbytes)``, optional
        Lends the kernel its scratch memory; otherwise it is allocated.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, empty or not contiguous dy, `out` that does not fit.
    """
    op = "bias_backward"
    dev, inputs = core.arrays(op, dy=dy)
    dy = inputs["dy"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, dy=dy)
    shape = checks.check_rank(op, "dy", dy, "..., C")
    checks.check_contiguous(op, dy=dy)
    db = core.output(op, dev, inputs, out, shape[-1:], accumulation_dtype(dtype))
    if dev.ext is None:
        return Prepared(dev, db, HostCall(reference.bias_backward, dy, out=db))
    extent = dev.ext.RowsShape(rows=dy.size // shape[-1], cols=shape[-1])
    how = {"with_workspace": True, "kernel": kernel, "workspace": workspace}
    return Prepared(dev, db, Launch(op, dev, op, extent, (db, dy), **how))


@core.lists_kernels("add_bias", "bias_backward")
def _list_rows(op: str, dev: Device, shape: tuple[int, ...]) -> Any:
    *rows, cols = checks.shape_tuple(op, "shape", shape)
    return dev.ext.RowsShape(rows=math.prod(rows), cols=cols)


# ---- channels side by side ---------------------------------------------------------------------------------


@operation()
def concat(xs: Sequence[Any], *, out: Any = None) -> Any:
    """Join arrays along the last axis, the channels.

    Parameters
    ----------
    xs : sequence of arrays (..., C_i), equal in all axes but the last
    out : array (..., C_0 + C_1 + …), optional

    Raises
    ------
    TypeError, ValueError
        No arrays; shapes that differ in another axis; wrong dtype; not contiguous; `out` that does not fit.
    """
    op = "concat"
    if not isinstance(xs, list | tuple):
        raise TypeError(f"{op}: xs must be a list or tuple of arrays, got {type(xs).__name__}")
    if not xs:
        raise ValueError(f"{op}: xs must hold at least one array, got none")
    dev, inputs = core.arrays(op, **{f"xs[{i}]": x for i, x in enumerate(xs)})
    dtype = core.check_float(op, dev, **inputs)
    outer = checks.check_rank(op, "xs[0]", inputs["xs[0]"], "..., C")[:-1]
    for name, x in inputs.items():
        if checks.check_rank(op, name, x, "..., C")[:-1] != outer:
            wanted = ", ".join(map(str, (*outer, "…")))
            raise ValueError(f"{op}: {name} must have shape ({wanted}) like xs[0], got {tuple(x.shape)}")
    checks.check_contiguous(op, **inputs)
    arrays = list(inputs.values())
    total = sum(x.shape[-1] for x in arrays)
    y = core.output(op, dev, inputs, out, (*outer, total), dtype)
    if dev.ext is None:
        return Prepared(dev, y, HostCall(reference.concat, arrays, out=y))
    first, copies = 0, []
    for x in arrays:
        copies.append(_copy_columns(dev, y, first, x, 0, x.shape[-1]))
        first += x.shape[-1]
    return Prepared(dev, y, *copies)


@operation()
def split(x: Any, sizes: Sequence[int], *, out: Any = None) -> tuple[Any, ...]:
    """Split the channels of x into parts of the given sizes: the inverse of :func:`concat`.

    Parameters
    ----------
    x : array (..., C)
    sizes : sequence of positive integers with sum C
    out : tuple of arrays (..., sizes[i]), optional

    Raises
    ------
    TypeError, ValueError
        Sizes that do not add up to C; wrong dtype; not contiguous; `out` that does not fit.
    """
    op = "split"
    dev, inputs = core.arrays(op, x=x)
    x = inputs["x"]
    dtype = core.check_float(op, dev, x=x)
    outer = checks.check_rank(op, "x", x, "..., C")[:-1]
    if not isinstance(sizes, list | tuple):
        raise TypeError(f"{op}: sizes must be a list or tuple of integers, got {type(sizes).__name__}")
    sizes = [checks.integer(op, f"sizes[{i}]", size, minimum=1) for i, size in enumerate(sizes)]
    if sum(sizes) != x.shape[-1]:
        raise ValueError(
            f"{op}: sizes must add up to the {x.shape[-1]} channels of x, got {sizes}, sum {sum(sizes)}"
        )
    checks.check_contiguous(op, x=x)
    specs = ((f"out[{i}]", (*outer, size), dtype) for i, size in enumerate(sizes))
    ys = core.outputs(op, dev, inputs, out, *specs)
    if dev.ext is None:
        return Prepared(dev, ys, HostCall(reference.split, x, sizes, out=ys))
    first, copies = 0, []
    for y, size in zip(ys, sizes, strict=True):
        copies.append(_copy_columns(dev, y, 0, x, first, size))
        first += size
    return Prepared(dev, ys, *copies)


def _copy_columns(dev: Device, dst: Any, dst_first: int, src: Any, src_first: int, cols: int) -> Launch:
    extent = dev.ext.CopyColumnsShape(
        rows=src.size // src.shape[-1],
        cols=cols,
        dst_cols=dst.shape[-1],
        dst_first=dst_first,
        src_cols=src.shape[-1],
        src_first=src_first,
    )
    return Launch("copy_columns", dev, "copy_columns", extent, (dst, src))


# ---- dropout -----------------------------------------------------------------------------------------------


@operation(varying="step")
def dropout(
    x: Any,
    p: float = 0.5,
    seed: int = 0,
    step: Any = 0,
    layer: int = 0,
    *,
    scale: float | None = None,
    window: tuple[int, int, int] | None = None,
    out: Any = None,
    kernel: str | None = None,
) -> tuple[Any, Any]:
    """Set each element to zero with probability p: ``y = mask x scale`` (the paper, section 4.2).

    The mask is a pure function of (seed, step, layer, element): element e is kept where ``u(e) >= p``, u(e)
    being the upper 24 bits of word e % 4 of Philox4x32-10 with counter (e // 4, step, layer) and key seed
    (see :mod:`pyconvnet.common.philox`), the same on every device.

    Parameters
    ----------
    x : array (..., C), seen as a matrix of rows times C columns, elements counted along the rows
    p : probability of zero, in [0, 1)
    seed : integer; its lower 64 bits count
    step : integer, or one-element int64 array on the device of x, which the kernel reads; the lower 32 bits
        count
    layer : integer in [0, 2^32)
    scale : number, optional
        Factor of the elements kept; None: ``1 / (1 - p)`` (inverted dropout). The paper's is 1, with a factor
        1 - p at test time.
    window : (row0, col0, total_cols), optional
        x is the part of a bigger matrix, total_cols wide, that begins at (row0, col0), and draws the mask it
        would have there.
    out : (y, mask), optional; arrays like x, mask of uint8. y may be x.
    kernel : str, optional
        Forces one of ``ops.kernels("dropout", x.shape)``.

    Returns
    -------
    y : like x; zero where mask is zero, even if x is NaN there
    mask : uint8, 0 or 1

    Raises
    ------
    TypeError, ValueError
        p outside [0, 1); a window x does not fit into; wrong dtype, empty or not contiguous x; `out` that
        does not fit.
    """
    op = "dropout"
    dev, inputs, draw = draws.check_draw(op, p, seed, step, layer, scale, x=x)
    x = inputs["x"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, x=x)
    shape = checks.check_rank(op, "x", x, "..., C")
    checks.check_contiguous(op, x=x)
    window = draws.check_window(op, window, shape[-1])
    specs = ("y", shape, dtype), ("mask", shape, np.uint8)
    y, mask = core.outputs(op, dev, inputs, out, *specs, itself={"y": ("x",)})
    if dev.ext is None:
        return Prepared(dev, (y, mask), HostCall(reference.dropout, x, *draw.host(window), out=(y, mask)))
    extent, args = draws.masked_shape(dev, x, window), (y, mask, x, *draw.kernel())
    return Prepared(dev, (y, mask), Launch(op, dev, op, extent, args, kernel=kernel))


@operation()
def dropout_backward(
    dy: Any,
    mask: Any,
    p: float = 0.5,
    *,
    scale: float | None = None,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Compute the gradient of :func:`dropout`: ``dx = dy scale where mask, else 0``.

    Parameters
    ----------
    dy : array, any shape
    mask : uint8 array of the same shape, as dropout returned it
    p, scale : as given to dropout
    out : array like dy, optional; may be dy.
    kernel : str, optional
        Forces one of ``ops.kernels("dropout_backward", dy.shape)``.

    Raises
    ------
    TypeError, ValueError
        p outside [0, 1); wrong dtype; shapes that differ; not contiguous; `out` that does not fit.
    """
    op = "dropout_backward"
    p = checks.real(op, "p", p, minimum=0.0, below=1.0)
    scale = draws.check_scale(op, p, scale)
    dev, inputs = core.arrays(op, dy=dy, mask=mask)
    dy, mask = inputs["dy"], inputs["mask"]
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dtype = core.check_float(op, dev, dy=dy)
    shape = checks.check_size(op, "dy", dy)
    checks.check_dtype(op, "mask", mask, np.uint8)
    checks.check_shape(op, "mask", mask, shape, "like dy")
    checks.check_contiguous(op, dy=dy, mask=mask)
    dx = core.output(op, dev, inputs, out, shape, dtype, itself=("dy",))
    if dev.ext is None:
        return Prepared(dev, dx, HostCall(reference.dropout_backward, dy, mask, scale, out=dx))
    extent = dev.ext.ElementwiseShape(count=dy.size)
    return Prepared(dev, dx, Launch(op, dev, op, extent, (dx, dy, mask, scale), kernel=kernel))


@core.lists_kernels("dropout", "bias_relu_dropout")
def _list_masked(op: str, dev: Device, shape: tuple[int, ...]) -> Any:
    *rows, cols = checks.shape_tuple(op, "shape", shape)
    return dev.ext.DropoutShape(rows=math.prod(rows), cols=cols, row0=0, col0=0, total_cols=cols)
