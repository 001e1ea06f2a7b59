"""Fully connected layers and their gradients.

On CUDA and the emulator they are 1x1 convolutions of one-pixel images: the tables of the conv family serve
them, whose kernels split a long reduction where the batch makes few tiles. On CUDA the table has
one row more, ``"cublas"``: cuBLAS, in float32. It comes first, on the assumption that NVIDIA's kernels beat
ours on plain matrix products; that has not been measured (``benchmarks/bench_linear.py`` compares them).
Where a lower precision is asked for and our tensor-core kernels apply, those come first; bfloat16 arrays have
only ours.

Common to the functions of this module:

precision : None, "fp32", "tf32", "fp32x3" or "bf16"
    How exactly products are formed: see :mod:`pyconvnet.ops.conv`.
kernel : str, optional
    Forces one of ``ops.kernels("linear", x_shape, w_shape)`` (likewise ``"linear_dgrad"``,
    ``"linear_wgrad"``), with split-K where ``"/8"`` follows, as for convolutions. CUDA and emulator only.
workspace : object with ``get(nbytes)``, optional
    Where scratch memory comes from (uint8, contiguous, at least that long); else it is allocated.
"""

from __future__ import annotations

import functools
from typing import Any

from ..common import checks
from ..common.devices import Device
from . import conv, core, pointwise, reference
from . import cublas as _cublas
from .arrays import capability
from .launch import HostCall, Launch, Prepared
from .operation import operation

CUBLAS = "cublas"

_AXES_X, _AXES_W, _AXES_Y = "N, I", "O, I", "N, O"
_DIRECTIONS = {"linear": "fprop", "linear_dgrad": "dgrad", "linear_wgrad": "wgrad"}


@functools.cache
def _cublas_works(dev: Device) -> bool:
    """Tell whether cuBLAS is there (it comes with a CUDA toolkit or with NVIDIA's wheels)."""
    return _cublas.works(dev)


def _check(op: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    if x_shape[1] != w_shape[1]:
        raise ValueError(f"{op}: w must have I={x_shape[1]} columns like x, got shape {w_shape}")


def _shape_of(
    dev: Device,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    precision: int,
    aligned: bool = True,
    bias_grad: bool = False,
) -> Any:
    """Describe the product as the 1x1 convolution that it is."""
    (n, i), o = x_shape, w_shape[0]
    return dev.ext.Conv2dShape(
        n=n, h=1, w=1, c=i, k=o, r=1, s=1, p=1, q=1, aligned=aligned,
        precision=precision, capability=capability(dev), bias_grad=bias_grad,
    )  # fmt: skip


def _rows(op: str, dev: Device, shape: Any) -> list[tuple[str, int]]:
    ours = core.rows(dev, f"conv2d_{_DIRECTIONS[op]}", shape)
    if shape.precision == conv.BF16 or not _cublas_works(dev):
        return ours
    return [*ours, (CUBLAS, 0)] if conv.on_tensor_cores(ours[0][0]) else [(CUBLAS, 0), *ours]


@core.lists_kernels(*_DIRECTIONS)
def _list_kernels(
    op: str, dev: Device, x_shape: Any, w_shape: Any, *, precision: str | None = None
) -> tuple[str, Any, list[tuple[str, int]]]:
    code = conv.listed_precision(op, precision)
    x_shape = checks.shape_tuple(op, "x_shape", x_shape, _AXES_X)
    w_shape = checks.shape_tuple(op, "w_shape", w_shape, _AXES_W)
    _check(op, x_shape, w_shape)
    shape = _shape_of(dev, x_shape, w_shape, code)
    return f"conv2d_{_DIRECTIONS[op]}", shape, _rows(op, dev, shape)


def _launch(
    op: str, dev: Device, shape: Any, kernel: str | None, workspace: Any, by_cublas: Any, *args: Any
) -> Launch:
    """Prepare the forced or the chosen row; ``by_cublas(dev, *args)`` gives what runs cuBLAS's."""
    how = {}
    if _cublas_works(dev):
        how = {"rows": _rows(op, dev, shape), "libraries": {CUBLAS: functools.partial(by_cublas, dev)}}
    return conv.launch(op, _DIRECTIONS[op], dev, shape, kernel, workspace, *args, **how)


def _by_cublas(dev: Device, out: Any, transposed: tuple[int, int], a: Any, b: Any, *then: Prepared) -> Any:
    """Make a function of the workspace that multiplies two matrices and then launches what was prepared."""
    launches = [step for prepared in then for step in prepared.steps]
    for step in launches:
        step.resolve()

    def run(workspace: Any) -> None:
        _cublas.sgemm(dev, out, transposed, a, b)
        for step in launches:
            step.call(step.head, workspace)

    return run


def _linear_by_cublas(dev: Device, y: Any, x: Any, w: Any, b: Any, activation: int) -> Any:
    bias = [] if b is None else [pointwise.add_bias.prepare(y, b, out=y)]
    relu = [pointwise.relu.prepare(y, out=y)] if activation else []
    return _by_cublas(dev, y, (_cublas.N, _cublas.T), x, w, *bias, *relu)


def _dgrad_by_cublas(dev: Device, dx: Any, dy: Any, w: Any, mask: Any) -> Any:
    masked = [] if mask is None else [pointwise.relu_backward.prepare(dx, mask, out=dx)]
    return _by_cublas(dev, dx, (_cublas.N, _cublas.N), dy, w, *masked)


def _wgrad_by_cublas(dev: Device, dw: Any, db: Any, dy: Any, x: Any) -> Any:
    bias = [] if db is None else [pointwise.bias_backward.prepare(dy, out=db)]
    return _by_cublas(dev, dw, (_cublas.T, _cublas.N), dy, x, *bias)


@operation(alignment=True)
def linear(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    activation: str | None = None,
    precision: str | None = None,
    out: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Any:
    """Compute a fully connected layer, ``y[n,o] = act(b[o] + sum_i x[n,i] * w[o,i])``.

    Parameters
    ----------
    x : array (N, I), float32 or bfloat16 (on the cpu also float64)
    w : array (O, I), dtype of x
    b : array (O,), optional, dtype of x, but float32 where x is bfloat16
    activation : None or "relu"
    out : array (N, O), optional
    precision, kernel, workspace :
        See the module.

    Returns
    -------
    y : array (N, O), dtype of x

    Raises
    ------
    ValueError
        Shapes that do not belong together, arrays not contiguous or not on one device, an unsuitable `out`, a
        kernel that does not apply.
    TypeError
        Wrong dtypes or types.
    """
    op = "linear"
    dev, named = core.arrays(op, ("b",), x=x, w=w, b=b)
    x, w, b = named["x"], named["w"], named["b"]
    dtype = core.check_float(op, dev, x=x, w=w)
    conv.check_bias(op, b, dtype)
    x_shape, w_shape = checks.check_rank(op, "x", x, _AXES_X), checks.check_rank(op, "w", w, _AXES_W)
    _check(op, x_shape, w_shape)
    if b is not None:
        checks.check_shape(op, "b", b, (w_shape[0],), "(O,)")
    checks.check_contiguous(op, x=x, w=w, b=b)
    code, exactness = conv.activation_code(op, activation), conv.check_precision(op, precision, dtype)
    core.refuse_kernel_on_cpu(op, dev, kernel)
    y = core.output(op, dev, named, out, (x_shape[0], w_shape[0]), dtype)
    if dev.ext is None:
        return Prepared(dev, y, HostCall(reference.linear, x, w, b, activation=activation, out=y))
    shape = _shape_of(dev, x_shape, w_shape, exactness, conv.aligned(dev, x, w, y))
    args = (y, x, w, b, code)
    return Prepared(dev, y, _launch(op, dev, shape, kernel, workspace, _linear_by_cublas, *args))


@operation(alignment=True)
def linear_dgrad(
    dy: Any,
    w: Any,
    *,
    precision: str | None = None,
    mask: Any = None,
    out: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Any:
    """Compute the gradient of :func:`linear` for its input: ``dx[n,i] = sum_o dy[n,o] * w[o,i]``.

    Parameters
    ----------
    dy : array (N, O), float32 or bfloat16 (on the cpu also float64)
    w : array (O, I), dtype of dy
    mask : array (N, I), dtype of dy, optional
        Where the forward call's x is the output of a ReLU: that x. dx is set to 0 where it is not positive,
        as :func:`relu_backward` does it, in the same pass.
    out : array (N, I), optional
    precision, kernel, workspace :
        See the module.

    Returns
    -------
    dx : array (N, I), dtype of dy

    Raises
    ------
    ValueError, TypeError
        As :func:`linear`.
    """
    op = "linear_dgrad"
    dev, named = core.arrays(op, ("mask",), dy=dy, w=w, mask=mask)
    dy, w, mask = named["dy"], named["w"], named["mask"]
    dtype = core.check_float(op, dev, dy=dy, w=w, mask=mask)
    dy_shape, w_shape = checks.check_rank(op, "dy", dy, _AXES_Y), checks.check_rank(op, "w", w, _AXES_W)
    if dy_shape[1] != w_shape[0]:
        raise ValueError(
            f"{op}: w must have O={dy_shape[1]} rows like the columns of dy, got shape {w_shape}"
        )
    checks.check_contiguous(op, dy=dy, w=w)
    exactness = conv.check_precision(op, precision, dtype)
    core.refuse_kernel_on_cpu(op, dev, kernel)
    x_shape = (dy_shape[0], w_shape[1])
    checks.check_mask(op, mask, x_shape)
    dx = core.output(op, dev, named, out, x_shape, dtype)
    if dev.ext is None:
        return Prepared(dev, dx, HostCall(reference.linear_dgrad, dy, w, mask=mask, out=dx))
    shape = _shape_of(dev, x_shape, w_shape, exactness, conv.aligned(dev, dx, dy, w, mask))
    args = (dx, dy, w, mask)
    return Prepared(dev, dx, _launch(op, dev, shape, kernel, workspace, _dgrad_by_cublas, *args))


@operation(updated=("bias_grad",), alignment=True)
def linear_wgrad(
    dy: Any,
    x: Any,
    *,
    precision: str | None = None,
    bias_grad: Any = None,
    out: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Any:
    """Compute the gradient of :func:`linear` for its weights and, where asked for, for its bias.

    ``dw[o,i] = sum_n dy[n,o] * x[n,i]``, ``db[o] = sum_n dy[n,o]``

    Parameters
    ----------
    dy : array (N, O), float32 or bfloat16 (on the cpu also float64)
    x : array (N, I), dtype of dy
    bias_grad : array (O,), dtype of dw, optional
        Overwritten with db; see :func:`pyconvnet.ops.conv2d_wgrad`. After cuBLAS :func:`bias_backward` runs.
    out : array (O, I), optional
    precision, kernel, workspace :
        See the module.

    Returns
    -------
    dw : array (O, I), dtype of dy, but float32 where dy is bfloat16

    Raises
    ------
    ValueError, TypeError
        As :func:`linear`.
    """
    op = "linear_wgrad"
    dev, named = core.arrays(op, dy=dy, x=x)
    dy, x = named["dy"], named["x"]
    dtype = core.check_float(op, dev, dy=dy, x=x)
    dy_shape, x_shape = checks.check_rank(op, "dy", dy, _AXES_Y), checks.check_rank(op, "x", x, _AXES_X)
    if dy_shape[0] != x_shape[0]:
        raise ValueError(f"{op}: dy must have N={x_shape[0]} rows like x, got shape {dy_shape}")
    checks.check_contiguous(op, dy=dy, x=x)
    exactness = conv.check_precision(op, precision, dtype)
    core.refuse_kernel_on_cpu(op, dev, kernel)
    w_shape = (dy_shape[1], x_shape[1])
    dw, db = conv.gradients(op, dev, named, out, w_shape, bias_grad)
    if dev.ext is None:
        bias = [] if db is None else [HostCall(reference.bias_backward, dy, out=db)]
        return Prepared(dev, dw, HostCall(reference.linear_wgrad, dy, x, out=dw), *bias)
    shape = _shape_of(dev, x_shape, w_shape, exactness, conv.aligned(dev, dw, dy, x), db is not None)
    args = (dw, db, dy, x)
    return Prepared(dev, dw, _launch(op, dev, shape, kernel, workspace, _wgrad_by_cublas, *args))
