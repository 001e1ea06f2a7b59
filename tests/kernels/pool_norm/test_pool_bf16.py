"""Pooling of bfloat16 arrays, and gradients that go back through a ReLU too, in both types."""

import numpy as np
import pytest
from support.helpers import same_bits
from support.kernels.bf16 import BF16, assert_rounded, bf16, exact
from support.kernels.placing import blank, kernels_of, place
from test_pool import (
    CASES,
    argmax_type,
    geometry,
    loop_avg,
    loop_avg_backward,
    loop_max,
    loop_max_backward,
    values,
)

from pyconvnet import ops
from pyconvnet.common import devices

pytestmark = pytest.mark.kernels

# Not all of test_pool's: each kernel, vectors and single channels, edges, both kinds of argmax.
FEW = [
    "alexnet pool5",
    "one pixel",
    "one window, larger than the image",
    "odd, 3 channels",
    "odd, 5 channels",
    "stride beyond the size, over the edge",
    "rectangular",
    "positions beyond bytes",
    "3x3 stride 2, pad ((0, 0), (2, 1))",
    "3x3 stride 2, pad ((2, 1), (0, 2))",
]
each_case = pytest.mark.parametrize("case", FEW)
misaligned_or_not = pytest.mark.parametrize("misaligned", [False, True], ids=["aligned", "misaligned"])


def maximum(device, x, *windows, kernel=None, misaligned=False):
    y_shape = (x.shape[0], *geometry(x.shape, *windows)[3], x.shape[3])
    out = (
        blank(device, y_shape, x.dtype, misaligned),
        blank(device, y_shape, argmax_type(windows[0]), misaligned),
    )
    ops.max_pool2d(place(device, x, misaligned), *windows, out=out, kernel=kernel)
    return device.to_numpy(out[0]), device.to_numpy(out[1])


def backward(device, op, arrays, x_shape, *windows, mask=None, kernel=None, misaligned=False):
    out = blank(device, x_shape, arrays[0].dtype, misaligned)
    placed = [place(device, a, misaligned) for a in arrays]
    mask = place(device, mask, misaligned)
    assert getattr(ops, op)(*placed, x_shape, *windows, mask=mask, out=out, kernel=kernel) is out
    return device.to_numpy(out)


@misaligned_or_not
@each_case
def test_max(case, misaligned, any_device, run_on, rng):
    x_shape, *windows = CASES[case]
    x = bf16(values(rng, x_shape))  # few different numbers: many equal maxima, the first of which wins
    y, argmax, pixel = loop_max(exact(x), *windows)
    dy = bf16(rng.standard_normal(y.shape))
    dx = loop_max_backward(exact(dy), pixel, x_shape)
    argmax = argmax.astype(argmax_type(windows[0]))
    with run_on(any_device):
        for kernel in kernels_of(any_device, "max_pool2d", x_shape, *windows):
            got_y, got_argmax = maximum(any_device, x, *windows, kernel=kernel, misaligned=misaligned)
            assert np.array_equal(exact(got_y), y), kernel
            assert np.array_equal(got_argmax, argmax), kernel
        op = "max_pool2d_backward"
        for kernel in kernels_of(any_device, op, x_shape, *windows):
            args = any_device, op, (dy, argmax), x_shape, *windows
            got = backward(*args, kernel=kernel, misaligned=misaligned)
            assert_rounded(got, dx, 9)
            assert np.array_equal(exact(got) == 0, dx == 0), kernel


@misaligned_or_not
@each_case
def test_avg(case, misaligned, any_device, run_on, rng):
    x_shape, *windows = CASES[case]
    x = bf16(rng.standard_normal(x_shape))
    taps = np.prod(geometry(x_shape, *windows)[0])
    with run_on(any_device):
        for include_pad in (False, True):
            y = loop_avg(exact(x), *windows, include_pad=include_pad)
            for kernel in kernels_of(any_device, "avg_pool2d", x_shape, *windows):
                out = blank(any_device, y.shape, BF16, misaligned)
                ops.avg_pool2d(
                    place(any_device, x, misaligned), *windows, include_pad, out=out, kernel=kernel
                )
                assert_rounded(any_device.to_numpy(out), y, taps, scale=1.0)
            dy = bf16(rng.standard_normal(y.shape))
            dx = loop_avg_backward(exact(dy), x_shape, *windows, include_pad=include_pad)
            op = "avg_pool2d_backward"
            for kernel in kernels_of(any_device, op, x_shape, *windows):
                args = any_device, op, (dy,), x_shape, *windows, include_pad
                got = backward(*args, kernel=kernel, misaligned=misaligned)
                assert_rounded(got, dx, taps, scale=1.0)


def test_under_every_schedule(device, schedule, run_on, rng):
    for case in ("alexnet pool5", "odd, 5 channels"):
        x_shape, *windows = CASES[case]
        x = bf16(values(rng, x_shape))
        y, argmax, pixel = loop_max(exact(x), *windows)
        dy = bf16(values(rng, y.shape))  # whole numbers: sums are exact
        argmax = argmax.astype(np.uint8)
        dx = np.where(exact(x) <= 0, 0, loop_max_backward(exact(dy), pixel, x_shape))
        with run_on(device):
            assert np.array_equal(maximum(device, x, *windows)[1], argmax)
            for kernel in kernels_of(device, "max_pool2d_backward", x_shape, *windows):
                args = device, "max_pool2d_backward", (dy, argmax), x_shape, *windows
                assert np.array_equal(exact(backward(*args, mask=x, kernel=kernel)), dx)


def test_nan_and_infinities(any_device, run_on, rng):
    x = bf16(values(rng, (2, 9, 8, 4)))
    x[rng.random(x.shape) < 0.1] = -np.inf
    x[rng.random(x.shape) < 0.1] = np.nan
    y, argmax, _ = loop_max(exact(x), 3, 2, 1, False)
    with run_on(any_device):
        for kernel in kernels_of(any_device, "max_pool2d", x.shape, 3, 2, 1):
            got_y, got_argmax = maximum(any_device, x, 3, 2, 1, False, kernel=kernel)
            assert np.array_equal(exact(got_y), y, equal_nan=True)
            assert np.array_equal(got_argmax, argmax)


# ---- the mask of a ReLU ------------------------------------------------------------------------------------


@misaligned_or_not
@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float64], ids=["float32", "bfloat16", "float64"])
@each_case
def test_mask_is_relu_backward(case, dtype, misaligned, any_device, run_on, rng):
    """The same bits as relu_backward of the gradient without a mask, NaN and zeros of both signs included."""
    if dtype is np.float64 and any_device.kind != "cpu":
        pytest.skip("kernels know float32 and bfloat16")
    x_shape, *windows = CASES[case]
    y_shape = (x_shape[0], *geometry(x_shape, *windows)[3], x_shape[3])
    mask = rng.standard_normal(x_shape)
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40]
    mask.reshape(-1)[: len(odd)] = odd[: mask.size]
    mask = mask.astype(dtype)
    dy = rng.standard_normal(y_shape).astype(dtype)
    dy.reshape(-1)[::7] = np.nan
    argmax = rng.integers(0, np.prod(geometry(x_shape, *windows)[0]), y_shape)
    argmax = argmax.astype(argmax_type(windows[0]))
    with run_on(any_device):
        for op, arrays in (("max_pool2d_backward", (dy, argmax)), ("avg_pool2d_backward", (dy,))):
            for kernel in kernels_of(any_device, op, x_shape, *windows):
                args = any_device, op, arrays, x_shape, *windows
                plain = backward(*args, kernel=kernel, misaligned=misaligned)
                want = ops.relu_backward(any_device.asarray(plain), any_device.asarray(mask))
                got = backward(*args, mask=mask, kernel=kernel, misaligned=misaligned)
                assert same_bits(got, any_device.to_numpy(want)), kernel


def test_only_the_mask_misaligned(device, run_on, rng):
    x_shape, *windows = CASES["alexnet pool5"]
    for dtype in (np.float32, BF16):
        mask = rng.standard_normal(x_shape).astype(dtype)
        dy = rng.standard_normal((3, 6, 6, 256)).astype(dtype)
        argmax = rng.integers(0, 9, dy.shape).astype(np.uint8)
        with run_on(device):
            for op, arrays in (("max_pool2d_backward", (dy, argmax)), ("avg_pool2d_backward", (dy,))):
                placed = [device.asarray(a) for a in arrays]
                first, second = (
                    getattr(ops, op)(*placed, x_shape, *windows, mask=place(device, mask, misaligned))
                    for misaligned in (False, True)
                )
                assert same_bits(device.to_numpy(first), device.to_numpy(second))


# ---- refusals ----------------------------------------------------------------------------------------------

X, Y, A = (
    np.zeros((2, 7, 8, 4), np.float32),
    np.zeros((2, 3, 3, 4), np.float32),
    np.zeros((2, 3, 3, 4), np.uint8),
)
MAX = ("max_pool2d_backward", (Y, A, X.shape))
AVG = ("avg_pool2d_backward", (Y, X.shape))
BAD = [
    (*MAX, {"mask": bf16(X)}, TypeError, "mask must be float32 like dy, got bfloat16"),
    (*AVG, {"mask": X > 0}, TypeError, "mask must be float32.*, got bool"),
    (
        *MAX,
        {"mask": Y},
        ValueError,
        r"mask must have shape \(2, 7, 8, 4\) like the gradient it masks, got \(2, 3, 3, 4\)",
    ),
    (
        *AVG,
        {"mask": Y},
        ValueError,
        r"mask must have shape \(2, 7, 8, 4\) like the gradient it masks, got \(2, 3, 3, 4\)",
    ),
    (*AVG, {"mask": np.zeros((2, 7, 8, 8), np.float32)[..., ::2]}, ValueError, "mask must be C-contiguous"),
    (*MAX, {"mask": X, "out": X}, ValueError, "out must not overlap mask"),
    (*AVG, {"mask": X, "out": X}, ValueError, "out must not overlap mask"),
    (*MAX, {"mask": True}, TypeError, "mask must be a NumPy or CUDA array, got bool"),
    (*MAX, {"out": bf16(X)}, TypeError, "out must be float32, got bfloat16"),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(("op", "args", "kwargs", "error", "message"), BAD)
def test_refuses(op, args, kwargs, error, message, where):
    with ops.on(where), pytest.raises(error, match=f"{op}: {message}"):
        getattr(ops, op)(*args, **kwargs)


def test_bindings_check_the_mask_themselves():
    ext = devices.emulator().ext
    shape = ext.Pool2dShape(n=2, h=7, w=8, c=4, r=3, s=3, p=3, q=3, stride_h=2, stride_w=2, pad_h=0, pad_w=0)
    out, sides = np.empty_like(X), (0, 0, 0, 0)
    with pytest.raises(ValueError, match="max_pool2d_backward: mask must have 448 elements, got 72"):
        ext.max_pool2d_backward("max_pool2d_backward_generic", shape, out, Y, A, Y, 0)
    with pytest.raises(TypeError, match="avg_pool2d_backward: mask must be float32, got bfloat16"):
        ext.avg_pool2d_backward("avg_pool2d_backward_generic", shape, out, Y, bf16(X), sides, 0)
    with pytest.raises(TypeError, match="avg_pool2d_backward: out must be bfloat16, got float32"):
        ext.avg_pool2d_backward("avg_pool2d_backward_generic", shape, out, bf16(Y), None, sides, 0)
