"""The NumPy reference itself: convolutions and fully connected layers against loops that leave nothing to
believe."""

import importlib
import itertools
import multiprocessing
import os
import threading
import tracemalloc

import numpy as np
import pytest

from pyconvnet.common import threads as _threads
from pyconvnet.ops.reference import conv

# The package's own `linear` is the function of that name.
linear = importlib.import_module("pyconvnet.ops.reference.linear")

# (x shape, w shape, stride, pad, groups): square and rectangular, every padding asymmetric once, strides that
# do not divide, strides wider than the filter, padding wider than the filter, windows that overhang, one
# pixel, groups.
CASES = {
    "3x3": ((2, 6, 7, 3), (4, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), 1),
    "no padding": ((2, 5, 6, 2), (3, 2, 3, 2), (1, 1), ((0, 0), (0, 0)), 1),
    "1x1": ((3, 4, 5, 6), (5, 1, 1, 6), (1, 1), ((0, 0), (0, 0)), 1),
    "1x1 strided": ((2, 5, 7, 3), (2, 1, 1, 3), (2, 3), ((0, 0), (0, 0)), 1),
    "1x1 padded": ((2, 3, 3, 2), (2, 1, 1, 2), (1, 1), ((1, 0), (0, 2)), 1),
    "rectangular filter": ((1, 9, 5, 2), (3, 5, 2, 2), (2, 1), ((1, 2), (0, 3)), 1),
    "asymmetric padding": ((2, 6, 5, 3), (2, 3, 4, 3), (1, 2), ((0, 2), (3, 1)), 1),
    "stride does not divide": ((2, 8, 11, 2), (3, 3, 3, 2), (3, 4), ((1, 0), (0, 1)), 1),
    "stride wider than filter": ((1, 11, 10, 2), (2, 2, 3, 2), (4, 5), ((1, 1), (2, 0)), 1),
    "padding wider than filter": ((1, 3, 4, 2), (2, 2, 2, 2), (1, 1), ((4, 3), (2, 5)), 1),
    "padding wider, strided": ((1, 4, 3, 1), (2, 2, 3, 1), (2, 3), ((5, 4), (4, 6)), 1),
    "first layer": ((1, 23, 24, 3), (4, 11, 11, 3), (4, 4), ((0, 3), (2, 1)), 1),
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), ((0, 0), (0, 0)), 1),
    "whole image": ((3, 4, 4, 5), (6, 4, 4, 5), (1, 1), ((0, 0), (0, 0)), 1),
    "two groups": ((2, 5, 5, 6), (8, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), 2),
    "three groups, strided": ((1, 7, 6, 9), (6, 3, 2, 3), (2, 2), ((1, 0), (1, 1)), 3),
    "depthwise": ((2, 5, 4, 4), (4, 3, 3, 1), (1, 1), ((1, 1), (1, 1)), 4),
    "1x1 in groups": ((2, 3, 4, 4), (6, 1, 1, 2), (1, 1), ((0, 0), (0, 0)), 2),
}
GEOMETRIES = pytest.mark.parametrize(
    ("x_shape", "w_shape", "stride", "pad", "groups"), CASES.values(), ids=CASES
)


def output_shape(x_shape, w_shape, stride, pad):
    return (
        x_shape[0],
        (x_shape[1] + sum(pad[0]) - w_shape[1]) // stride[0] + 1,
        (x_shape[2] + sum(pad[1]) - w_shape[2]) // stride[1] + 1,
        w_shape[0],
    )


def products(x_shape, w_shape, stride, pad, groups):
    """Every product of the convolution's definition: (index into y, index into x, index into w)."""
    n, h, w, c = x_shape
    k, r, s, c_group = w_shape
    _, p, q, _ = output_shape(x_shape, w_shape, stride, pad)
    assert c_group * groups == c
    for index in itertools.product(
        range(n), range(p), range(q), range(k), range(r), range(s), range(c_group)
    ):
        ni, pi, qi, ki, ri, si, ci = index
        row, column = pi * stride[0] + ri - pad[0][0], qi * stride[1] + si - pad[1][0]
        if 0 <= row < h and 0 <= column < w:
            group = ki // (k // groups)
            yield (ni, pi, qi, ki), (ni, row, column, group * c_group + ci), (ki, ri, si, ci)


def naive(x, w, b, dy, stride, pad, groups):
    """(y, dx, dw) by the definition, one product at a time."""
    y = np.zeros(dy.shape) + b
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for at_y, at_x, at_w in products(x.shape, w.shape, stride, pad, groups):
        y[at_y] += x[at_x] * w[at_w]
        dx[at_x] += dy[at_y] * w[at_w]
        dw[at_w] += dy[at_y] * x[at_x]
    return y, dx, dw


def draw(rng, x_shape, w_shape, stride, pad, dtype=np.float64):
    shapes = x_shape, w_shape, w_shape[:1], output_shape(x_shape, w_shape, stride, pad)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def nans(shape, dtype=np.float64):
    """An output that shows what was not written."""
    return np.full(shape, np.nan, dtype)


@pytest.fixture(params=["cache-sized pieces", "smallest pieces", "padding cut off", "padding multiplied"])
def pieces(request, monkeypatch):
    """Small shapes fit into few pieces: also with pieces of one row, and with either way of padding."""
    if request.param.startswith("padding"):
        monkeypatch.setattr(conv, "WASTE", 0.0 if request.param == "padding cut off" else 1.0)
    if request.param == "smallest pieces":
        monkeypatch.setattr(conv, "PATCH_BYTES", 1)
        monkeypatch.setattr(conv, "MIN_PATCHES", 1)
        monkeypatch.setattr(conv, "TASKS", 2)
        monkeypatch.setattr(conv, "WGRAD_ROWS", 3)
        monkeypatch.setattr(conv, "UNPACKED", 1700)


# ---- convolution -------------------------------------------------------------------------------------------


@GEOMETRIES
@pytest.mark.usefixtures("pieces")
def test_conv2d_against_loops(rng, x_shape, w_shape, stride, pad, groups):
    x, w, b, dy = draw(rng, x_shape, w_shape, stride, pad)
    y, dx, dw = naive(x, w, b, dy, stride, pad, groups)
    options = {"stride": stride, "pad": pad, "groups": groups}
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(conv.conv2d(x, w, b, **options, out=nans(y.shape)), y, **close)
    np.testing.assert_allclose(conv.conv2d(x, w, **options), y - b, **close)
    relu = conv.conv2d(x, w, b, **options, activation="relu", out=nans(y.shape))
    np.testing.assert_allclose(relu, np.maximum(y, 0), **close)
    np.testing.assert_allclose(conv.conv2d_dgrad(dy, w, x_shape, **options, out=nans(x_shape)), dx, **close)
    np.testing.assert_allclose(conv.conv2d_wgrad(dy, x, w_shape, **options, out=nans(w_shape)), dw, **close)


@GEOMETRIES
def test_conv2d_in_float32(rng, x_shape, w_shape, stride, pad, groups):
    x, w, b, dy = draw(rng, x_shape, w_shape, stride, pad, np.float32)
    options = {"stride": stride, "pad": pad, "groups": groups}

    def results(x, w, b, dy):
        return {
            "y": conv.conv2d(x, w, b, **options, out=nans(dy.shape, x.dtype)),
            "dx": conv.conv2d_dgrad(dy, w, x_shape, **options, out=nans(x_shape, x.dtype)),
            "dw": conv.conv2d_wgrad(dy, x, w_shape, **options, out=nans(w_shape, x.dtype)),
        }

    exact = results(*(a.astype(np.float64) for a in (x, w, b, dy)))
    length = {"y": w[0].size + 1, "dx": w.size // w.shape[3], "dw": dy.size // dy.shape[3]}
    for name, got in results(x, w, b, dy).items():
        assert got.dtype == np.float32
        atol = 4 * np.finfo(np.float32).eps * np.sqrt(length[name]) * max(1, np.abs(exact[name]).max())
        np.testing.assert_allclose(got, exact[name], rtol=0, atol=atol, err_msg=name)


@GEOMETRIES
def test_conv2d_gradients_by_central_differences(rng, x_shape, w_shape, stride, pad, groups):
    """d/dt of <dy, conv(x + t*a, w)> is <dgrad(dy), a>, and likewise for w: the gradients of the actual
    forward."""
    x, w, b, dy = draw(rng, x_shape, w_shape, stride, pad)
    options = {"stride": stride, "pad": pad, "groups": groups}
    step = 1e-3
    for name, at, gradient in (
        ("x", x, conv.conv2d_dgrad(dy, w, x_shape, **options)),
        ("w", w, conv.conv2d_wgrad(dy, x, w_shape, **options)),
    ):
        direction = rng.standard_normal(at.shape)

        def loss(t, name=name, at=at, direction=direction):
            moved = {"x": x, "w": w, name: at + t * direction}
            return np.vdot(dy, conv.conv2d(moved["x"], moved["w"], b, **options))

        difference = (loss(step) - loss(-step)) / (2 * step)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs(difference - np.vdot(gradient, direction)) < 1e-9 * scale + 1e-12, name


def test_conv2d_adjoint_identities_at_alexnet_shapes(rng):
    """<dy, conv(x, w)> = <dgrad(dy, w), x> = <wgrad(dy, x), w>, in float64, where loops would take for
    ever."""
    for x_shape, w_shape, stride, pad, groups in (
        ((2, 224, 224, 3), (96, 11, 11, 3), (4, 4), ((0, 3), (0, 3)), 1),
        ((2, 27, 27, 96), (256, 5, 5, 48), (1, 1), ((2, 2), (2, 2)), 2),
        ((2, 13, 13, 256), (384, 3, 3, 256), (1, 1), ((1, 1), (1, 1)), 1),
        ((2, 13, 13, 384), (384, 3, 3, 192), (1, 1), ((1, 1), (1, 1)), 2),
    ):
        x, w, _, dy = draw(rng, x_shape, w_shape, stride, pad)
        options = {"stride": stride, "pad": pad, "groups": groups}
        y = conv.conv2d(x, w, **options)
        want = np.vdot(dy, y)
        tolerance = 1e-12 * np.linalg.norm(dy) * np.linalg.norm(y)
        assert abs(np.vdot(conv.conv2d_dgrad(dy, w, x_shape, **options), x) - want) < tolerance
        assert abs(np.vdot(conv.conv2d_wgrad(dy, x, w_shape, **options), w) - want) < tolerance


@pytest.mark.usefixtures("pieces")
def test_conv2d_takes_views(rng):
    """Inputs and outputs need not be contiguous: the plan may hand over a part of a larger buffer."""
    x_shape, w_shape, stride, pad, groups = CASES["two groups"]
    x, w, b, dy = draw(rng, x_shape, w_shape, stride, pad)
    options = {"stride": stride, "pad": pad, "groups": groups}

    def view(array, fill=None):
        wide = nans((*array.shape[:-1], array.shape[-1] + 3))
        part = wide[..., 1:-2]
        part[...] = array if fill is None else fill
        return part

    y = conv.conv2d(x, w, b, **options)
    np.testing.assert_array_equal(conv.conv2d(view(x), w, b, **options, out=view(y, np.nan)), y)
    dx = conv.conv2d_dgrad(dy, w, x_shape, **options)
    np.testing.assert_array_equal(
        conv.conv2d_dgrad(view(dy), w, x_shape, **options, out=view(dx, np.nan)), dx
    )
    dw = conv.conv2d_wgrad(dy, x, w_shape, **options)
    np.testing.assert_allclose(
        conv.conv2d_wgrad(view(dy), view(x), w_shape, **options), dw, rtol=1e-13, atol=1e-13
    )


def test_conv2d_propagates_nan_and_infinity(rng):
    """A bad number must be seen, and only where its window looks: never hidden by padding, ReLU or a skipped
    product."""
    x_shape, w_shape, stride, pad, groups = CASES["3x3"]
    x, w, b, _ = draw(rng, x_shape, w_shape, stride, pad)
    x[0, 2, 3, 1] = np.nan
    y = conv.conv2d(x, w, b, stride=stride, pad=pad, groups=groups, activation="relu")
    reached = np.isnan(y).any(axis=3)
    want = np.zeros_like(reached)
    want[0, 1:4, 2:5] = True
    np.testing.assert_array_equal(reached, want)
    b[0] = np.inf
    assert np.isposinf(conv.conv2d(x[1:], w, b, stride=stride, pad=pad, groups=groups)[..., 0]).all()


def test_conv2d_does_not_remember_the_last_geometry(rng):
    """Scratch memory is reused: a call after one of another geometry, or a failed one, must not see its
    remains."""
    first = CASES["padding wider than filter"]
    x, w, _, _ = draw(rng, *first[:4])
    want = conv.conv2d(x, w, stride=first[2], pad=first[3])
    for other in CASES.values():
        x_other, w_other, _, dy_other = draw(rng, *other[:4])
        conv.conv2d(x_other * np.nan, w_other, stride=other[2], pad=other[3], groups=other[4])
        conv.conv2d_dgrad(
            dy_other * np.nan, w_other, other[0], stride=other[2], pad=other[3], groups=other[4]
        )
        np.testing.assert_array_equal(conv.conv2d(x, w, stride=first[2], pad=first[3]), want)


# ---- fully connected ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "i", "o"), [(1, 1, 1), (3, 5, 7), (7, 5, 3), (130, 33, 2), (2, 33, 130)])
@pytest.mark.parametrize("min_task", [1, 1 << 21])
def test_linear_against_loops(rng, monkeypatch, n, i, o, min_task):
    monkeypatch.setattr(linear, "MIN_TASK", min_task)
    x, w, b, dy = (rng.standard_normal(shape) for shape in ((n, i), (o, i), (o,), (n, o)))
    y, dx, dw = np.zeros((n, o)) + b, np.zeros((n, i)), np.zeros((o, i))
    for ni, oi, ii in itertools.product(range(n), range(o), range(i)):
        y[ni, oi] += x[ni, ii] * w[oi, ii]
        dx[ni, ii] += dy[ni, oi] * w[oi, ii]
        dw[oi, ii] += dy[ni, oi] * x[ni, ii]
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(linear.linear(x, w, b, out=nans((n, o))), y, **close)
    np.testing.assert_allclose(linear.linear(x, w), y - b, **close)
    np.testing.assert_allclose(
        linear.linear(x, w, b, activation="relu", out=nans((n, o))), np.maximum(y, 0), **close
    )
    np.testing.assert_allclose(linear.linear_dgrad(dy, w, out=nans((n, i))), dx, **close)
    np.testing.assert_allclose(linear.linear_wgrad(dy, x, out=nans((o, i))), dw, **close)
    single = [a.astype(np.float32) for a in (x, w, b)]
    assert linear.linear(*single).dtype == np.float32
    np.testing.assert_allclose(linear.linear(*single), y, rtol=1e-4, atol=1e-4)


def test_linear_is_the_1x1_convolution(rng):
    x, w, b = rng.standard_normal((6, 10)), rng.standard_normal((4, 10)), rng.standard_normal(4)
    by_conv = conv.conv2d(x[:, None, None], w[:, None, None], b)[:, 0, 0]
    np.testing.assert_allclose(linear.linear(x, w, b), by_conv, rtol=1e-13, atol=1e-13)


# ---- threads -----------------------------------------------------------------------------------------------


@pytest.fixture
def threads():
    """Gives `set_num_threads` and puts the old number back."""
    before = _threads.get_num_threads()
    yield _threads.set_num_threads
    _threads.set_num_threads(before)


def test_bits_do_not_depend_on_the_number_of_threads(rng, threads):
    x = rng.standard_normal((9, 20, 20, 16)).astype(np.float32)
    w = rng.standard_normal((24, 5, 5, 16)).astype(np.float32)
    dy = rng.standard_normal((9, 20, 20, 24)).astype(np.float32)
    a, m = (
        rng.standard_normal((300, 500)).astype(np.float32),
        rng.standard_normal((700, 500)).astype(np.float32),
    )
    options = {"pad": ((2, 2), (2, 2))}

    def results():
        return (
            conv.conv2d(x, w, **options),
            conv.conv2d_dgrad(dy, w, x.shape, **options),
            conv.conv2d_wgrad(dy, x, w.shape, **options),
            linear.linear(a, m),
        )

    threads(1)
    want = results()
    for count in (2, 3, 7):
        threads(count)
        for got, expected in zip(results(), want, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000", "a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu.max": "1 0"}, None),
    ],
)
def test_the_share_of_a_container(files, cpus, tmp_path, monkeypatch):
    for name, text in {"own": "12:cpu:/elsewhere\n0::/a/b\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    quota = _threads._quota(str(tmp_path), str(tmp_path / "own"))
    assert quota == (_threads._MANY if cpus is None else cpus)
    for name in ("PYCONVNET_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_threads, "_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    assert _threads._default_num_threads() == {None: 8, 1.5: 2, 0.5: 1, 4: 4, 3: 3}[cpus]


# ---- tiny arrays: found once, then repeated ----------------------------------------------------------------


def directions(arrays, x_shape, w_shape, options, mask):
    """(function, arguments, options) of every direction, with and without what may come with it."""
    x, w, b, dy = arrays
    yield conv.conv2d, (x, w), options
    yield conv.conv2d, (x, w, b), options
    yield conv.conv2d, (x, w, None), options | {"activation": "relu"}
    yield conv.conv2d, (x, w, b), options | {"activation": "relu"}
    yield conv.conv2d_dgrad, (dy, w, x_shape), options
    yield conv.conv2d_dgrad, (dy, w, x_shape), options | {"mask": mask}
    yield conv.conv2d_wgrad, (dy, x, w_shape), options


@GEOMETRIES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.usefixtures("pieces")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_tiny_convolutions_have_the_bits_of_others(rng, x_shape, w_shape, stride, pad, groups, dtype):
    options = {"stride": stride, "pad": pad, "groups": groups}
    for spoilt in (False, False, True):
        arrays = draw(rng, x_shape, w_shape, stride, pad, dtype)
        if spoilt:
            for array in arrays:
                array.flat[rng.integers(array.size)] = rng.choice([np.nan, np.inf, -np.inf, -0.0])
        mask = rng.standard_normal(x_shape).astype(dtype)
        for function, args, how in directions(arrays, x_shape, w_shape, options, mask):
            want = function(*args, **how)
            out = nans(want.shape, dtype)
            if (call := function.tiny(*args, **how, out=out)) is not None:
                call[0](*call[1])
                np.testing.assert_array_equal(out, want)
                assert not (np.signbit(out) != np.signbit(want))[~np.isnan(want)].any()


@pytest.mark.parametrize("case", CASES)
def test_what_is_tiny(rng, case):
    x_shape, w_shape, stride, pad, groups = CASES[case]
    arrays = draw(rng, x_shape, w_shape, stride, pad, np.float32)
    options = {"stride": stride, "pad": pad, "groups": groups}
    for function, args, how in directions(arrays, x_shape, w_shape, options, arrays[0]):
        out = function(*args, **how)
        big = case == "first layer" or (case == "two groups" and function is conv.conv2d_dgrad)
        assert (function.tiny(*args, **how, out=out) is None) == big
        assert function.tiny(*args, **how, out=out.astype(np.float16)) is None


def test_tiny_convolutions_keep_little_memory(rng):
    """Of shapes up to the bound, and beyond it nothing."""
    options = {"stride": (1, 1), "pad": ((1, 1), (1, 1)), "groups": 1}
    held = []
    for n in range(1, 30, 2):
        x, w, _, dy = draw(rng, (n, 3, 3, 4), (4, 3, 3, 4), (1, 1), options["pad"])
        tracemalloc.start()
        call = conv.conv2d_wgrad.tiny(dy, x, w.shape, **options, out=w)
        if call is not None:
            call[0](*call[1])
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert (call is not None) == (n < 15)
    assert max(held) < 100_000
    assert conv._products.cache_info().maxsize == 128


def test_tiny_convolutions_from_several_threads_at_once(rng):
    options = {"stride": (1, 1), "pad": ((1, 1), (1, 1)), "groups": 1}
    xs, w = rng.standard_normal((4, 1, 4, 4, 4)), rng.standard_normal((4, 3, 3, 4))
    run, _ = conv.conv2d.tiny(xs[0], w, **options, out=np.empty_like(xs[0]))
    wrong = []

    def caller(which):
        want, out = conv.conv2d(xs[which], w, **options), np.empty_like(xs[0])
        for _ in range(300):
            run(xs[which], w, out)
            if out.tobytes() != want.tobytes():
                wrong.append(which)

    callers = [threading.Thread(target=caller, args=(which,)) for which in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not wrong


def test_parallel_runs_every_task_once_and_raises(threads):
    threads(3)
    done = []
    _threads.parallel(done.append, 1000)
    assert sorted(done) == list(range(1000))

    def inner(index):
        _threads.parallel(lambda i: done.append(1000 + 10 * index + i), 10)

    _threads.parallel(inner, 5)
    assert sorted(done) == list(range(1050))

    def fails(index):
        if index == 7:
            raise ArithmeticError("seven")

    with pytest.raises(ArithmeticError, match="seven"):
        _threads.parallel(fails, 10)
    _threads.parallel(done.append, 0)
    assert len(done) == 1050


def test_convolutions_from_several_threads_at_once(rng, threads):
    threads(2)
    x, w = rng.standard_normal((8, 12, 12, 8)), rng.standard_normal((8, 3, 3, 8))
    pads = [((p, p), (p, p)) for p in range(4)]
    want = [conv.conv2d(x, w, pad=pad) for pad in pads]
    wrong = []

    def caller(which):
        for _ in range(20):
            if not np.array_equal(conv.conv2d(x, w, pad=pads[which]), want[which]):
                wrong.append(which)

    callers = [threading.Thread(target=caller, args=(which,)) for which in range(len(pads))]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not wrong


def _sum_in_child(queue, x, w):
    queue.put(float(conv.conv2d(x, w).sum()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_convolution_in_a_forked_child(rng, threads):
    """The pool's threads do not exist in a child: it must start its own instead of waiting for them."""
    threads(2)
    x, w = rng.standard_normal((64, 12, 12, 8)), rng.standard_normal((8, 3, 3, 8))
    want = float(conv.conv2d(x, w).sum())
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_sum_in_child, args=(queue, x, w))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        pytest.fail("the forked child hangs")
    assert child.exitcode == 0
    assert queue.get() == want


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "2", None])
def test_set_num_threads_refuses(count):
    with pytest.raises(ValueError, match="set_num_threads: count must be"):
        _threads.set_num_threads(count)
