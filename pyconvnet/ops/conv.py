"""Convolution and its gradients.

Common to the functions of this module:

stride : int or (vertical, horizontal), at least 1
pad : int, (vertical, horizontal) or ((top, bottom), (left, right)), not negative
    Zeros around the image. AlexNet's 224 -> 55 is ``pad=((0, 3), (0, 3))`` in the original code, ``pad=2`` in
    PyTorch and ``pad=0`` on crops of 227 in Caffe.
groups : int
    Divides both C and K. Filter k of group g = k // (K / groups) sees channels [g*C/groups, (g+1)*C/groups).
precision : None, "fp32", "tf32", "fp32x3" or "bf16"
    How exactly the products of a sum are formed; sums are float32. None, the default, is what the arrays say:
    ``"bf16"`` for bfloat16 ones, else ``"fp32"``; the others are for float32 arrays.

    ``"fp32"`` float32 products. ``"tf32"`` operands rounded to 11 significant bits (without bias)
    for the tensor cores: an error of about 2^-11 sqrt(terms) of the result's size. ``"fp32x3"`` three
    tensor-core products in place of one, about float32's own accuracy; an infinite operand gives NaN, and so
    do magnitudes next to the largest float32. A precision is a lower bound on exactness: devices below
    compute capability 8.0, channels that are not multiples of 4, arrays that do not start at a multiple of
    16 bytes, and the cpu use float32 arithmetic whatever is asked for.

    ``"bf16"`` x, w, y and the gradients dx and dy are bfloat16 arrays; biases and dw are float32. Products
    are exact in float32, and what is stored as bfloat16 is rounded once, to nearest. Tensor cores serve
    channels (and, for the gradients, filters) that are multiples of 8 in each group; other shapes are slow.
kernel : str, optional
    Forces one of ``ops.kernels("conv2d", x_shape, w_shape, stride=..., pad=..., groups=...)`` (likewise
    ``"conv2d_dgrad"``, ``"conv2d_wgrad"``) in place of the preferred one. CUDA and emulator only.
    ``"NAME/8"`` asks for split-K: every sum is cut into 8 splits, which different blocks make and which are
    then added in order; ``"NAME/1"`` is without. A split is a whole number of the kernel's steps, so not
    every number is possible; input gradients of stride 2 and more have none. ``"NAME/stream-k"`` has blocks
    share the tiles that do not fill a last wave (``wgmma``, y and dx). ``"NAME"`` finds one by the shape.
workspace : object with ``get(nbytes)``, optional
    Where scratch memory comes from (uint8, contiguous, at least that long); else it is allocated.

Output sizes round down: P = (H + top + bottom - R) // stride + 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from ..common.precision import BFLOAT16, accumulation_dtype
from . import core
from .arrays import capability, pointer
from .launch import HostCall, Launch, Prepared
from .operation import operation
from .reference import conv as reference

Pair = tuple[int, int]
# Coordinates, padding included, stay below this: the kernels add and subtract a few of them in 32 bits.
_LIMIT = 2**29

_AXES_X, _AXES_W, _AXES_Y = "N, H, W, C", "K, R, S, C/groups", "N, P, Q, K"
_ACTIVATIONS = {None: 0, "relu": 1}
_PRECISIONS = {"fp32": 0, "tf32": 1, "fp32x3": 2, "bf16": 3}
BF16 = _PRECISIONS["bf16"]


class Geometry:
    """The extents of one convolution, checked."""

    def __init__(
        self, op: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Any, pad: Any, groups: Any
    ):
        self.x_shape, self.w_shape = x_shape, w_shape
        self.stride = checks.pair(op, "stride", stride, 1)
        self.pad = checks.padding(op, "pad", pad)
        self.groups = checks.integer(op, "groups", groups, 1)
        n, h, w, c = x_shape
        k, r, s, group_channels = w_shape
        if c % self.groups:
            raise ValueError(
                f"{op}: groups must divide the channels of x, got groups={self.groups} and C={c}"
            )
        if k % self.groups:
            raise ValueError(f"{op}: groups must divide the filters of w, got groups={self.groups} and K={k}")
        if group_channels * self.groups != c:
            raise ValueError(
                f"{op}: w must have {c // self.groups} channels (C={c} of x over groups={self.groups}), "
                f"got shape {w_shape} for x of shape {x_shape}{checks.channels_first_hint(x_shape)}"
            )
        padded = h + sum(self.pad[0]), w + sum(self.pad[1])
        if r > padded[0] or s > padded[1]:
            raise ValueError(
                f"{op}: filters of {r} x {s} pixels do not fit x of {h} x {w} pixels with padding {self.pad}"
            )
        if max(*padded, *self.stride) >= _LIMIT:
            raise ValueError(
                f"{op}: padded extents and stride must stay below 2^29, got {padded} and {self.stride}"
            )
        p, q = ((size - f) // step + 1 for size, f, step in zip(padded, (r, s), self.stride, strict=True))
        self.y_shape = (n, p, q, k)

    def shape_of(self, dev: Device, precision: int, aligned: bool = True, bias_grad: bool = False) -> Any:
        """Make the kernels' shape struct."""
        (n, h, w, c), (k, r, s, _), (_, p, q, _) = self.x_shape, self.w_shape, self.y_shape
        return dev.ext.Conv2dShape(
            n=n, h=h, w=w, c=c, k=k, r=r, s=s, p=p, q=q, stride_h=self.stride[0], stride_w=self.stride[1],
            pad_h=self.pad[0][0], pad_w=self.pad[1][0], groups=self.groups, aligned=aligned,
            precision=precision, capability=capability(dev), bias_grad=bias_grad,
        )  # fmt: skip

    @property
    def options(self) -> dict[str, Any]:
        """What the reference wants beside the arrays."""
        return {"stride": self.stride, "pad": self.pad, "groups": self.groups}

    def check_dy(self, op: str, dy: Any) -> None:
        shape = checks.check_rank(op, "dy", dy, _AXES_Y)
        if shape != self.y_shape:
            raise ValueError(
                f"{op}: dy must have shape {self.y_shape} for x_shape {self.x_shape} and w_shape "
                f"{self.w_shape}, got {shape}"
            )


def check_precision(op: str, precision: str | None, dtype: Any) -> int:
    """Return the kernels' number of a precision; ValueError unless arrays of `dtype` can have it."""
    if precision is None:
        precision = "bf16" if dtype == BFLOAT16 else "fp32"
    if not isinstance(precision, str) or precision not in _PRECISIONS:
        raise ValueError(
            f"{op}: precision must be None, 'fp32', 'tf32', 'fp32x3' or 'bf16', got {precision!r}"
        )
    if (precision == "bf16") != (dtype == BFLOAT16):
        wanted = "None or 'bf16' for bfloat16" if dtype == BFLOAT16 else f"other than 'bf16' for {dtype}"
        raise ValueError(f"{op}: precision must be {wanted} arrays, got {precision!r}")
    return _PRECISIONS[precision]


def listed_precision(op: str, precision: str | None) -> int:
    """Return the same where there are no arrays: None is that of float32 ones."""
    return check_precision(op, precision, BFLOAT16 if precision == "bf16" else np.dtype(np.float32))


def on_tensor_cores(kernel: str) -> bool:
    """Tell whether a kernel multiplies on tensor cores, by mma.sync or wgmma, as its name says."""
    return "mma" in kernel


def check_bias(op: str, b: Any, dtype: np.dtype) -> None:
    """Check that a bias is float32 beside bfloat16 arrays, else of their dtype."""
    if b is not None and b.dtype != (wanted := accumulation_dtype(dtype)):
        raise TypeError(f"{op}: b must be {wanted} beside {dtype} arrays, got {b.dtype}")


def aligned(dev: Device, *arrays: Any) -> bool:
    """Tell whether every array (None: no array) starts at a multiple of 16 bytes, as fast kernels want."""
    return all(array is None or pointer(dev, array) % 16 == 0 for array in arrays)


def launch(
    op: str,
    direction: str,
    dev: Device,
    shape: Any,
    kernel: str | None,
    workspace: Any,
    *args: Any,
    **how: Any,
) -> Launch:
    """Prepare the forced or the chosen kernel of a direction ("fprop", "dgrad", "wgrad")."""
    how |= {"kernel": kernel, "workspace": workspace, "with_workspace": True}
    return Launch(op, dev, f"conv2d_{direction}", shape, args, **how)


def activation_code(op: str, activation: str | None) -> int:
    """Return the kernels' number of an activation; ValueError for an unknown one."""
    if not (activation is None or isinstance(activation, str)) or activation not in _ACTIVATIONS:
        raise ValueError(f"{op}: activation must be None or 'relu', got {activation!r}")
    return _ACTIVATIONS[activation]


@core.lists_kernels("conv2d", "conv2d_dgrad", "conv2d_wgrad")
def _list_kernels(
    op: str,
    dev: Device,
    x_shape: Any,
    w_shape: Any,
    *,
    stride: Any = 1,
    pad: Any = 0,
    groups: int = 1,
    precision: str | None = None,
) -> tuple[str, Any]:
    code = listed_precision(op, precision)
    x_shape = checks.shape_tuple(op, "x_shape", x_shape, _AXES_X)
    w_shape = checks.shape_tuple(op, "w_shape", w_shape, _AXES_W)
    shape = Geometry(op, x_shape, w_shape, stride, pad, groups).shape_of(dev, code)
    return "conv2d_fprop" if op == "conv2d" else op, shape


@operation(alignment=True)
def conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: int | Pair = 1,
    pad: Any = 0,
    groups: int = 1,
    activation: str | None = None,
    precision: str | None = None,
    out: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Any:
    """Convolve (in fact cross-correlate, as every network library does), add a bias, apply an activation.

    ``y[n,p,q,k] = act(b[k] + sum_{r,s,c} x[n, p*stride + r - top, q*stride + s - left, c] * w[k,r,s,c])``

    Parameters
    ----------
    x : array (N, H, W, C), float32 or bfloat16 (on the cpu also float64)
    w : array (K, R, S, C/groups), dtype of x
    b : array (K,), optional, dtype of x, but float32 where x is bfloat16
    activation : None or "relu"
    out : array (N, P, Q, K), optional
    stride, pad, groups, precision, kernel, workspace :
        See the module.

    Returns
    -------
    y : array (N, P, Q, K), dtype of x

    Raises
    ------
    ValueError
        Shapes that do not belong together, a filter larger than the padded image, arrays not contiguous or
        not on one device, an unsuitable `out`, a kernel that does not apply.
    TypeError
        Wrong dtypes or types.
    """
    dev, inputs = core.arrays("conv2d", ("b",), x=x, w=w, b=b)
    how = {"out": out, "kernel": kernel, "workspace": workspace}
    return fprop("conv2d", dev, inputs, inputs["w"], stride, pad, groups, activation, precision, **how)


def fprop(
    op: str,
    dev: Device,
    inputs: dict[str, Any],
    w: Any,
    stride: Any = 1,
    pad: Any = 0,
    groups: int = 1,
    activation: str | None = None,
    precision: str | None = None,
    *,
    out: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Prepared:
    """Prepare :func:`conv2d` with filters w for an operation `op`, x and b among its arrays `inputs`."""
    x, b = inputs["x"], inputs["b"]
    dtype = core.check_float(op, dev, x=x, w=w)
    check_bias(op, b, dtype)
    x_shape = checks.check_rank(op, "x", x, _AXES_X)
    w_shape = checks.check_rank(op, "w", w, _AXES_W)
    geometry = Geometry(op, x_shape, w_shape, stride, pad, groups)
    if b is not None:
        checks.check_shape(op, "b", b, (w_shape[0],), "(K,)")
    checks.check_contiguous(op, x=x, w=w, b=b)
    code, exactness = activation_code(op, activation), check_precision(op, precision, dtype)
    core.refuse_kernel_on_cpu(op, dev, kernel)
    y = core.output(op, dev, inputs, out, geometry.y_shape, dtype)
    if dev.ext is None:
        how = geometry.options | {"activation": activation}
        return Prepared(dev, y, HostCall(reference.conv2d, x, w, b, out=y, **how))
    shape = geometry.shape_of(dev, exactness, aligned(dev, x, w, y))
    args = (y, x, w, b, code)
    return Prepared(dev, y, launch("conv2d", "fprop", dev, shape, kernel, workspace, *args, caller=op))


@operation(alignment=True)
def conv2d_dgrad(
    dy: Any,
    w: Any,
    x_shape: tuple[int, int, int, int],
    *,
    stride: int | Pair = 1,
    pad: Any = 0,
    groups: int = 1,
    precision: str | None = None,
    mask: Any = None,
    out: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Any:
    """Compute the gradient of :func:`conv2d` for its input (also: transposed convolution).

    ``dx[n,h,w,c] = sum of dy[n,p,q,k] * w[k,r,s,c] over k and p*stride+r-top = h, q*stride+s-left = w``

    Parameters
    ----------
    dy : array (N, P, Q, K), float32 or bfloat16 (on the cpu also float64)
    w : array (K, R, S, C/groups), dtype of dy
    x_shape : (N, H, W, C)
        Shape of the forward call's x.
    mask : array (N, H, W, C), dtype of dy, optional
        Where the forward call's x is the output of a ReLU: that x. dx is set to 0 where it is not positive,
        as :func:`relu_backward` does it, in the same pass.
    out : array (N, H, W, C), optional
    stride, pad, groups, precision, kernel, workspace :
        See the module.

    Returns
    -------
    dx : array (N, H, W, C), dtype of dy

    Raises
    ------
    ValueError, TypeError
        As :func:`conv2d`.
    """
    op = "conv2d_dgrad"
    dev, named = core.arrays(op, ("mask",), dy=dy, w=w, mask=mask)
    dy, w, mask = named["dy"], named["w"], named["mask"]
    dtype = core.check_float(op, dev, dy=dy, w=w, mask=mask)
    x_shape = checks.shape_tuple(op, "x_shape", x_shape, _AXES_X)
    w_shape = checks.check_rank(op, "w", w, _AXES_W)
    geometry = Geometry(op, x_shape, w_shape, stride, pad, groups)
    geometry.check_dy(op, dy)
    checks.check_contiguous(op, dy=dy, w=w)
    checks.check_mask(op, mask, x_shape)
    exactness = check_precision(op, precision, dtype)
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dx = core.output(op, dev, named, out, x_shape, dtype)
    if dev.ext is None:
        how = geometry.options | {"mask": mask}
        return Prepared(dev, dx, HostCall(reference.conv2d_dgrad, dy, w, x_shape, out=dx, **how))
    shape = geometry.shape_of(dev, exactness, aligned(dev, dx, dy, w, mask))
    return Prepared(dev, dx, launch(op, "dgrad", dev, shape, kernel, workspace, dx, dy, w, mask))


@operation(updated=("bias_grad",), alignment=True)
def conv2d_wgrad(
    dy: Any,
    x: Any,
    w_shape: tuple[int, int, int, int],
    *,
    stride: int | Pair = 1,
    pad: Any = 0,
    groups: int = 1,
    precision: str | None = None,
    bias_grad: Any = None,
    out: Any = None,
    kernel: str | None = None,
    workspace: Any = None,
) -> Any:
    """Compute the gradient of :func:`conv2d` for its filters and, where asked for, for its bias.

    ``dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] * x[n, p*stride + r - top, q*stride + s - left, c]``

    ``db[k] = sum_{n,p,q} dy[n,p,q,k]``

    Parameters
    ----------
    dy : array (N, P, Q, K), float32 or bfloat16 (on the cpu also float64)
    x : array (N, H, W, C), dtype of dy
    w_shape : (K, R, S, C/groups)
        Shape of the forward call's w.
    bias_grad : array (K,), dtype of dw, optional
        Overwritten with db. Kernels for tensor cores, and the cpu's compiled ones, add up dy, unrounded and
        in float32, as they multiply; after others :func:`bias_backward` runs, which reads dy once more and
        gives these bits. Each sums in a fixed order.
    out : array (K, R, S, C/groups), optional
    stride, pad, groups, precision, kernel, workspace :
        See the module.

    Returns
    -------
    dw : array (K, R, S, C/groups), dtype of dy, but float32 where dy is bfloat16

    Raises
    ------
    ValueError, TypeError
        As :func:`conv2d`.
    """
    dev, inputs = core.arrays("conv2d_wgrad", dy=dy, x=x)
    how = {"bias_grad": bias_grad, "out": out, "kernel": kernel, "workspace": workspace}
    return wgrad("conv2d_wgrad", dev, inputs, w_shape, stride, pad, groups, precision, **how)


def wgrad(
    op: str,
    dev: Device,
    inputs: dict[str, Any],
    w_shape: Any,
    stride: Any = 1,
    pad: Any = 0,
    groups: int = 1,
    precision: str | None = None,
    *,
    bias_grad: Any = None,
    out: Any = None,
    name: str = "out",
    kernel: str | None = None,
    workspace: Any = None,
) -> Prepared:
    """Prepare :func:`conv2d_wgrad` for an operation `op` on dy and x that calls the output `name`."""
    dy, x = inputs["dy"], inputs["x"]
    dtype = core.check_float(op, dev, dy=dy, x=x)
    x_shape = checks.check_rank(op, "x", x, _AXES_X)
    w_shape = checks.shape_tuple(op, "w_shape", w_shape, _AXES_W)
    geometry = Geometry(op, x_shape, w_shape, stride, pad, groups)
    geometry.check_dy(op, dy)
    checks.check_contiguous(op, dy=dy, x=x)
    exactness = check_precision(op, precision, dtype)
    core.refuse_kernel_on_cpu(op, dev, kernel)
    dw, db = gradients(op, dev, inputs, out, w_shape, bias_grad, name=name)
    if dev.ext is None:
        how = geometry.options | {"bias_grad": db}
        return Prepared(dev, dw, HostCall(reference.conv2d_wgrad, dy, x, w_shape, out=dw, **how))
    shape = geometry.shape_of(dev, exactness, aligned(dev, dw, dy, x), db is not None)
    args = (dw, db, dy, x)
    return Prepared(dev, dw, launch("conv2d_wgrad", "wgrad", dev, shape, kernel, workspace, *args, caller=op))


def gradients(
    op: str,
    dev: Device,
    inputs: dict[str, Any],
    out: Any,
    w_shape: tuple[int, ...],
    bias_grad: Any,
    *,
    name: str = "out",
) -> tuple[Any, Any]:
    """Return the arrays for dw, called `name`, and for db, None where there is none, after checking them."""
    dtype = accumulation_dtype(inputs["dy"].dtype)
    if bias_grad is None:
        return core.output(op, dev, inputs, out, w_shape, dtype, name=name), None
    specs = (name, w_shape, dtype), ("bias_grad", (w_shape[0],), dtype)
    return core.outputs(op, dev, inputs, (out, bias_grad), *specs)
