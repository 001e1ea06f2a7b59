"""Response normalisation: every kernel and the reference against plain loops, mostly at alpha near 1.

At the paper's alpha of 1e-4 the window hardly shows: with a wrong window, or none, a kernel would pass.
"""

import numpy as np
import pytest
from support.helpers import assert_close, same_bits

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.common import threads as _threads

pytestmark = pytest.mark.kernels

OPS = ("lrn", "lrn_backward", "lrn_spatial", "lrn_spatial_backward")

# name: x shape, size, groups
CHANNEL_CASES = {
    "alexnet norm1": ((1, 14, 55, 96), 5, 2),
    "alexnet norm2": ((1, 27, 9, 256), 5, 1),
    "towers": ((1, 27, 7, 256), 5, 2),
    "one pixel, one channel": ((1, 1, 1, 1), 5, 1),
    "3 channels": ((2, 5, 7, 3), 3, 1),
    "3 channels, window of 5": ((2, 5, 7, 3), 5, 1),
    "groups of 3": ((1, 4, 5, 12), 5, 4),
    "groups of 4": ((2, 3, 43, 24), 3, 6),
    "groups of 1": ((1, 3, 5, 8), 5, 8),
    "no neighbours": ((3, 3, 3, 16), 1, 1),
    "even window": ((1, 6, 6, 20), 4, 1),
    "even window of 2": ((1, 5, 5, 8), 2, 2),
    "window of 9": ((2, 9, 9, 32), 9, 1),
    "even window of 10": ((1, 5, 5, 32), 10, 1),
    "window of 11": ((2, 5, 5, 32), 11, 2),
    "window beyond the channels": ((2, 3, 3, 12), 99, 1),
    "odd channels": ((3, 5, 5, 37), 5, 1),
    "one row of a matrix": ((1, 260), 5, 1),
    "matrix": ((33, 132), 5, 3),
    "vector": ((52,), 7, 1),
    "more rows than a tile": ((2100, 4), 3, 1),
    "a row that fills shared memory": ((2, 12288), 5, 2),
    "a row larger than shared memory": ((2, 12291), 5, 3),
}

# name: x shape, size
PIXEL_CASES = {
    "alexnet of 2012": ((1, 27, 27, 64), 5),
    "cifar": ((2, 16, 16, 32), 3),
    "one pixel, one channel": ((1, 1, 1, 1), 3),
    "3 channels": ((2, 7, 9, 3), 3),
    "12 channels": ((1, 6, 5, 12), 5),
    "one row": ((2, 1, 40, 4), 5),
    "one column": ((2, 40, 1, 4), 3),
    "two tiles across, three down": ((1, 37, 34, 36), 5),
    "tile and one": ((1, 17, 31, 8), 3),
    "size 1": ((1, 5, 5, 4), 1),
    "even window": ((2, 8, 9, 8), 4),
    "even window of 2": ((1, 5, 5, 3), 2),
    "window of 7": ((1, 12, 9, 8), 7),
    "window beyond the image": ((1, 4, 5, 4), 21),
}

# alpha, beta, k: the paper's; near 1 with the paper's beta; other powers, which take the general path
PARAMETERS = [
    (1e-4, 0.75, 2.0),
    (1.0, 0.75, 2.0),
    (0.9, 0.6, 1.0),
    (1.3, 1.0, 0.5),
    (0.8, 0.5, 1.5),
    (0.0, 0.75, 3.0),
]


def channel_windows(shape, size, groups):
    """For each channel, the mask of the channels in its window, from the definition."""
    channels = shape[-1]
    i, j = np.ogrid[:channels, :channels]
    near = (j >= i - size // 2) & (j <= i - size // 2 + size - 1)
    width = channels // groups
    return near & (i // width == j // width)


def channel_sums(values, size, groups, transposed=False):
    """Sums over each channel's window; transposed: over the windows that hold the channel."""
    if values.shape[-1] > 1000:  # the mask would not fit: add up shifted rows instead
        back, ahead = size // 2, size - 1 - size // 2
        if transposed:
            back, ahead = ahead, back
        split = values.reshape(-1, groups, values.shape[-1] // groups)
        padded = np.pad(split, ((0, 0), (0, 0), (back, ahead)))
        view = np.lib.stride_tricks.sliding_window_view(padded, size, axis=-1)
        return view.sum(-1).reshape(values.shape)
    mask = channel_windows(values.shape, size, groups)
    return values @ (mask if transposed else mask.T).astype(np.float64)


def pixel_sums(values, size, transposed=False):
    """Sums over each pixel's window; transposed: over the windows that hold the pixel."""
    _, h, w, _ = values.shape
    sums = np.zeros(values.shape)
    for i in range(h):
        for j in range(w):
            rows = slice(max(i - size // 2, 0), max(i - size // 2 + size, 0))
            cols = slice(max(j - size // 2, 0), max(j - size // 2 + size, 0))
            if transposed:
                sums[:, rows, cols] += values[:, i : i + 1, j : j + 1]
            else:
                sums[:, i, j] = values[:, rows, cols].sum((1, 2))
    return sums


def definition(sums_of, x, alpha, beta, k):
    """y and scale in float64."""
    x = x.astype(np.float64)
    scale = k + alpha * sums_of(x**2)
    return x / scale**beta, scale


def gradient(sums_of, dy, x, scale, alpha, beta):
    """dx in float64, by the chain rule: dy_j / dx_i through scale_j for all windows j that hold i."""
    dy, x = dy.astype(np.float64), x.astype(np.float64)
    return dy / scale**beta - 2 * x * sums_of(dy * x * beta * scale ** (-beta - 1) * alpha, transposed=True)


def place(device, array, misaligned=False):
    """A copy of the array on the device; `misaligned`: one element off a vector's boundary."""
    raw = device.empty((array.size + 4,), array.dtype)
    view = raw[int(misaligned) : int(misaligned) + array.size].reshape(array.shape)
    view[...] = device.asarray(array)
    return view


def blank(device, like, misaligned=False):
    """An output that holds NaN everywhere."""
    return place(device, np.full(like.shape, np.nan, like.dtype), misaligned)


def kernels_of(device, op, *args):
    return [None] if device.ext is None else ops.kernels(op, *args, device=device)


def check(op, device, x, dy, sums_of, extra, parameters, misaligned=False):
    """Forward and backward of every kernel that applies. extra: (size,) or (size, groups)."""
    size, groups = extra[0], extra[1:]
    alpha, beta, k = parameters
    eps, terms = float(np.finfo(x.dtype).eps), min(size, x.shape[-1]) if groups else size * size
    y, scale = definition(sums_of, x, alpha, beta, k)
    for kernel in kernels_of(device, op, x.shape, *extra):
        out = blank(device, x, misaligned), blank(device, x, misaligned)
        got = getattr(ops, op)(
            place(device, x, misaligned), size, alpha, beta, k, *groups, out=out, kernel=kernel
        )
        assert got[0] is out[0]
        assert got[1] is out[1]
        assert_close(device.to_numpy(out[1]), scale, terms, c=2, eps=eps)
        assert_close(device.to_numpy(out[0]), y, terms, c=4, eps=eps)
    dx = gradient(sums_of, dy, x, scale, alpha, beta)
    inputs = [place(device, a.astype(x.dtype), misaligned) for a in (dy, x, y, scale)]
    for kernel in kernels_of(device, f"{op}_backward", x.shape, *extra):
        out = blank(device, x, misaligned)
        assert (
            getattr(ops, f"{op}_backward")(*inputs, size, alpha, beta, *groups, out=out, kernel=kernel) is out
        )
        assert_close(device.to_numpy(out), dx, terms, c=4, eps=eps)


def normal(rng, shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


# ---- against the definition --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CHANNEL_CASES)
def test_channel_kernels(case, device, schedule, run_on, rng):
    shape, size, groups = CHANNEL_CASES[case]
    x, dy = normal(rng, shape), normal(rng, shape)

    def sums_of(v, transposed=False):
        return channel_sums(v, size, groups, transposed)

    with run_on(device):
        for i, parameters in enumerate(PARAMETERS[:3] if x.size > 1e5 else PARAMETERS):
            check(
                "lrn",
                device,
                x,
                dy,
                sums_of,
                (size, groups),
                parameters,
                misaligned=i == 1 and x.size < 1e5,
            )
            if i == 1:
                check("lrn", device, x, dy, sums_of, (size, groups), parameters)


@pytest.mark.parametrize("case", PIXEL_CASES)
def test_pixel_kernels(case, device, schedule, run_on, rng):
    shape, size = PIXEL_CASES[case]
    x, dy = normal(rng, shape), normal(rng, shape)

    def sums_of(v, transposed=False):
        return pixel_sums(v, size, transposed)

    with run_on(device):
        for parameters in PARAMETERS[1:3]:
            for misaligned in (False, True):
                check("lrn_spatial", device, x, dy, sums_of, (size,), parameters, misaligned)
        check("lrn_spatial", device, x, dy, sums_of, (size,), (1e-3 / 25, 0.75, 1.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CHANNEL_CASES)
def test_channel_reference(case, dtype, rng):
    shape, size, groups = CHANNEL_CASES[case]
    x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
    for parameters in PARAMETERS:
        check(
            "lrn",
            devices.cpu(),
            x,
            dy,
            lambda v, transposed=False: channel_sums(v, size, groups, transposed),
            (size, groups),
            parameters,
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", PIXEL_CASES)
def test_pixel_reference(case, dtype, rng):
    shape, size = PIXEL_CASES[case]
    x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
    for parameters in PARAMETERS:
        check(
            "lrn_spatial",
            devices.cpu(),
            x,
            dy,
            lambda v, transposed=False: pixel_sums(v, size, transposed),
            (size,),
            parameters,
        )


def test_every_kernel_is_among_the_cases(device):
    for op in OPS:
        cases = PIXEL_CASES if "spatial" in op else CHANNEL_CASES
        rows = {name for case in cases.values() for name in ops.kernels(op, *case, device=device)}
        assert rows == set(getattr(device.ext, f"{op}_table")())


def test_by_hand(any_device, run_on):
    """Five channels, a window of 3, and the same as a row of pixels."""
    x = np.array([1, 2, 3, 4, 5], np.float32)
    scale = [2 + 1 + 4, 2 + 1 + 4 + 9, 2 + 4 + 9 + 16, 2 + 9 + 16 + 25, 2 + 16 + 25]
    with run_on(any_device):
        y, got = ops.lrn(any_device.asarray(x), 3, 1.0, 1.0, 2.0)
        assert np.array_equal(any_device.to_numpy(got), scale)
        assert_close(any_device.to_numpy(y), x / np.array(scale, np.float64), 1)
        y, got = ops.lrn_spatial(any_device.asarray(x.reshape(1, 1, 5, 1)), 3, 1.0, 1.0, 2.0)
        assert np.array_equal(any_device.to_numpy(got).ravel(), scale)


# ---- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.3])
@pytest.mark.parametrize(("size", "groups"), [(5, 1), (5, 2), (4, 2), (1, 3), (20, 1)])
def test_channel_gradient_against_central_differences(size, groups, beta, rng):
    x, dy = rng.standard_normal((2, 3, 2, 12)), rng.standard_normal((2, 3, 2, 12))
    y, scale = ops.lrn(x, size, 1.0, beta, 1.0, groups)
    dx = ops.lrn_backward(dy, x, y, scale, size, 1.0, beta, groups)
    step, numeric = 1e-5, np.empty_like(x)
    for index in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        change = (
            ops.lrn(x + shift, size, 1.0, beta, 1.0, groups)[0]
            - ops.lrn(x - shift, size, 1.0, beta, 1.0, groups)[0]
        )
        numeric[index] = np.sum(change * dy) / (2 * step)
    np.testing.assert_allclose(dx, numeric, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("beta", [0.75, 0.6])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_pixel_gradient_against_central_differences(size, beta, rng):
    x, dy = rng.standard_normal((1, 6, 5, 3)), rng.standard_normal((1, 6, 5, 3))
    y, scale = ops.lrn_spatial(x, size, 1.0, beta, 1.0)
    dx = ops.lrn_spatial_backward(dy, x, y, scale, size, 1.0, beta)
    step, numeric = 1e-5, np.empty_like(x)
    for index in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        change = (
            ops.lrn_spatial(x + shift, size, 1.0, beta, 1.0)[0]
            - ops.lrn_spatial(x - shift, size, 1.0, beta, 1.0)[0]
        )
        numeric[index] = np.sum(change * dy) / (2 * step)
    np.testing.assert_allclose(dx, numeric, rtol=1e-7, atol=1e-9)


def test_the_paper_s_beta_is_no_less_exact_than_a_general_power(any_device, run_on, rng):
    """Over many magnitudes of scale, element by element: 4 units in the last place."""
    x = (10.0 ** rng.uniform(-3, 6, (1, 64, 64, 4))).astype(np.float32)
    with run_on(any_device):
        y, scale = (any_device.to_numpy(a) for a in ops.lrn(any_device.asarray(x), 1, 1.0, 0.75, 1e-6))
    exact = x / scale.astype(np.float64) ** 0.75
    assert np.max(np.abs(y - exact) / exact) < 4 * 2.0**-24


def test_large_and_small_numbers(any_device, run_on):
    """No overflow on the way where the result is representable."""
    x = np.array([[1e18, 1e-18, 0.0, 1.0], [1e-30, -1e-30, 3e18, -3e18]], np.float32).reshape(2, 1, 1, 4)
    with run_on(any_device):
        for op in ("lrn", "lrn_spatial"):
            for kernel in kernels_of(any_device, op, x.shape, 1):
                y, _ = getattr(ops, op)(any_device.asarray(x), 1, 1.0, 0.75, 1.0, kernel=kernel)
                exact = definition(lambda v: v, x, 1.0, 0.75, 1.0)[0]
                np.testing.assert_allclose(any_device.to_numpy(y), exact, rtol=1e-6)


def test_a_nan_spreads_no_further_than_its_windows(any_device, run_on, rng):
    x = normal(rng, (1, 9, 9, 12))
    x[0, 4, 4, 6] = np.nan
    with run_on(any_device):
        for kernel in kernels_of(any_device, "lrn", x.shape, 5):
            y, _ = ops.lrn(any_device.asarray(x), 5, kernel=kernel)
            assert np.argwhere(np.isnan(any_device.to_numpy(y))).tolist() == [
                [0, 4, 4, c] for c in range(4, 9)
            ]
        for kernel in kernels_of(any_device, "lrn_spatial", x.shape, 3):
            y, _ = ops.lrn_spatial(any_device.asarray(x), 3, kernel=kernel)
            bad = np.argwhere(np.isnan(any_device.to_numpy(y))).tolist()
            assert bad == [[0, h, w, 6] for h in (3, 4, 5) for w in (3, 4, 5)]


# ---- determinism, conventions ------------------------------------------------------------------------------


def test_same_bits_whatever_the_order_of_threads(rng):
    x, dy = normal(rng, (2, 19, 21, 36)), normal(rng, (2, 19, 21, 36))
    ext = devices.emulator().ext
    results = []
    with ops.on("emulator"):
        for order, seed in [("fwd", 1), ("rev", 1), ("mix", 1), ("mix", 2)]:
            ext.configure(order, seed)
            arrays = []
            for kernel in ops.kernels("lrn", x.shape):
                y, scale = ops.lrn(x, alpha=1.0, kernel=kernel)
                arrays += [y, scale]
            for kernel in ops.kernels("lrn_backward", x.shape):
                arrays.append(ops.lrn_backward(dy, x, y, scale, alpha=1.0, kernel=kernel))
            for kernel in ops.kernels("lrn_spatial", x.shape):
                y, scale = ops.lrn_spatial(x, alpha=1.0, kernel=kernel)
                arrays += [y, scale]
            for kernel in ops.kernels("lrn_spatial_backward", x.shape):
                arrays.append(ops.lrn_spatial_backward(dy, x, y, scale, alpha=1.0, kernel=kernel))
            results.append(arrays)
        ext.configure()
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


def test_reference_does_not_depend_on_the_number_of_threads(rng):
    x = normal(rng, (24, 28, 28, 64))
    before = _threads.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            _threads.set_num_threads(count)
            y, scale = ops.lrn(x, groups=2)
            arrays = [y, scale, ops.lrn_backward(x, x, y, scale, groups=2)]
            y, scale = ops.lrn_spatial(x)
            results.append([*arrays, y, scale, ops.lrn_spatial_backward(x, x, y, scale)])
    finally:
        _threads.set_num_threads(before)
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 9])
def test_pytorch_s_convention(size, rng):
    """alpha here is PyTorch's divided by the size; windows agree, even ones too."""
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 4, 24))
    t = torch.from_numpy(x).permute(0, 3, 1, 2)
    want = torch.nn.functional.local_response_norm(t, size, alpha=0.7, beta=0.75, k=1.5)
    y, _ = ops.lrn(x, size, 0.7 / size, 0.75, 1.5)
    np.testing.assert_allclose(y, want.permute(0, 2, 3, 1).numpy(), rtol=1e-13)


def test_groups_are_separate_towers(any_device, run_on, rng):
    x = normal(rng, (2, 4, 5, 24))
    with run_on(any_device):
        y, scale = (any_device.to_numpy(a) for a in ops.lrn(any_device.asarray(x), alpha=1.0, groups=3))
        for group in range(3):
            part = slice(8 * group, 8 * group + 8)
            tower = any_device.asarray(np.ascontiguousarray(x[..., part]))
            alone = [any_device.to_numpy(a) for a in ops.lrn(tower, alpha=1.0)]
            assert same_bits(np.ascontiguousarray(y[..., part]), alone[0])
            assert same_bits(np.ascontiguousarray(scale[..., part]), alone[1])


# ---- arguments ---------------------------------------------------------------------------------------------

X = np.ones((2, 3, 4, 12), np.float32)
READ_ONLY = np.ones_like(X)
READ_ONLY.flags.writeable = False

BAD = [
    ("lrn", (X[0, 0, 0, 0, ...].reshape(()),), {}, ValueError, r"x must have at least 1 dimension"),
    ("lrn", (X[:0],), {}, ValueError, "x must not be empty"),
    ("lrn", (X.astype(np.float16),), {}, TypeError, "x must be float32.*got float16"),
    ("lrn", (None,), {}, TypeError, "x must be a NumPy or CUDA array, got NoneType"),
    ("lrn", (X[..., ::2],), {}, ValueError, "x must be C-contiguous"),
    ("lrn", (X, 0), {}, ValueError, "size must be at least 1, got 0"),
    ("lrn", (X, 5.0), {}, TypeError, "size must be an integer, got float"),
    ("lrn", (X, 2**31), {}, ValueError, "size must be at most 2147483647"),
    ("lrn", (X, 5, -1e-4), {}, ValueError, "alpha must not be negative"),
    ("lrn", (X, 5, float("nan")), {}, ValueError, "alpha must be finite, got nan"),
    ("lrn", (X, 5, 1e39), {}, ValueError, "alpha must be in the range of float32"),
    ("lrn", (X, 5, "1"), {}, TypeError, "alpha must be a number, got str"),
    ("lrn", (X, 5, 1.0, -0.5), {}, ValueError, "beta must not be negative"),
    ("lrn", (X, 5, 1.0, float("inf")), {}, ValueError, "beta must be finite"),
    ("lrn", (X, 5, 1.0, 0.75, 0.0), {}, ValueError, "k must be positive, got 0"),
    ("lrn", (X, 5, 1.0, 0.75, -1.0), {}, ValueError, "k must be positive, got -1"),
    ("lrn", (X, 5, 1.0, 0.75, 1e-40), {}, ValueError, "k must be in the range of float32"),
    ("lrn", (X, 5, 1.0, 0.75, 1.0, 0), {}, ValueError, "groups must be at least 1, got 0"),
    ("lrn", (X, 5, 1.0, 0.75, 1.0, 5), {}, ValueError, "groups must divide the number of channels 12, got 5"),
    ("lrn", (X,), {"out": X.copy()}, TypeError, r"out must be a tuple \(y, scale\)"),
    ("lrn", (X,), {"out": (X, None)}, ValueError, "y must not overlap x"),
    ("lrn", (X,), {"out": (READ_ONLY, None)}, ValueError, "y must be writable"),
    ("lrn", (X,), {"out": (None, X[:1].copy())}, ValueError, "scale must have shape"),
    ("lrn_backward", (X, X, X, X[:1]), {}, ValueError, r"scale must have shape \(2, 3, 4, 12\) like x"),
    ("lrn_backward", (X, X, X.astype(np.float64), X), {}, TypeError, "y must be float32"),
    ("lrn_backward", (X, X, X, X), {"groups": 5}, ValueError, "groups must divide"),
    ("lrn_backward", (X, X, X, X), {"out": X}, ValueError, "out must not overlap"),
    ("lrn_spatial", (X[0],), {}, ValueError, r"x must have 4 dimensions \(N, H, W, C\)"),
    ("lrn_spatial", (X, -3), {}, ValueError, "size must be at least 1, got -3"),
    ("lrn_spatial", (X, 3, 1.0, 0.75, 0), {}, ValueError, "k must be positive"),
    ("lrn_spatial_backward", (X, X[0], X, X), {}, ValueError, "x must have 4 dimensions"),
    ("lrn_spatial_backward", (X[:1], X, X, X), {}, ValueError, "dy must have shape"),
    ("lrn_spatial_backward", (X, X, X, X, 3, -1.0), {}, ValueError, "alpha must not be negative"),
]


@pytest.mark.parametrize(
    ("op", "args", "kwargs", "error", "message"), BAD, ids=[f"{b[0]}-{b[4]}" for b in BAD]
)
def test_bad_arguments(op, args, kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        getattr(ops, op)(*args, **kwargs)
    assert str(caught.value).startswith(f"{op}: ")
    with ops.on("emulator"), pytest.raises(error, match=message):  # the same words on every device
        getattr(ops, op)(*args, **kwargs)


def test_two_outputs_in_one_array_are_refused():
    out = np.empty_like(X)
    for op in (ops.lrn, ops.lrn_spatial):
        with pytest.raises(ValueError, match="scale must not overlap y"):
            op(X, out=(out, out))


def test_preferred_kernels():
    assert ops.kernels("lrn", (128, 55, 55, 96), 5, 2) == ["lrn_shuffle", "lrn_shared", "lrn_generic"]
    assert ops.kernels("lrn", (1, 1, 1, 6), 5, 1) == ["lrn_shared", "lrn_generic"]
    assert ops.kernels("lrn_backward", (20_000,), 11) == ["lrn_backward_generic"]
    assert ops.kernels("lrn_spatial", (128, 27, 27, 256), 5) == ["lrn_spatial_march", "lrn_spatial_generic"]
    assert ops.kernels("lrn_spatial_backward", (128, 27, 27, 256), 4) == ["lrn_spatial_backward_generic"]


def test_the_binding_checks_memory(device):
    ext = device.ext
    for change in [{"n": 0}, {"c": 0}, {"size": 0}, {"groups": 0}, {"groups": 5}, {"n": 2**30}]:
        with pytest.raises(ValueError, match="LrnShape"):
            ext.LrnShape(**({"n": 24, "c": 12, "size": 5, "groups": 2} | change))
    with pytest.raises(ValueError, match="LrnSpatialShape"):
        ext.LrnSpatialShape(n=1, h=2**16, w=2**15, c=1, size=3)
    with pytest.raises(ValueError, match="size must be positive"):
        ext.LrnSpatialShape(n=1, h=2, w=2, c=1, size=-1)
    shape = ext.LrnShape(n=24, c=12, size=5, groups=2)
    y, scale, x = (place(device, X) for _ in range(3))
    with pytest.raises(ValueError, match="scale must have 288 elements, got 287"):
        ext.lrn("lrn_generic", shape, y, scale.reshape(-1)[:287], x, 1.0, 0.75, 1.0, 0)
    with pytest.raises(ValueError, match="does not support this shape"):
        ext.lrn("lrn_shuffle", shape, y, scale, x, 1.0, 0.75, 1.0, 0)
