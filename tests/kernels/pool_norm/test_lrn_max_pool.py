"""Normalisation and maximum in one pass: every kernel and the reference against plain loops in float64.

Mostly at alpha near 1: at the paper's 1e-4 the window of channels hardly shows.
"""

import numpy as np
import pytest
from support.helpers import EPS32, assert_close, same_bits, tolerance
from test_pool import argmax_type, each_window, geometry, loop_max, loop_max_backward, place

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.common import threads as _threads

pytestmark = pytest.mark.kernels

FORWARD, BACKWARD = "lrn_max_pool2d", "lrn_max_pool2d_backward"

# name: x shape, lrn_size, groups, size, stride, pad, ceil_mode
CASES = {
    "alexnet norm1 and pool1": ((1, 15, 55, 96), 5, 1, 3, 2, 0, False),
    "alexnet norm1 and pool1, all rows": ((1, 55, 11, 96), 5, 2, 3, 2, 0, False),
    "a tower of norm1": ((2, 9, 29, 48), 5, 1, 3, 2, 0, False),
    "alexnet norm2 and pool2": ((1, 27, 9, 256), 5, 1, 3, 2, 0, False),
    "alexnet norm2 and pool2, all columns": ((1, 7, 27, 256), 5, 2, 3, 2, 0, False),
    "a tower of norm2": ((1, 13, 27, 128), 5, 1, 3, 2, 0, False),
    "over the edge": ((2, 8, 10, 32), 5, 1, 3, 2, 0, True),
    "one pixel, 4 channels": ((1, 1, 1, 4), 5, 1, 3, 2, 2, False),
    "one window, larger than the image": ((1, 2, 2, 8), 5, 2, 3, 2, 0, True),
    "4 channels, two tiles of columns": ((1, 5, 1100, 4), 3, 1, 3, 2, 0, False),
    "groups of 4": ((2, 9, 9, 40), 5, 10, 3, 2, 1, False),
    "groups across warps": ((1, 9, 15, 120), 5, 3, 3, 2, 0, False),
    "512 channels": ((1, 7, 9, 512), 5, 1, 3, 2, 0, False),
    "1024 channels": ((1, 5, 7, 1024), 5, 4, 3, 2, 0, False),
    "more than 1024 channels": ((1, 3, 3, 1028), 5, 1, 3, 2, 0, False),
    "no neighbours": ((2, 7, 9, 16), 1, 1, 3, 2, 0, False),
    "window of 3": ((1, 9, 9, 36), 3, 1, 3, 2, 0, False),
    "even window of 4": ((1, 9, 9, 36), 4, 1, 3, 2, 0, False),
    "even window of 8": ((1, 7, 11, 96), 8, 1, 3, 2, 0, False),
    "window of 9": ((1, 7, 11, 96), 9, 2, 3, 2, 0, False),
    "window of 11": ((1, 5, 7, 32), 11, 2, 3, 2, 0, False),
    "window beyond the channels": ((1, 5, 5, 12), 99, 1, 3, 2, 0, False),
    "one pixel, one channel": ((1, 1, 1, 1), 5, 1, 1, 1, 0, False),
    "odd channels": ((2, 7, 8, 37), 5, 1, 3, 2, 0, True),
    "groups of 3": ((1, 6, 7, 12), 5, 4, 3, 2, 1, False),
    "2x2 without overlap": ((2, 9, 9, 8), 5, 1, 2, 2, 0, False),
    "stride beyond the size": ((1, 11, 10, 4), 3, 1, 2, 3, 0, False),
    "stride 1": ((1, 6, 5, 12), 5, 1, 3, 1, 1, False),
    "rectangular": ((2, 9, 17, 4), 5, 1, (2, 5), (3, 2), ((0, 1), (4, 3)), False),
    "whole image": ((3, 6, 5, 8), 5, 2, (6, 5), 1, 0, False),
    "255 positions": ((1, 19, 21, 4), 2, 1, (15, 17), (3, 2), (7, 8), False),
    "positions beyond bytes": ((1, 20, 21, 5), 5, 1, 16, (4, 3), (15, 8), True),
    **{
        f"pad {pad}": ((2, 7 + i % 3, 8 + i % 2, 20), 5, 1, 3, 2, pad, bool(i % 2))
        for i, pad in enumerate(
            [((a, b), (c, d)) for a in (0, 1, 2) for b, c, d in ((0, 2, 1), (2, 1, 0), (1, 0, 2))]
        )
    },
}

# alpha, beta, k: the paper's; near 1 with the paper's beta; another power
PARAMETERS = [(1e-4, 0.75, 2.0), (1.0, 0.75, 2.0), (0.9, 0.6, 1.0)]


def options(lrn_size=5, groups=1, size=3, stride=2, pad=0, ceil_mode=False):
    """What chooses the kernel."""
    return {
        "lrn_size": lrn_size,
        "groups": groups,
        "size": size,
        "stride": stride,
        "pad": pad,
        "ceil_mode": ceil_mode,
    }


def numbers(parameters):
    return dict(zip(("alpha", "beta", "k"), parameters, strict=True))


def channel_window(channel, channels, lrn_size, groups):
    """The channels that the window of one holds."""
    width = channels // groups
    first, last = channel // width * width, (channel // width + 1) * width
    begin = channel - lrn_size // 2
    return slice(max(first, begin), min(last, begin + lrn_size))


def normalise(x, lrn_size, groups, alpha, beta, k):
    """The normalised map and scale in float64, channel by channel."""
    x = x.astype(np.float64)
    scale = np.empty_like(x)
    for i in range(x.shape[-1]):
        scale[..., i] = k + alpha * (x[..., channel_window(i, x.shape[-1], lrn_size, groups)] ** 2).sum(-1)
    return x / scale**beta, scale


def gradient(g, x, scale, lrn_size, groups, alpha, beta):
    """dx in float64: each channel adds its share to those in its window."""
    x = x.astype(np.float64)
    dx = g / scale**beta
    term = 2 * alpha * beta * g * x * scale ** (-beta - 1)
    for i in range(x.shape[-1]):
        window = channel_window(i, x.shape[-1], lrn_size, groups)
        dx[..., window] -= x[..., window] * term[..., i : i + 1]
    return dx


def expected(x, dy, case, parameters):
    """u, y, argmax and dx from the loops."""
    lrn_size, groups, *windows = case
    u, scale = normalise(x, lrn_size, groups, *parameters)
    y, argmax, pixel = loop_max(u, *windows)
    g = loop_max_backward(dy(y.shape), pixel, x.shape)
    return u, y, argmax, gradient(g, x, scale, lrn_size, groups, *parameters[:2])


def at_argmax(u, argmax, windows):
    """The values of u that argmax points at; all of them must be in the image."""
    size = geometry(u.shape, *windows)[0]
    n, c = np.ogrid[: u.shape[0], : u.shape[3]]
    found = np.empty(argmax.shape)
    for p, q, r0, s0, rows, cols in each_window(u.shape, *windows):
        r, s = np.divmod(argmax[:, p, q].astype(int), size[1])
        h, w = rows.start + r - r0, cols.start + s - s0
        assert np.all((h >= rows.start) & (h < rows.stop) & (w >= cols.start) & (w < cols.stop))
        found[:, p, q] = u[n, h, w, c]
    return found


def kernels_of(device, op, x_shape, chosen):
    return [None] if device.ext is None else ops.kernels(op, x_shape, **chosen, device=device)


def forward(device, x, chosen, parameters, kernel=None, misaligned=False):
    """y and argmax of outputs that held NaN and 119."""
    windows = [chosen[name] for name in ("size", "stride", "pad", "ceil_mode")]
    y_shape = (x.shape[0], *geometry(x.shape, *windows)[3], x.shape[3])
    out = (
        place(device, np.full(y_shape, np.nan, x.dtype), misaligned),
        place(device, np.full(y_shape, 119, argmax_type(windows[0])), misaligned),
    )
    x = place(device, x, misaligned)
    result = ops.lrn_max_pool2d(x, **chosen, **numbers(parameters), out=out, kernel=kernel)
    assert result[0] is out[0]
    assert result[1] is out[1]
    return device.to_numpy(out[0]), device.to_numpy(out[1])


def backward(device, dy, argmax, x, chosen, parameters, kernel=None, misaligned=False):
    out = place(device, np.full(x.shape, np.nan, x.dtype), misaligned)
    argmax = argmax.astype(argmax_type(chosen["size"]))
    arrays = (place(device, a, misaligned) for a in (dy, argmax, x))
    result = ops.lrn_max_pool2d_backward(*arrays, **chosen, **numbers(parameters), out=out, kernel=kernel)
    assert result is out
    return device.to_numpy(out)


def check(device, x, case, parameters, rng, misaligned=False):
    """Forward and backward of every kernel that applies."""
    lrn_size, groups, *windows = case
    chosen, eps = options(*case), float(np.finfo(x.dtype).eps)
    dy = []  # drawn once its shape is known

    def draw(shape):
        dy.append(rng.standard_normal(shape).astype(x.dtype))
        return dy[0]

    u, y, argmax, dx = expected(x, draw, case, parameters)
    terms = min(lrn_size, x.shape[-1] // groups)
    near = tolerance(u, terms, c=4, eps=eps)
    size, stride, *_ = geometry(x.shape, *windows)
    overlap = int(np.prod([-(-r // d) for r, d in zip(size, stride, strict=True)]))  # windows over a pixel
    for kernel in kernels_of(device, FORWARD, x.shape, chosen):
        got_y, got_argmax = forward(device, x, chosen, parameters, kernel, misaligned)
        assert_close(got_y, y, terms, c=4, eps=eps)
        assert np.all(y - at_argmax(u, got_argmax, windows) <= 2 * near), kernel
    for kernel in kernels_of(device, BACKWARD, x.shape, chosen):
        got = backward(device, dy[0], argmax, x, chosen, parameters, kernel, misaligned)
        assert_close(got, dx, overlap * terms, c=4, eps=eps)


def normal(rng, shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


# ---- against the loops -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_kernels(case, device, schedule, run_on, rng):
    shape, *rest = CASES[case]
    x = normal(rng, shape)
    with run_on(device):
        check(device, x, rest, PARAMETERS[1], rng)
        check(device, x, rest, PARAMETERS[2], rng)


@pytest.mark.parametrize("misaligned", [False, True], ids=["aligned", "misaligned"])
@pytest.mark.parametrize("case", list(CASES)[::3])
def test_the_paper_s_numbers(case, misaligned, device, run_on, rng):
    shape, *rest = CASES[case]
    with run_on(device):
        check(device, normal(rng, shape), rest, PARAMETERS[0], rng, misaligned)


@pytest.mark.parametrize("array", ["x", "y", "argmax", "dy", "dx"])
def test_any_one_array_may_be_misaligned(array, device, run_on, rng):
    x, parameters, chosen = normal(rng, (1, 7, 7, 16)), PARAMETERS[1], options()
    u, scale = normalise(x, 5, 1, *parameters)
    y, argmax, pixel = loop_max(u, 3, 2, 0, False)
    dy = normal(rng, y.shape)
    dx = gradient(loop_max_backward(dy, pixel, x.shape), x, scale, 5, 1, *parameters[:2])

    def put(name, value):
        return place(device, value, name == array)

    with run_on(device):
        out = put("y", np.full(y.shape, np.nan, np.float32)), put("argmax", np.full(y.shape, 119, np.uint8))
        ops.lrn_max_pool2d(put("x", x), **chosen, **numbers(parameters), out=out)
        assert_close(device.to_numpy(out[0]), y, 5, c=4)
        assert np.array_equal(device.to_numpy(out[1]), argmax)
        out = put("dx", np.full(x.shape, np.nan, np.float32))
        inputs = put("dy", dy), put("argmax", argmax.astype(np.uint8)), put("x", x)
        ops.lrn_max_pool2d_backward(*inputs, **chosen, **numbers(parameters), out=out)
        assert_close(device.to_numpy(out), dx, 20, c=3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_reference(case, dtype, rng):
    shape, *rest = CASES[case]
    for parameters in PARAMETERS:
        check(devices.cpu(), normal(rng, shape, dtype), rest, parameters, rng)


def test_every_kernel_is_among_the_cases(device):
    for op in (FORWARD, BACKWARD):
        found = {n for x, *rest in CASES.values() for n in kernels_of(device, op, x, options(*rest))}
        assert found == set(getattr(device.ext, f"{op}_table")())


def test_random_geometry(device, run_on):
    rng = np.random.default_rng(11)
    done = 0
    with run_on(device):
        while done < 60:
            n, h, w = (int(v) for v in rng.integers(1, (3, 14, 14)))
            groups = int(rng.integers(1, 4))
            c = groups * int(rng.choice([1, 3, 4, 8, 20, 36]))
            size, stride = (3, 3), (2, 2)
            if done % 3 == 0:
                size, stride = (tuple(int(v) for v in rng.integers(1, high, 2)) for high in (6, 5))
            pad = tuple(tuple(int(v) for v in rng.integers(0, extent, 2)) for extent in size)
            windows = size, stride, pad, bool(rng.integers(2))
            if min(geometry((n, h, w, c), *windows)[3]) < 1:
                continue
            done += 1
            case = int(rng.integers(1, 12)) if done % 2 else 5, groups, *windows
            check(device, normal(rng, (n, h, w, c)), case, PARAMETERS[1 + done % 2], rng)


def test_by_hand(any_device, run_on):
    """A pixel of (3, 4) beside one of (0, 8), k = 0.5, alpha = 1, beta = 1/2: 3, 4 over 5.05, 8 over 8.03."""
    x = np.array([[[[3, 4], [0, 8]]]], np.float32)
    chosen, parameters = options(3, 1, (1, 2), 1), (1.0, 0.5, 0.5)
    with run_on(any_device):
        y, argmax = forward(any_device, x, chosen, parameters)
        assert_close(y.ravel(), np.array([3 / 25.5**0.5, 8 / 64.5**0.5]), 3, c=2)
        assert argmax.ravel().tolist() == [0, 1]
        dx = backward(any_device, np.ones_like(y), argmax, x, chosen, parameters)
    want = np.array([25.5**-0.5 - 9 * 25.5**-1.5, -12 * 25.5**-1.5, 0, 64.5**-0.5 - 64 * 64.5**-1.5])
    assert_close(dx.ravel(), want, 3, c=2)


# ---- against the operations it stands for ------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize("case", list(CASES)[::4])
def test_the_same_bits_as_one_after_the_other(case, where, rng):
    """The reference and the generic kernels round like lrn, max_pool2d and their gradients."""
    shape, lrn_size, groups, *windows = CASES[case]
    x, chosen = normal(rng, shape), options(lrn_size, groups, *windows)

    def kernel(name):
        return None if where == "cpu" else f"{name}_generic"

    with ops.on(where):
        for alpha, beta, k in PARAMETERS:
            u, scale = ops.lrn(x, lrn_size, alpha, beta, k, groups, kernel=kernel("lrn"))
            y, argmax = ops.max_pool2d(u, *windows, kernel=kernel("max_pool2d"))
            dy = normal(rng, y.shape)
            g = ops.max_pool2d_backward(dy, argmax, shape, *windows, kernel=kernel("max_pool2d_backward"))
            rest = lrn_size, alpha, beta, groups
            dx = ops.lrn_backward(g, x, u, scale, *rest, kernel=kernel("lrn_backward"))
            options_ = chosen | numbers((alpha, beta, k))
            got = ops.lrn_max_pool2d(x, **options_, kernel=kernel(FORWARD))
            assert same_bits(got[0], y)
            assert same_bits(got[1], argmax)
            got = ops.lrn_max_pool2d_backward(dy, argmax, x, **options_, kernel=kernel(BACKWARD))
            assert same_bits(got, dx)


@pytest.mark.parametrize("case", list(CASES)[::2])
def test_ties_where_normalisation_keeps_the_order(case, any_device, run_on, rng):
    """Few whole numbers and alpha = 0: the argmax is max_pool2d's, ties too."""
    shape, lrn_size, groups, *windows = CASES[case]
    x, chosen = rng.integers(-2, 3, shape).astype(np.float32), options(lrn_size, groups, *windows)
    y, argmax, _ = loop_max(x, *windows)
    with run_on(any_device):
        for kernel in kernels_of(any_device, FORWARD, shape, chosen):
            for beta in (0.75, 1.0):
                got_y, got_argmax = forward(any_device, x, chosen, (0.0, beta, 1.0), kernel)
                assert np.array_equal(got_argmax, argmax), kernel
                assert_close(got_y, y.astype(np.float64), 1, c=8)


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("fill", [1.0, -1.0, 0.0, -np.inf, np.nan])
def test_equal_pixels_are_found_at_the_first_inside(fill, pad, any_device, run_on, rng):
    """Every pixel holds the same channels: exactly equal after normalisation, whichever thread made them."""
    channels = normal(rng, 96) * fill if np.isfinite(fill) else np.full(96, fill, np.float32)
    x = np.broadcast_to(channels, (1, 11, 17, 96)).astype(np.float32)
    windows = 3, 2, pad, True
    chosen = options(5, 1, *windows)
    with run_on(any_device):
        for kernel in kernels_of(any_device, FORWARD, x.shape, chosen):
            for parameters in [(1.0, 0.0, 1.0)] if fill == -np.inf else PARAMETERS[1:]:  # inf / inf^0
                y, argmax = forward(any_device, x, chosen, parameters, kernel)
                assert np.array_equal(np.isnan(y), np.broadcast_to(np.isnan(fill), y.shape))
                for p, q, r0, s0, _, _ in each_window(x.shape, *windows):
                    assert np.all(argmax[:, p, q] == 3 * r0 + s0), kernel


# ---- NaN, infinities, large numbers ------------------------------------------------------------------------


def test_the_first_nan_wins_and_stays_in_its_windows(any_device, run_on, rng):
    x = normal(rng, (1, 9, 11, 140))
    for h, w, c in [(4, 5, 6), (4, 6, 8), (2, 2, 127), (3, 1, 128), (8, 10, 139), (0, 0, 0)]:
        x[0, h, w, c] = np.nan
    chosen = options()
    u, _ = normalise(x, 5, 1, *PARAMETERS[1])
    y, argmax, _ = loop_max(u, 3, 2, 0, False)
    bad = np.isnan(y)
    assert 0 < bad.sum() < bad.size / 4
    with run_on(any_device):
        for kernel in kernels_of(any_device, FORWARD, x.shape, chosen):
            got_y, got_argmax = forward(any_device, x, chosen, PARAMETERS[1], kernel)
            assert np.array_equal(np.isnan(got_y), bad), kernel
            assert np.array_equal(got_argmax[bad], argmax[bad]), kernel
            assert_close(got_y[~bad], y[~bad], 5, c=4)


def test_a_nan_gradient_stays_where_it_belongs(any_device, run_on, rng):
    """In the pixel its argmax points at, and there in the channels whose windows hold the same channel."""
    x, chosen = normal(rng, (1, 9, 11, 140)), options(4)
    u, _ = normalise(x, 4, 1, *PARAMETERS[1])
    y, argmax, pixel = loop_max(u, 3, 2, 0, False)
    dy = normal(rng, y.shape)
    want = np.zeros(x.shape, bool)
    for p, q, c in [(1, 2, 30), (3, 4, 127), (0, 0, 128), (2, 3, 0), (3, 0, 139)]:
        dy[0, p, q, c] = np.nan
        window = channel_window(c, 140, 4, 1)
        want[0, pixel[0, p, q, c, 0], pixel[0, p, q, c, 1], window] = True
    with run_on(any_device):
        for kernel in kernels_of(any_device, BACKWARD, x.shape, chosen):
            got = backward(any_device, dy, argmax, x, chosen, PARAMETERS[1], kernel)
            assert np.array_equal(np.isnan(got), want), kernel


def test_positions_outside_the_image_add_to_nothing(any_device, run_on):
    """The corner window of a padded image with an argmax that points into the padding; the rest is zero."""
    dy, argmax = np.ones((1, 2, 2, 4), np.float32), np.zeros((1, 2, 2, 4), np.uint8)
    x, chosen = np.zeros((1, 4, 4, 4), np.float32), options(5, 1, 3, 2, 1)
    want = np.zeros((1, 4, 4, 4))
    want[0, 1, 1] = 1
    with run_on(any_device):
        for kernel in kernels_of(any_device, BACKWARD, x.shape, chosen):
            dx = backward(any_device, dy, argmax, x, chosen, (1.0, 0.75, 1.0), kernel)
            assert_close(dx, want, 1, c=8)
            assert np.array_equal(dx == 0, want == 0)


@pytest.mark.filterwarnings("ignore:overflow")
def test_large_and_small_numbers(any_device, run_on):
    """Right where the result is representable; an infinite scale gives 0, in both directions."""
    x = np.array([1e18, 1e-18, 0.0, 1.0, 1e-30, -1e-30, 3e18, -3e18], np.float32).reshape(1, 1, 1, 8)
    for lrn_size in (1, 5):
        parameters = (1.0, 0.75, 1.0)
        for chosen in (options(lrn_size, 2, 3, 2, 1), options(lrn_size, 2, 1, 1)):
            want, _ = normalise(x, lrn_size, 2, *parameters)
            with run_on(any_device):
                for kernel in kernels_of(any_device, FORWARD, x.shape, chosen):
                    y, _ = forward(any_device, x, chosen, parameters, kernel)
                    np.testing.assert_allclose(y, want, rtol=2e-6, atol=2e-45)
                    y, argmax = forward(any_device, 1e3 * x, chosen, parameters, kernel)
                    assert not np.isnan(y).any()
                    assert y[0, 0, 0, 0] == 0
                for kernel in kernels_of(any_device, BACKWARD, x.shape, chosen):
                    dx = backward(any_device, np.ones_like(y), argmax, 1e3 * x, chosen, parameters, kernel)
                    assert not np.isnan(dx).any()
                    assert dx[0, 0, 0, 0] == 0


def test_the_paper_s_beta_over_many_magnitudes(any_device, run_on, rng):
    """Element by element, though two approximate reciprocal roots make the power on the device."""
    x = (10.0 ** rng.uniform(-3, 6, (1, 33, 33, 16))).astype(np.float32)
    chosen, parameters = options(5, 4), (1.0, 0.75, 1e-6)
    y, *_ = loop_max(normalise(x, 5, 4, *parameters)[0], 3, 2, 0, False)
    with run_on(any_device):
        for kernel in kernels_of(any_device, FORWARD, x.shape, chosen):
            got, _ = forward(any_device, x, chosen, parameters, kernel)
            assert np.max(np.abs(got - y) / y) < 8 * EPS32


# ---- gradients, determinism --------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.75, 0.6])
@pytest.mark.parametrize(
    "case",
    [
        "over the edge",
        "odd channels",
        "rectangular",
        "even window of 4",
        "groups of 3",
        "stride beyond the size",
    ],
)
def test_gradient_against_central_differences(case, beta, rng):
    shape, *rest = CASES[case]
    chosen = options(*rest) | numbers((1.0, beta, 1.0))
    x = normal(rng, shape, np.float64)
    y, argmax = ops.lrn_max_pool2d(x, **chosen)
    dy = normal(rng, y.shape, np.float64)
    dx = ops.lrn_max_pool2d_backward(dy, argmax, x, **chosen)
    step = 1e-6
    for _ in range(5):
        direction = normal(rng, shape, np.float64)
        (above, up), (below, down) = (
            ops.lrn_max_pool2d(x + sign * step * direction, **chosen) for sign in (1, -1)
        )
        assert np.array_equal(up, down)  # no maximum moved: the function is smooth in between
        slope = np.sum((above - below) * dy) / (2 * step)
        assert slope == pytest.approx(np.sum(direction * dx), rel=1e-6, abs=1e-7)


def test_same_bits_whatever_the_order_of_threads(rng):
    x = normal(rng, (2, 19, 21, 100))
    ext = devices.emulator().ext
    results = []
    with ops.on("emulator"):
        for order, seed in [("fwd", 1), ("rev", 1), ("dfs", 1), ("mix", 1), ("mix", 2)]:
            ext.configure(order, seed)
            arrays = []
            for kernel in ops.kernels(FORWARD, x.shape):
                y, argmax = ops.lrn_max_pool2d(x, alpha=1.0, kernel=kernel)
                arrays += [y, argmax]
            for kernel in ops.kernels(BACKWARD, x.shape):
                arrays.append(ops.lrn_max_pool2d_backward(y, argmax, x, alpha=1.0, kernel=kernel))
            results.append(arrays)
        ext.configure()
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_image_s_bits_do_not_depend_on_its_batch(device, run_on, rng):
    x = normal(rng, (3, 13, 15, 96))
    with run_on(device):
        for kernel in ops.kernels(FORWARD, x.shape, device=device):
            y, argmax = forward(device, x, options(), PARAMETERS[1], kernel)
            alone = forward(device, x[1:2], options(), PARAMETERS[1], kernel)
            assert same_bits(y[1:2], alone[0])
            assert same_bits(argmax[1:2], alone[1])
        for kernel in ops.kernels(BACKWARD, x.shape, device=device):
            dx = backward(device, y, argmax, x, options(), PARAMETERS[1], kernel)
            alone = backward(device, y[1:2], argmax[1:2], x[1:2], options(), PARAMETERS[1], kernel)
            assert same_bits(dx[1:2], alone)


def test_reference_does_not_depend_on_the_number_of_threads(rng):
    x = normal(rng, (24, 27, 27, 64))
    before = _threads.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            _threads.set_num_threads(count)
            y, argmax = ops.lrn_max_pool2d(x, groups=2)
            results.append([y, argmax, ops.lrn_max_pool2d_backward(y, argmax, x, groups=2)])
    finally:
        _threads.set_num_threads(before)
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))
