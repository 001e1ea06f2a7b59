"""Pooling: every kernel and the reference against a plain loop over windows."""

import numpy as np
import pytest
from support.helpers import assert_close

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.common import threads as _threads

pytestmark = pytest.mark.kernels

OPS = ("max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward")

# name: x shape, size, stride, pad, ceil_mode
CASES = {
    "alexnet pool1": ((1, 55, 55, 96), 3, 2, 0, False),
    "alexnet pool2": ((2, 27, 27, 256), 3, 2, 0, True),
    "alexnet pool5": ((3, 13, 13, 256), 3, 2, 0, False),
    "cifar, last window over the edge": ((2, 32, 32, 32), 3, 2, 0, True),
    "one pixel": ((1, 1, 1, 1), 1, 1, 0, False),
    "one window, larger than the image": ((1, 2, 2, 4), 3, 2, 0, True),
    "odd, 3 channels": ((1, 11, 8, 3), 3, 2, 1, False),
    "odd, 5 channels": ((3, 7, 10, 5), 3, 2, ((1, 0), (0, 2)), True),
    "2x2 without overlap": ((2, 9, 9, 8), 2, 2, 0, False),
    "stride beyond the size": ((2, 11, 10, 4), 2, 3, 0, False),
    "stride beyond the size, over the edge": ((1, 8, 13, 6), (2, 1), (5, 4), ((1, 0), (0, 0)), True),
    "stride 1": ((1, 6, 5, 12), 3, 1, 1, False),
    "rectangular": ((2, 9, 17, 4), (2, 5), (3, 2), ((0, 1), (4, 3)), False),
    "whole image": ((3, 6, 5, 8), (6, 5), 1, 0, False),
    "255 positions": ((1, 19, 21, 4), (15, 17), (3, 2), (7, 8), False),
    "256 positions": ((1, 20, 21, 5), 16, (4, 3), (15, 8), True),
    "positions beyond bytes": ((2, 20, 21, 4), (17, 18), (3, 2), (8, 9), False),
    **{
        f"3x3 stride 2, pad {pad}": ((2, 7 + i % 3, 8 + i % 2, 4), 3, 2, pad, bool(i % 2))
        for i, pad in enumerate(
            [((a, b), (c, d)) for a in (0, 1, 2) for b, c, d in ((0, 2, 1), (2, 1, 0), (1, 0, 2))]
        )
    },
}


def geometry(x_shape, size, stride, pad, ceil_mode):
    """Pairs, and the number of windows, counted one by one."""
    size, stride = ((v, v) if isinstance(v, int) else v for v in (size, stride))
    pad = (pad, pad) if isinstance(pad, int) else pad
    pad = tuple((p, p) if isinstance(p, int) else p for p in pad)
    windows = []
    for extent, r, d, (before, after) in zip(x_shape[1:3], size, stride, pad, strict=True):
        first, count = -before, 0
        while first + r <= extent + after or (
            ceil_mode and first < extent and first - d + r < extent + after
        ):
            first, count = first + d, count + 1
        windows.append(count)
    return size, stride, pad, tuple(windows)


def each_window(x_shape, size, stride, pad, ceil_mode):
    """(p, q, first row and column in the window that are in the image, the window's slices of the image)."""
    size, stride, pad, (p_count, q_count) = geometry(x_shape, size, stride, pad, ceil_mode)
    for p in range(p_count):
        for q in range(q_count):
            h, w = p * stride[0] - pad[0][0], q * stride[1] - pad[1][0]
            rows = slice(max(h, 0), min(h + size[0], x_shape[1]))
            cols = slice(max(w, 0), min(w + size[1], x_shape[2]))
            yield p, q, max(-h, 0), max(-w, 0), rows, cols


def loop_max(x, *windows):
    """y, argmax, and each maximum's pixel (np.argmax: the first maximum, or the first NaN)."""
    size, _, _, count = geometry(x.shape, *windows)
    y = np.empty((x.shape[0], *count, x.shape[3]), x.dtype)
    argmax, pixel = np.empty(y.shape, np.int64), np.empty((*y.shape, 2), np.int64)
    for p, q, r0, s0, rows, cols in each_window(x.shape, *windows):
        window = x[:, rows, cols]
        flat = window.reshape(window.shape[0], -1, window.shape[3])
        found = np.argmax(flat, axis=1)
        y[:, p, q] = np.take_along_axis(flat, found[:, None], 1)[:, 0]
        r, s = np.divmod(found, window.shape[2])
        argmax[:, p, q] = (r0 + r) * size[1] + s0 + s
        pixel[:, p, q] = np.stack([rows.start + r, cols.start + s], -1)
    return y, argmax, pixel


def loop_max_backward(dy, pixel, x_shape):
    dx = np.zeros(x_shape)
    n, c = np.ogrid[: x_shape[0], : x_shape[3]]
    for p in range(dy.shape[1]):
        for q in range(dy.shape[2]):
            np.add.at(dx, (n, pixel[:, p, q, :, 0], pixel[:, p, q, :, 1], c), dy[:, p, q])
    return dx


def loop_counts(x_shape, size, stride, pad, ceil_mode, include_pad):
    size, stride, pad, count = geometry(x_shape, size, stride, pad, ceil_mode)
    inside = np.zeros([extent + 3 * max(size) for extent in x_shape[1:3]])  # ones where a pixel counts
    (top, bottom), (left, right) = pad
    rows = slice(0, top + x_shape[1] + bottom) if include_pad else slice(top, top + x_shape[1])
    cols = slice(0, left + x_shape[2] + right) if include_pad else slice(left, left + x_shape[2])
    inside[rows, cols] = 1
    return np.array(
        [
            [inside[p * stride[0] :, q * stride[1] :][: size[0], : size[1]].sum() for q in range(count[1])]
            for p in range(count[0])
        ]
    )


def loop_avg(x, *windows, include_pad=False):
    counts = loop_counts(x.shape, *windows, include_pad)
    y = np.empty((x.shape[0], *counts.shape, x.shape[3]))
    for p, q, _, _, rows, cols in each_window(x.shape, *windows):
        y[:, p, q] = x[:, rows, cols].sum((1, 2), dtype=np.float64) / counts[p, q]
    return y


def loop_avg_backward(dy, x_shape, *windows, include_pad=False):
    counts = loop_counts(x_shape, *windows, include_pad)
    dx = np.zeros(x_shape)
    for p, q, _, _, rows, cols in each_window(x_shape, *windows):
        dx[:, rows, cols] += dy[:, p : p + 1, q : q + 1] / counts[p, q]
    return dx


def values(rng, shape, dtype=np.float32):
    """Few different numbers, so that windows have ties."""
    return rng.integers(-4, 5, shape).astype(dtype)


def argmax_type(size):
    r, s = (size, size) if isinstance(size, int) else size
    return np.uint8 if r * s <= 255 else np.int32


def place(device, array, misaligned=False):
    """A copy of the array on the device; `misaligned`: one element off a vector's boundary."""
    raw = device.empty((array.size + 4,), array.dtype)
    view = raw[int(misaligned) : int(misaligned) + array.size].reshape(array.shape)
    view[...] = device.asarray(array)
    return view


def blank(device, shape, dtype=np.float32, misaligned=False):
    """An output that holds NaN (or 119) everywhere."""
    return place(device, np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 119, dtype), misaligned)


def run_max(device, x, *windows, kernel=None, misaligned=False):
    count = geometry(x.shape, *windows)[3]
    y_shape = (x.shape[0], *count, x.shape[3])
    out = (
        blank(device, y_shape, x.dtype, misaligned),
        blank(device, y_shape, argmax_type(windows[0]), misaligned),
    )
    result = ops.max_pool2d(place(device, x, misaligned), *windows, out=out, kernel=kernel)
    assert result[0] is out[0]
    assert result[1] is out[1]
    return device.to_numpy(out[0]), device.to_numpy(out[1])


def run_max_backward(device, dy, argmax, x_shape, *windows, kernel=None, misaligned=False):
    out = blank(device, x_shape, dy.dtype, misaligned)
    args = place(device, dy, misaligned), place(device, argmax, misaligned)
    assert ops.max_pool2d_backward(*args, x_shape, *windows, out=out, kernel=kernel) is out
    return device.to_numpy(out)


# ---- against the loops -------------------------------------------------------------------------------------


@pytest.mark.parametrize("misaligned", [False, True], ids=["aligned", "misaligned"])
@pytest.mark.parametrize("case", CASES)
def test_max_kernels(case, misaligned, device, schedule, run_on, rng):
    x_shape, *windows = CASES[case]
    x = values(rng, x_shape)
    y, argmax, pixel = loop_max(x, *windows)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dx = loop_max_backward(dy, pixel, x_shape)
    with run_on(device):
        for kernel in ops.kernels("max_pool2d", x_shape, *windows, device=device):
            got_y, got_argmax = run_max(device, x, *windows, kernel=kernel, misaligned=misaligned)
            assert np.array_equal(got_y, y), kernel
            assert np.array_equal(got_argmax, argmax), kernel
        for kernel in ops.kernels("max_pool2d_backward", x_shape, *windows, device=device):
            args = dy, argmax.astype(argmax_type(windows[0])), x_shape, *windows
            got = run_max_backward(device, *args, kernel=kernel, misaligned=misaligned)
            assert_close(got, dx, 9)
            assert np.array_equal(got == 0, dx == 0), kernel


@pytest.mark.parametrize("include_pad", [False, True], ids=["image", "padding"])
@pytest.mark.parametrize("misaligned", [False, True], ids=["aligned", "misaligned"])
@pytest.mark.parametrize("case", CASES)
def test_avg_kernels(case, misaligned, include_pad, device, schedule, run_on, rng):
    x_shape, *windows = CASES[case]
    x = rng.standard_normal(x_shape).astype(np.float32)
    y = loop_avg(x, *windows, include_pad=include_pad)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dx = loop_avg_backward(dy, x_shape, *windows, include_pad=include_pad)
    taps = np.prod(geometry(x_shape, *windows)[0])
    with run_on(device):
        for kernel in ops.kernels("avg_pool2d", x_shape, *windows, device=device):
            out = blank(device, y.shape, misaligned=misaligned)
            args = place(device, x, misaligned), *windows, include_pad
            assert ops.avg_pool2d(*args, out=out, kernel=kernel) is out
            assert_close(device.to_numpy(out), y, taps, scale=1.0)
        for kernel in ops.kernels("avg_pool2d_backward", x_shape, *windows, device=device):
            out = blank(device, x_shape, misaligned=misaligned)
            args = place(device, dy, misaligned), x_shape, *windows, include_pad
            assert ops.avg_pool2d_backward(*args, out=out, kernel=kernel) is out
            assert_close(device.to_numpy(out), dx, taps, scale=1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_reference(case, dtype, rng):
    x_shape, *windows = CASES[case]
    cpu = devices.cpu()
    x = values(rng, x_shape, dtype)
    y, argmax, pixel = loop_max(x, *windows)
    got_y, got_argmax = run_max(cpu, x, *windows)
    assert np.array_equal(got_y, y)
    assert np.array_equal(got_argmax, argmax)
    dy = values(rng, y.shape, dtype)  # whole numbers: sums are exact
    got = run_max_backward(cpu, dy, got_argmax, x_shape, *windows)
    assert np.array_equal(got, loop_max_backward(dy, pixel, x_shape))

    x, dy = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, y.shape))
    taps, eps = np.prod(geometry(x_shape, *windows)[0]), np.finfo(dtype).eps
    for include_pad in (False, True):
        out = blank(cpu, y.shape, dtype)
        ops.avg_pool2d(x, *windows, include_pad, out=out)
        assert_close(out, loop_avg(x, *windows, include_pad=include_pad), taps, scale=1.0, eps=eps)
        out = blank(cpu, x_shape, dtype)
        ops.avg_pool2d_backward(dy, x_shape, *windows, include_pad, out=out)
        want = loop_avg_backward(dy, x_shape, *windows, include_pad=include_pad)
        assert_close(out, want, taps, scale=1.0, eps=eps)


def test_every_kernel_is_among_the_cases(device):
    for op in OPS:
        rows = {name for case in CASES.values() for name in ops.kernels(op, *case, device=device)}
        assert rows == set(getattr(device.ext, f"{op}_table")())


def test_random_geometry(device, run_on):
    """Small images under windows of every kind: 3x3 stride 2 as often as all others together."""
    rng = np.random.default_rng(7)
    done = 0
    while done < 150:
        n, h, w = (int(v) for v in rng.integers(1, (3, 12, 12)))
        c = int(rng.choice([1, 2, 3, 4, 8]))
        size, stride = (
            ((3, 3), (2, 2))
            if done % 2
            else (tuple(rng.integers(1, 6, 2).tolist()), tuple(rng.integers(1, 5, 2).tolist()))
        )
        pad = tuple(tuple(rng.integers(0, extent, 2).tolist()) for extent in size)
        windows = size, stride, pad, bool(rng.integers(2))
        if min(geometry((n, h, w, c), *windows)[3]) < 1:
            with pytest.raises(ValueError, match="does not fit"):
                ops.max_pool2d(np.zeros((n, h, w, c)), *windows)
            continue
        done += 1
        x = values(rng, (n, h, w, c))
        x[rng.random(x.shape) < 0.1] = -np.inf
        x[rng.random(x.shape) < 0.1 * (done % 3 == 0)] = np.nan
        y, argmax, pixel = loop_max(x, *windows)
        dy = values(rng, y.shape)
        for dev in (devices.cpu(), device):
            with run_on(dev):
                for kernel in (
                    [None] if dev.ext is None else ops.kernels("max_pool2d", x.shape, *windows, device=dev)
                ):
                    got_y, got_argmax = run_max(dev, x, *windows, kernel=kernel)
                    assert np.array_equal(got_y, y, equal_nan=True), (windows, kernel)
                    assert np.array_equal(got_argmax, argmax), (windows, kernel)
                names = (
                    [None]
                    if dev.ext is None
                    else ops.kernels("max_pool2d_backward", x.shape, *windows, device=dev)
                )
                for kernel in names:
                    got = run_max_backward(dev, dy, got_argmax, x.shape, *windows, kernel=kernel)
                    assert np.array_equal(got, loop_max_backward(dy, pixel, x.shape)), (windows, kernel)


# ---- ties, NaN, infinities ---------------------------------------------------------------------------------


def kernels_of(device, op, *args):
    return [None] if device.ext is None else ops.kernels(op, *args, device=device)


@pytest.mark.parametrize(
    "windows", [(3, 2, 0, False), (3, 2, 2, True), ((2, 4), 1, 1, False), (17, 3, 8, False)]
)
@pytest.mark.parametrize("fill", [0.0, -np.inf, np.inf, np.nan, -3e38])
def test_a_constant_image_is_found_at_the_first_pixel_inside(fill, windows, any_device, run_on):
    x = np.full((1, 9, 10, 4), fill, np.float32)
    with run_on(any_device):
        for kernel in kernels_of(any_device, "max_pool2d", x.shape, *windows):
            y, argmax = run_max(any_device, x, *windows, kernel=kernel)
            assert np.array_equal(y, np.full_like(y, fill), equal_nan=True)
            size = geometry(x.shape, *windows)[0]
            for p, q, r0, s0, _, _ in each_window(x.shape, *windows):
                assert np.all(argmax[:, p, q] == r0 * size[1] + s0)


def test_the_first_nan_wins(any_device, run_on):
    x = np.zeros((1, 3, 3, 4), np.float32)
    x[0, 0, 0] = np.inf
    x[0, 1, 1] = x[0, 1, 2] = x[0, 2, 0] = np.nan
    with run_on(any_device):
        for kernel in kernels_of(any_device, "max_pool2d", x.shape):
            y, argmax = run_max(any_device, x, 3, 2, 0, False, kernel=kernel)
            assert np.isnan(y).all()
            assert np.all(argmax == 4)


def test_a_nan_gradient_stays_where_it_belongs(any_device, run_on, rng):
    x = rng.permutation(9 * 9 * 4).reshape(1, 9, 9, 4).astype(np.float32)
    _, argmax, pixel = loop_max(x, 3, 2, 0, False)
    dy = rng.standard_normal(argmax.shape).astype(np.float32)
    dy[0, 1, 2, 3] = np.nan
    dy[0, 3, 0, 1] = np.inf
    want = loop_max_backward(dy, pixel, x.shape)
    assert np.isnan(want).sum() == 1
    assert np.isinf(want).sum() == 1
    with run_on(any_device):
        for kernel in kernels_of(any_device, "max_pool2d_backward", x.shape):
            got = run_max_backward(
                any_device, dy, argmax.astype(np.uint8), x.shape, 3, 2, 0, False, kernel=kernel
            )
            assert np.array_equal(np.isnan(got), np.isnan(want))
            assert np.array_equal(np.isinf(got), np.isinf(want))


def test_positions_outside_the_image_add_to_nothing(any_device, run_on):
    """The corner window of a padded image with an argmax that points into the padding."""
    dy, argmax = np.ones((1, 2, 2, 4), np.float32), np.zeros((1, 2, 2, 4), np.uint8)
    with run_on(any_device):
        for kernel in kernels_of(any_device, "max_pool2d_backward", (1, 4, 4, 4), 3, 2, 1):
            dx = run_max_backward(any_device, dy, argmax, (1, 4, 4, 4), 3, 2, 1, False, kernel=kernel)
            want = np.zeros((1, 4, 4, 4))
            want[0, 1, 1] = 1
            assert np.array_equal(dx, want)


# ---- gradients, determinism, conventions -------------------------------------------------------------------


def test_gradients_against_central_differences(rng):
    for x_shape, *windows in [
        CASES["odd, 5 channels"],
        CASES["rectangular"],
        CASES["stride beyond the size"],
    ]:
        x = rng.permutation(np.prod(x_shape)).reshape(x_shape) * 0.1  # no ties: the maximum has a gradient
        step, direction = 1e-3, rng.standard_normal(x_shape)
        y, argmax = ops.max_pool2d(x, *windows)
        dy = rng.standard_normal(y.shape)
        for function, dx in [
            (
                lambda v, w=windows: ops.max_pool2d(v, *w)[0],
                ops.max_pool2d_backward(dy, argmax, x_shape, *windows),
            ),
            (lambda v, w=windows: ops.avg_pool2d(v, *w), ops.avg_pool2d_backward(dy, x_shape, *windows)),
            (
                lambda v, w=windows: ops.avg_pool2d(v, *w, True),
                ops.avg_pool2d_backward(dy, x_shape, *windows, True),
            ),
        ]:
            difference = (function(x + step * direction) - function(x - step * direction)) / (2 * step)
            assert np.sum(difference * dy) == pytest.approx(np.sum(direction * dx), rel=1e-9)


def test_same_bits_whatever_the_order_of_threads(rng):
    x_shape, *windows = (2, 23, 21, 36), 3, 2, 1, True
    x = rng.standard_normal(x_shape).astype(np.float32)
    ext = devices.emulator().ext
    with ops.on("emulator"):
        results = []
        for order, seed in [("fwd", 1), ("rev", 1), ("mix", 1), ("mix", 2)]:
            ext.configure(order, seed)
            y, argmax = ops.max_pool2d(x, *windows)
            dx = ops.max_pool2d_backward(y, argmax, x_shape, *windows)
            avg = ops.avg_pool2d(x, *windows), ops.avg_pool2d_backward(y, x_shape, *windows)
            results.append([y, argmax, dx, *avg])
        ext.configure()
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_kernels_of_one_operation_give_the_same_bits(device, run_on, rng):
    x_shape, *windows = (2, 13, 14, 8), 3, 2, 1, False
    with run_on(device):
        dy = rng.standard_normal((2, 7, 7, 8)).astype(np.float32)
        argmax = rng.integers(0, 9, dy.shape).astype(np.uint8)
        names = ops.kernels("max_pool2d_backward", x_shape, *windows, device=device)
        assert len(names) > 1
        results = [run_max_backward(device, dy, argmax, x_shape, *windows, kernel=name) for name in names]
        assert all(r.tobytes() == results[0].tobytes() for r in results)


def test_reference_does_not_depend_on_the_number_of_threads(rng):
    x = rng.standard_normal((40, 33, 33, 32)).astype(np.float32)
    before = _threads.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            _threads.set_num_threads(count)
            y, argmax = ops.max_pool2d(x)
            avg = ops.avg_pool2d(x)
            dx = ops.max_pool2d_backward(avg, argmax, x.shape), ops.avg_pool2d_backward(avg, x.shape)
            results.append([a.tobytes() for a in (y, argmax, avg, *dx)])
    finally:
        _threads.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "case", [n for n, c in CASES.items() if isinstance(c[3], int) and 2 * c[3] <= np.min(c[1])]
)
def test_conventions_are_those_of_pytorch(case, rng):
    torch = pytest.importorskip("torch")
    x_shape, size, stride, pad, ceil_mode = CASES[case]
    x = rng.standard_normal(x_shape)
    t = torch.from_numpy(x).permute(0, 3, 1, 2)
    want, index = torch.nn.functional.max_pool2d(t, size, stride, pad, 1, ceil_mode, return_indices=True)
    y, argmax = ops.max_pool2d(x, size, stride, pad, ceil_mode)
    assert np.array_equal(y, want.permute(0, 2, 3, 1).numpy())
    width = geometry(x_shape, size, stride, pad, ceil_mode)[0][1]
    (d, e) = (stride, stride) if isinstance(stride, int) else stride
    row = np.arange(y.shape[1])[:, None, None] * d - pad + argmax // width
    col = np.arange(y.shape[2])[:, None] * e - pad + argmax % width
    assert np.array_equal(row * x_shape[2] + col, index.permute(0, 2, 3, 1).numpy())
    for include_pad in (False, True):
        want = torch.nn.functional.avg_pool2d(t, size, stride, pad, ceil_mode, include_pad)
        got = ops.avg_pool2d(x, size, stride, pad, ceil_mode, include_pad)
        np.testing.assert_allclose(got, want.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-14)
