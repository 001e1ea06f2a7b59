"""Normalisation of bfloat16 arrays, with pooling and without, and gradients through a ReLU, in both types."""

import numpy as np
import pytest
import test_lrn_max_pool as pooled
from support.helpers import EPS32, assert_close, same_bits
from support.kernels.bf16 import BF16, assert_rounded, bf16, exact
from support.kernels.placing import blank, kernels_of, place
from test_norm import (
    CHANNEL_CASES,
    PIXEL_CASES,
    channel_sums,
    definition,
    gradient,
    pixel_sums,
)
from test_pool import geometry, loop_max, loop_max_backward

from pyconvnet import ops
from pyconvnet.common import devices

pytestmark = pytest.mark.kernels

# Alpha near 1, where a window that is wrong shows; the paper's power and another.
PARAMETERS = [(1.0, 0.75, 2.0), (0.9, 0.6, 1.0)]
ACROSS_CHANNELS = [
    "towers",
    "one pixel, one channel",
    "3 channels, window of 5",
    "groups of 3",
    "groups of 4",
    "even window",
    "window of 9",
    "window of 11",
    "odd channels",
    "more rows than a tile",
    "a row larger than shared memory",
]
ACROSS_PIXELS = [
    "cifar",
    "3 channels",
    "12 channels",
    "tile and one",
    "even window",
    "window beyond the image",
]
POOLED = [
    "a tower of norm1",
    "a tower of norm2",
    "one pixel, 4 channels",
    "one window, larger than the image",
    "groups of 4",
    "groups across warps",
    "even window of 4",
    "window of 9",
    "odd channels",
    "groups of 3",
    "rectangular",
    "positions beyond bytes",
    "pad ((0, 0), (2, 1))",
    "pad ((2, 1), (0, 2))",
]
misaligned_or_not = pytest.mark.parametrize("misaligned", [False, True], ids=["aligned", "misaligned"])


def normalised(rng, shape):
    return bf16(rng.standard_normal(shape))


def check(op, device, shape, sums_of, extra, misaligned, rng):
    """Forward and backward of every kernel that applies. extra: (size,) or (size, groups)."""
    size, groups = extra[0], extra[1:]
    terms = min(size, shape[-1]) if groups else size * size
    x, dy = normalised(rng, shape), normalised(rng, shape)
    for alpha, beta, k in PARAMETERS:
        y, scale = definition(sums_of, exact(x), alpha, beta, k)
        for kernel in kernels_of(device, op, shape, *extra):
            out = blank(device, shape, BF16, misaligned), blank(device, shape, np.float32, misaligned)
            placed = place(device, x, misaligned)
            getattr(ops, op)(placed, size, alpha, beta, k, *groups, out=out, kernel=kernel)
            assert_rounded(device.to_numpy(out[0]), y, terms, c=4)
            assert_close(device.to_numpy(out[1]), scale, terms, c=2)
        dx = gradient(sums_of, exact(dy), exact(x), scale, alpha, beta)
        inputs = dy, x, bf16(y), scale.astype(np.float32)
        inputs = [place(device, a, misaligned) for a in inputs]
        for kernel in kernels_of(device, f"{op}_backward", shape, *extra):
            out = blank(device, shape, BF16, misaligned)
            getattr(ops, f"{op}_backward")(*inputs, size, alpha, beta, *groups, out=out, kernel=kernel)
            assert_rounded(device.to_numpy(out), dx, terms, c=4)


@misaligned_or_not
@pytest.mark.parametrize("case", ACROSS_CHANNELS)
def test_across_channels(case, misaligned, any_device, run_on, rng):
    shape, size, groups = CHANNEL_CASES[case]
    with run_on(any_device):
        sums_of = lambda v, transposed=False: channel_sums(v, size, groups, transposed)  # noqa: E731
        check("lrn", any_device, shape, sums_of, (size, groups), misaligned, rng)


@misaligned_or_not
@pytest.mark.parametrize("case", ACROSS_PIXELS)
def test_across_pixels(case, misaligned, any_device, run_on, rng):
    shape, size = PIXEL_CASES[case]
    with run_on(any_device):
        sums_of = lambda v, transposed=False: pixel_sums(v, size, transposed)  # noqa: E731
        check("lrn_spatial", any_device, shape, sums_of, (size,), misaligned, rng)


def check_pooled(device, case, misaligned, rng):
    x_shape, lrn_size, groups, *windows = pooled.CASES[case]
    chosen = pooled.options(lrn_size, groups, *windows)
    x = normalised(rng, x_shape)
    taps = min(lrn_size, x_shape[-1])
    for parameters in PARAMETERS:
        u, scale = pooled.normalise(exact(x), lrn_size, groups, *parameters)
        y, argmax, pixel = loop_max(u, *windows)
        for kernel in pooled.kernels_of(device, pooled.FORWARD, x_shape, chosen):
            got_y, got_argmax = pooled.forward(device, x, chosen, parameters, kernel, misaligned)
            assert_rounded(got_y, y, taps, c=8)
            # What was chosen is the greatest before it is rounded, but for float32's own errors.
            assert_close(pooled.at_argmax(u, got_argmax, windows), y, taps, c=8)
        dy = normalised(rng, y.shape)
        g = loop_max_backward(exact(dy), pixel, x_shape)
        dx = pooled.gradient(g, exact(x), scale, lrn_size, groups, *parameters[:2])
        for kernel in pooled.kernels_of(device, pooled.BACKWARD, x_shape, chosen):
            got = pooled.backward(device, dy, argmax, x, chosen, parameters, kernel, misaligned)
            assert_rounded(got, dx, 4 * taps, scale=max(np.abs(g).max(), np.abs(dx).max()), c=8)


@misaligned_or_not
@pytest.mark.parametrize("case", POOLED)
def test_with_maximum(case, misaligned, any_device, run_on, rng):
    with run_on(any_device):
        check_pooled(any_device, case, misaligned, rng)


def test_under_every_schedule(device, schedule, run_on, rng):
    shape, size, groups = CHANNEL_CASES["groups of 4"]
    with run_on(device):
        sums_of = lambda v, transposed=False: channel_sums(v, size, groups, transposed)  # noqa: E731
        check("lrn", device, shape, sums_of, (size, groups), False, rng)
        sums_of = lambda v, transposed=False: pixel_sums(v, 3, transposed)  # noqa: E731
        check("lrn_spatial", device, PIXEL_CASES["tile and one"][0], sums_of, (3,), False, rng)
        for case in ("groups across warps", "a tower of norm2"):
            check_pooled(device, case, False, rng)


def test_equal_inputs_are_found_in_order(any_device, run_on, rng):
    """Channels all alike: the normalised values tie where x does, and the first of a window wins."""
    x = np.repeat(rng.integers(1, 4, (2, 15, 13, 1)), 16, axis=3)
    x = bf16(np.where(x == 3, 1.5, x))
    _, argmax, _ = loop_max(exact(x), 3, 2, 1, False)
    with run_on(any_device):
        for kernel in pooled.kernels_of(any_device, pooled.FORWARD, x.shape, pooled.options(groups=4, pad=1)):
            placed = place(any_device, x)
            got = ops.lrn_max_pool2d(placed, groups=4, pad=1, alpha=1e-4, kernel=kernel)[1]
            assert np.array_equal(any_device.to_numpy(got), argmax)


def test_the_gradient_does_not_read_a_rounded_y(any_device, run_on, rng):
    """With y as bfloat16 has it, the sum alone would be off by 2^-9."""
    shape, size = (1, 3, 3, 32), 5
    x, dy = bf16(4 + rng.random(shape)), bf16(np.ones(shape))
    sums_of = lambda v, transposed=False: channel_sums(v, size, 1, transposed)  # noqa: E731
    y, scale = definition(sums_of, exact(x), 1.0, 0.75, 2.0)
    dx = gradient(sums_of, exact(dy), exact(x), scale, 1.0, 0.75)
    size_of_terms = np.abs(exact(dy) / scale**0.75).max()
    assert np.abs(dx).max() < size_of_terms  # the two halves of the gradient cancel, in part
    with run_on(any_device):
        for kernel in kernels_of(any_device, "lrn_backward", shape, size):
            inputs = [place(any_device, a) for a in (dy, x, bf16(y), scale.astype(np.float32))]
            got = any_device.to_numpy(ops.lrn_backward(*inputs, size, 1.0, 0.75, kernel=kernel))
            limit = 2.0**-8 * np.abs(dx) + 32 * EPS32 * size_of_terms
            assert np.all(np.abs(exact(got) - dx) <= limit), kernel


# ---- back through a ReLU -----------------------------------------------------------------------------------

DTYPES = pytest.mark.parametrize(
    "dtype", [np.float32, BF16, np.float64], ids=["float32", "bfloat16", "float64"]
)


def after_relu(rng, shape, dtype):
    """Zeros of both signs, some below zero (as no ReLU makes them), some NaN."""
    x = np.maximum(rng.standard_normal(shape), 0)
    kind = rng.random(shape)
    x[kind < 0.05] = -0.0
    x[(kind > 0.05) & (kind < 0.1)] = -0.5
    x.reshape(-1)[3::97] = np.nan
    return x.astype(dtype)


@DTYPES
@misaligned_or_not
@pytest.mark.parametrize("case", ["towers", "groups of 3", "window of 11", "odd channels", "vector"])
def test_relu_is_relu_backward(case, misaligned, dtype, any_device, run_on, rng):
    if dtype is np.float64 and any_device.kind != "cpu":
        pytest.skip("kernels know float32 and bfloat16")
    shape, size, groups = CHANNEL_CASES[case]
    x, dy = after_relu(rng, shape, dtype), rng.standard_normal(shape).astype(dtype)
    with run_on(any_device), np.errstate(invalid="ignore"):
        placed = place(any_device, x, misaligned)
        y, scale = ops.lrn(placed, size, 1.0, 0.75, 2.0, groups)
        arrays = place(any_device, dy, misaligned), placed, y, scale
        for kernel in kernels_of(any_device, "lrn_backward", shape, size, groups):
            args = (*arrays, size, 1.0, 0.75, groups)
            plain = ops.lrn_backward(*args, kernel=kernel)
            out = blank(any_device, shape, dtype, misaligned)
            ops.lrn_backward(*args, relu=True, out=out, kernel=kernel)
            want = any_device.to_numpy(ops.relu_backward(plain, placed))
            assert same_bits(any_device.to_numpy(out), want), kernel
            assert not np.array_equal(exact(want), exact(any_device.to_numpy(plain)), equal_nan=True)


@DTYPES
@misaligned_or_not
@pytest.mark.parametrize("case", ["groups across warps", "a tower of norm2", "odd channels", "rectangular"])
def test_relu_is_relu_backward_with_maximum(case, misaligned, dtype, any_device, run_on, rng):
    if dtype is np.float64 and any_device.kind != "cpu":
        pytest.skip("kernels know float32 and bfloat16")
    x_shape, lrn_size, groups, *windows = pooled.CASES[case]
    chosen = pooled.options(lrn_size, groups, *windows)
    x = after_relu(rng, x_shape, dtype)
    size, _, _, count = geometry(x_shape, *windows)
    y_shape = (x_shape[0], *count, x_shape[3])
    dy = rng.standard_normal(y_shape).astype(dtype)
    argmax = rng.integers(0, np.prod(size), y_shape).astype(pooled.argmax_type(size))
    with run_on(any_device), np.errstate(invalid="ignore"):
        arrays = [place(any_device, a, misaligned) for a in (dy, argmax, x)]
        for kernel in pooled.kernels_of(any_device, pooled.BACKWARD, x_shape, chosen):
            plain = ops.lrn_max_pool2d_backward(*arrays, **chosen, alpha=1.0, kernel=kernel)
            out = blank(any_device, x_shape, dtype, misaligned)
            ops.lrn_max_pool2d_backward(*arrays, **chosen, alpha=1.0, relu=True, out=out, kernel=kernel)
            want = any_device.to_numpy(ops.relu_backward(plain, arrays[2]))
            assert same_bits(any_device.to_numpy(out), want), kernel


# ---- refusals ----------------------------------------------------------------------------------------------

X = bf16(np.ones((2, 5, 5, 4)))
F = X.astype(np.float32)
A = np.zeros((2, 2, 2, 4), np.uint8)
BAD = [
    (lambda: ops.lrn(X, out=(X.copy(), X.copy())), "lrn: scale must be float32, got bfloat16"),
    (lambda: ops.lrn(X, out=(F, F)), "lrn: y must be bfloat16, got float32"),
    (lambda: ops.lrn_backward(X, X, X, X), "lrn_backward: scale must be float32, got bfloat16"),
    (lambda: ops.lrn_backward(F, X, X, F), "lrn_backward: x must be float32 like dy, got bfloat16"),
    (lambda: ops.lrn_backward(X, X, X, F, relu=1), "lrn_backward: relu must be True or False, got int"),
    (
        lambda: ops.lrn_spatial_backward(X, X, X, X),
        "lrn_spatial_backward: scale must be float32, got bfloat16",
    ),
    (
        lambda: ops.lrn_max_pool2d_backward(F[:, :2, :2], A, X),
        "lrn_max_pool2d_backward: dy must be bfloat16 like x, got float32",
    ),
    (
        lambda: ops.lrn_max_pool2d_backward(X[:, :2, :2], A, X, relu=None),
        "lrn_max_pool2d_backward: relu must be True or False, got NoneType",
    ),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(("call", "message"), BAD)
def test_refuses(call, message, where):
    with ops.on(where), pytest.raises(TypeError, match=message):
        call()


def test_parameters_have_the_range_of_float32():
    with (
        ops.on("emulator"),
        pytest.raises(ValueError, match="lrn: k must be in the range of float32, got 1e-40"),
    ):
        ops.lrn(X, k=1e-40)


def test_bindings_check_memory_themselves():
    ext = devices.emulator().ext
    shape = ext.LrnShape(n=50, c=4, size=5, groups=1)
    with pytest.raises(TypeError, match="lrn: scale must be float32, got bfloat16"):
        ext.lrn("lrn_generic", shape, X.copy(), X.copy(), X, 1.0, 0.75, 1.0, 0)
    with pytest.raises(TypeError, match="lrn_backward: dy must be bfloat16, got float32"):
        ext.lrn_backward("lrn_backward_generic", shape, X.copy(), F, X, X, F, 1.0, 0.75, True, 0)
