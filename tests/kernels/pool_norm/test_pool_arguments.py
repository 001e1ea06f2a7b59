"""Pooling: what is refused, with which words, and which kernels are preferred."""

import numpy as np
import pytest
from test_pool import place

from pyconvnet import ops

pytestmark = pytest.mark.kernels


X = np.zeros((2, 7, 8, 4), np.float32)
Y = np.zeros((2, 3, 3, 4), np.float32)
A = np.zeros((2, 3, 3, 4), np.uint8)


def with_(array, **attributes):
    array = array.copy()
    array.flags.writeable = attributes["writeable"]
    return array


BAD = [
    (
        "max_pool2d",
        (X[0],),
        {},
        ValueError,
        r"x must have 4 dimensions \(N, H, W, C\), got shape \(7, 8, 4\)",
    ),
    ("max_pool2d", (X[:0],), {}, ValueError, "x must not be empty"),
    ("max_pool2d", (X.astype(np.int32),), {}, TypeError, "x must be float32, bfloat16 or float64, got int32"),
    ("max_pool2d", ([1.0],), {}, TypeError, "x must be a NumPy or CUDA array, got list"),
    ("max_pool2d", (X[:, ::2],), {}, ValueError, "x must be C-contiguous"),
    ("max_pool2d", (X, 0), {}, ValueError, "size must be at least 1, got 0"),
    ("max_pool2d", (X, (3, -1)), {}, ValueError, "size must be at least 1, got -1"),
    ("max_pool2d", (X, 2.0), {}, TypeError, "size must be an integer, got float"),
    ("max_pool2d", (X, (3, 3, 3)), {}, ValueError, "size must be an integer or a pair"),
    ("max_pool2d", (X, 2**31, 2**31, 0, True), {}, ValueError, "size must stay below"),
    ("max_pool2d", (X, 3, 0), {}, ValueError, "stride must be at least 1, got 0"),
    ("max_pool2d", (X, 3, True), {}, TypeError, "stride must be an integer, got bool"),
    ("max_pool2d", (X, 3, 2, -1), {}, ValueError, "pad must be at least 0, got -1"),
    ("max_pool2d", (X, 3, 2, 3), {}, ValueError, r"pad must be smaller than size \(3, 3\), got 3"),
    ("max_pool2d", (X, (3, 2), 2, ((0, 0), (0, 2))), {}, ValueError, "pad must be smaller than size"),
    ("max_pool2d", (X, 3, 2, 0, 1), {}, TypeError, "ceil_mode must be True or False, got int"),
    ("max_pool2d", (X, 8), {}, ValueError, r"a window of \(8, 8\) pixels does not fit x of 7 x 8"),
    ("max_pool2d", (X,), {"out": Y}, TypeError, r"out must be a tuple \(y, argmax\)"),
    (
        "max_pool2d",
        (X,),
        {"out": (Y, A[1:])},
        ValueError,
        r"argmax must have shape \(2, 3, 3, 4\), got \(1, 3, 3, 4\)",
    ),
    ("max_pool2d", (X,), {"out": (Y, A.astype(np.int32))}, TypeError, "argmax must be uint8, got int32"),
    ("max_pool2d", (X,), {"out": (with_(Y, writeable=False), A)}, ValueError, "y must be writable"),
    ("max_pool2d", (X, 1, 1), {"out": (X, None)}, ValueError, "y must not overlap x"),
    (
        "max_pool2d",
        (X,),
        {"kernel": "max_pool2d_generic"},
        ValueError,
        "needs arrays on a CUDA device or the emulator",
    ),
    ("max_pool2d_backward", (Y, A, (2, 7, 8)), {}, ValueError, "x_shape must have 4 entries"),
    ("max_pool2d_backward", (Y, A, 7), {}, TypeError, "x_shape must be a shape"),
    (
        "max_pool2d_backward",
        (Y, A, (2, 9, 8, 4)),
        {},
        ValueError,
        r"dy must have shape \(2, 4, 3, 4\) or \(2, 4, 4, 4\)",
    ),
    (
        "max_pool2d_backward",
        (Y, A, (2, 7, 8, 4), 3, 2, 0, True),
        {},
        ValueError,
        r"dy must have shape \(2, 3, 4, 4\)",
    ),
    ("max_pool2d_backward", (Y, A[:, :2], (2, 7, 8, 4)), {}, ValueError, "argmax must have shape"),
    (
        "max_pool2d_backward",
        (Y, A.astype(np.int32), (2, 7, 8, 4)),
        {},
        TypeError,
        "argmax must be uint8, got int32",
    ),
    ("max_pool2d_backward", (Y, A + 9, (2, 7, 8, 4)), {}, ValueError, r"argmax must be in \[0, 9\), got 9"),
    ("max_pool2d_backward", (Y, A, (2, 7, 8, 4), 9), {}, ValueError, "does not fit"),
    ("avg_pool2d", (X, 3, 2, 0, False, 1), {}, TypeError, "count_include_pad must be True or False, got int"),
    ("avg_pool2d", (X,), {"out": Y[:1]}, ValueError, "out must have shape"),
    ("avg_pool2d_backward", (Y, (2, 9, 8, 4)), {}, ValueError, "dy must have shape"),
    (
        "avg_pool2d_backward",
        (Y, (2, 7, 8, 4)),
        {"out": X.astype(np.float64)},
        TypeError,
        "out must be float32",
    ),
]


@pytest.mark.parametrize(
    ("op", "args", "kwargs", "error", "message"), BAD, ids=[f"{b[0]}-{b[4]}" for b in BAD]
)
def test_bad_arguments(op, args, kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        getattr(ops, op)(*args, **kwargs)
    assert str(caught.value).startswith(f"{op}: ")
    if "kernel" not in kwargs and "float64, got" not in message:  # the same words on every device
        with ops.on("emulator"), pytest.raises(error, match=message):
            getattr(ops, op)(*args, **kwargs)


def test_a_forced_kernel_must_apply():
    with ops.on("emulator"):
        with pytest.raises(ValueError, match=r"kernel 'max_pool2d_3x3_stride2' does not .*apply"):
            ops.max_pool2d(X, 2, kernel="max_pool2d_3x3_stride2")
        with pytest.raises(ValueError, match="kernel 'nothing' does not apply"):
            ops.avg_pool2d(X, kernel="nothing")
        with pytest.raises(TypeError, match="x must be float32 or bfloat16 on emulator, got float64"):
            ops.max_pool2d(X.astype(np.float64))


def test_preferred_kernels():
    assert ops.kernels("max_pool2d", (128, 55, 55, 96)) == ["max_pool2d_3x3_stride2", "max_pool2d_generic"]
    assert ops.kernels("max_pool2d", (128, 55, 55, 3)) == ["max_pool2d_generic"]
    assert ops.kernels("max_pool2d_backward", (128, 55, 55, 96), 2) == ["max_pool2d_backward_generic"]


def test_the_binding_checks_memory(device):
    ext = device.ext
    good = dict(n=2, h=7, w=8, c=4, r=3, s=3, p=3, q=3, stride_h=2, stride_w=2, pad_h=0, pad_w=0)
    for change in [
        {"n": 0},
        {"c": -1},
        {"r": 0},
        {"stride_h": 0},
        {"pad_w": 3},
        {"pad_h": -1},
        {"p": 5},
        {"h": 2**31 - 1},
        {"stride_w": 2**30},
        {"q": 2**29},
        {"r": 2**16, "s": 2**16},
        {"h": 2**29, "n": 1, "w": 1, "r": 2**31 - 9},
    ]:
        with pytest.raises(ValueError, match="Pool2dShape"):
            ext.Pool2dShape(**(good | change))
    shape = ext.Pool2dShape(**good)
    x, y, argmax = (place(device, a) for a in (X, Y, A))
    with pytest.raises(ValueError, match="y must have 72 elements, got 71"):
        ext.max_pool2d("max_pool2d_generic", shape, y.reshape(-1)[:71], argmax, x, 0)
    with pytest.raises(TypeError, match="argmax must be uint8, got int32"):
        ext.max_pool2d("max_pool2d_generic", shape, y, place(device, A.astype(np.int32)), x, 0)
    with pytest.raises(ValueError, match="there is no kernel called 'max_pool2d_quick'"):
        ext.max_pool2d("max_pool2d_quick", shape, y, argmax, x, 0)
    with pytest.raises(ValueError, match="counted padding"):
        ext.avg_pool2d("avg_pool2d_generic", shape, y, x, (0, 3, 0, 0), 0)
