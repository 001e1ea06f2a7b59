"""Dropout: the same masks on every device and in every shard, and what is done with them."""

import math

import numpy as np
import pytest
from support.kernels.placing import blank, kernels_of, place

from pyconvnet import ops
from pyconvnet.common import philox
from pyconvnet.ops import reference

pytestmark = pytest.mark.kernels

COUNTS = [1, 3, 31, 1023, 4097]


def host(device, array):
    return device.to_numpy(array)


def mask_by_definition(shape, p, seed, step, layer, window=None):
    rows, cols = math.prod(shape[:-1]), shape[-1]
    row0, col0, total = window or (0, 0, cols)
    e = (row0 + np.arange(rows))[:, None] * total + col0 + np.arange(cols)
    counter = np.zeros((rows, cols, 4), np.uint32)
    counter[..., 0], counter[..., 1] = (e // 4) & 0xFFFFFFFF, (e // 4) >> 32
    counter[..., 2], counter[..., 3] = step & 0xFFFFFFFF, layer
    key = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32)
    words = np.take_along_axis(philox.philox4x32(counter, key), (e % 4)[..., None], axis=-1)[..., 0]
    return ((words >> 8) * 2.0**-24 >= p).astype(np.uint8).reshape(shape)


WINDOWS = [
    ((1,), None),
    ((4097,), None),
    ((3, 1, 31), None),
    ((64, 20), None),
    ((7, 5), (3, 2, 11)),
    ((9, 8), (2, 4, 16)),
    ((9, 8), (2, 6, 16)),
    ((2, 3, 33), (5, 0, 33)),
    ((3, 1), (2**31 - 1, 3, 2**31 - 1)),
    ((4, 6), (100_000, 1_000_000_001, 2_000_000_000)),
]


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize(("shape", "window"), WINDOWS)
def test_dropout_is_the_same_bits_everywhere(shape, window, misaligned, any_device, run_on, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    seed, step, layer, p = 0x123456789ABCDEF, 2**33 + 7, 3, 0.3
    mask = mask_by_definition(shape, p, seed, step, layer, window)
    with run_on(any_device):
        steps = [step, any_device.asarray(np.array([step], np.int64))]
        for kernel in kernels_of(any_device, "dropout", shape):
            for at in steps:
                out = (
                    blank(any_device, shape, misaligned=misaligned),
                    blank(any_device, shape, np.uint8, misaligned),
                )
                placed = place(any_device, x, misaligned)
                y, got = ops.dropout(placed, p, seed, at, layer, window=window, out=out, kernel=kernel)
                assert y is out[0]
                assert np.array_equal(host(any_device, got), mask)
                assert np.array_equal(host(any_device, y), x * np.float32(1 / 0.7) * mask)
                ops.dropout(placed, p, seed, at, layer, window=window, out=(placed, got), kernel=kernel)
                assert np.array_equal(host(any_device, placed), host(any_device, y))


def test_dropout_under_every_schedule(device, schedule, run_on, rng):
    x = rng.standard_normal((37, 129)).astype(np.float32)
    with run_on(device):
        y, mask = ops.dropout(device.asarray(x), 0.5, 1, 2, 3, scale=1.0)
        want = mask_by_definition(x.shape, 0.5, 1, 2, 3)
        assert np.array_equal(host(device, mask), want)
        assert np.array_equal(host(device, y), x * want)
        dy = rng.standard_normal(x.shape).astype(np.float32)
        dx = ops.dropout_backward(device.asarray(dy), mask, 0.5)
        assert np.array_equal(host(device, dx), dy * 2 * want)


def test_shards_draw_what_the_whole_draws(any_device, run_on, rng):
    x = rng.standard_normal((12, 26)).astype(np.float32)
    with run_on(any_device):
        draw = lambda part, window: tuple(  # noqa: E731
            host(any_device, a)
            for a in ops.dropout(any_device.asarray(np.ascontiguousarray(part)), 0.4, 11, 5, 2, window=window)
        )
        y, mask = draw(x, None)
        for first, last in [(0, 13), (13, 26), (5, 6)]:  # columns: the split over devices
            shard = draw(x[:, first:last], (0, first, 26))
            assert np.array_equal(shard[0], y[:, first:last])
            assert np.array_equal(shard[1], mask[:, first:last])
        for first, last in [(0, 5), (5, 12)]:  # rows: data parallelism
            shard = draw(x[first:last], (first, 0, 26))
            assert np.array_equal(shard[0], y[first:last])
            assert np.array_equal(shard[1], mask[first:last])


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1 - 2.0**-25])
def test_dropout_statistics(p):
    x = np.ones((400, 500))
    y, mask = ops.dropout(x, p, seed=3)
    kept = mask.mean()
    assert abs(kept - (1 - p)) <= 5 * math.sqrt(p * (1 - p) / x.size) + 1e-12
    if p < 0.95:
        assert abs(y.mean() - 1) <= 5 * math.sqrt(p / (1 - p) / x.size) + 1e-12
    assert set(np.unique(y)) <= {0.0, 1 / (1 - p)}
    for other in [{"seed": 4}, {"seed": 3, "step": 1}, {"seed": 3, "layer": 1}]:
        different = ops.dropout(x, p, **other)[1]
        assert np.array_equal(different, mask) == (p in (0.0, 1 - 2.0**-25))


def test_threshold_is_exact():
    assert reference.dropout_threshold(0.0) == 0
    assert reference.dropout_threshold(0.5) == 2**23
    assert reference.dropout_threshold(2.0**-24) == 1
    assert reference.dropout_threshold(2.0**-24 * 1.0001) == 2
    assert reference.dropout_threshold(1 - 2.0**-25) == 2**24


def test_almost_certain_dropout_keeps_nothing(any_device, run_on):
    x = np.full((9, 9), np.nan, np.float32)
    with run_on(any_device):
        y, mask = ops.dropout(any_device.asarray(x), 1 - 2.0**-25, scale=1.0)
        assert not host(any_device, mask).any()
        assert not host(any_device, y).any()  # what is dropped is zero even if it was not a number
        dx = ops.dropout_backward(any_device.asarray(x), mask, 0.5)
        assert not host(any_device, dx).any()


@pytest.mark.parametrize("misaligned", [False, True])
def test_dropout_backward(misaligned, any_device, run_on, rng):
    for count in COUNTS:
        dy = rng.standard_normal(count).astype(np.float32)
        mask = rng.integers(0, 2, count).astype(np.uint8)
        with run_on(any_device):
            for kernel in kernels_of(any_device, "dropout_backward", (count,)):
                placed = place(any_device, dy, misaligned), place(any_device, mask, misaligned)
                out = blank(any_device, (count,), misaligned=misaligned)
                ops.dropout_backward(*placed, 0.2, out=out, kernel=kernel)
                assert np.array_equal(host(any_device, out), dy * np.float32(1.25) * mask)
                ops.dropout_backward(*placed, 0.2, scale=1.0, out=placed[0], kernel=kernel)
                assert np.array_equal(host(any_device, placed[0]), dy * mask)


@pytest.mark.parametrize("shape", [(1, 55, 55, 96), (128, 4096)], ids=["conv1", "fc7"])
def test_alexnet_maps(shape, any_device, run_on, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    with run_on(any_device):
        out = blank(any_device, shape), blank(any_device, shape, np.uint8)
        y, mask = ops.dropout(any_device.asarray(x), 0.5, 1, 2, 3, scale=1.0, out=out)
        want = mask_by_definition(shape, 0.5, 1, 2, 3)
        assert np.array_equal(host(any_device, mask), want)
        assert np.array_equal(host(any_device, y), x * want)


X = np.zeros((4, 6), np.float32)
BAD = [
    (lambda: ops.dropout(X, 1.0), ValueError, r"dropout: p must be in \[0, 1\), got 1.0"),
    (lambda: ops.dropout(X, -0.1), ValueError, r"dropout: p must be in \[0, 1\), got -0.1"),
    (lambda: ops.dropout(X, np.nan), ValueError, r"dropout: p must be finite"),
    (lambda: ops.dropout(X, seed=0.5), TypeError, r"dropout: seed must be an integer, got float"),
    (lambda: ops.dropout(X, step=0.5), TypeError, r"dropout: step must be a NumPy or CUDA array, got float"),
    (
        lambda: ops.dropout(X, step=np.zeros(1, np.int32)),
        TypeError,
        r"dropout: step must be int64, got int32",
    ),
    (
        lambda: ops.dropout(X, step=np.zeros(2, np.int64)),
        ValueError,
        r"dropout: step must be an integer or have one element",
    ),
    (lambda: ops.dropout(X, layer=-1), ValueError, r"dropout: layer must be at least 0, got -1"),
    (lambda: ops.dropout(X, window=(0, 3, 8)), ValueError, r"dropout: window must hold the 6 columns of x"),
    (
        lambda: ops.dropout(X, window=3),
        ValueError,
        r"dropout: window must be \(row0, col0, total_cols\), got 3",
    ),
    (
        lambda: ops.dropout(X, window=(2**31, 0, 6)),
        ValueError,
        r"dropout: window must have entries below 2\^31",
    ),
    (lambda: ops.dropout(X, out=(X, X)), TypeError, r"dropout: mask must be uint8, got float32"),
    (lambda: ops.dropout_backward(X, X), TypeError, r"dropout_backward: mask must be uint8, got float32"),
    (
        lambda: ops.dropout_backward(X, np.zeros(6, np.uint8)),
        ValueError,
        r"mask must have shape \(4, 6\) like dy",
    ),
    (lambda: ops.dropout_backward(X, X, 2), ValueError, r"dropout_backward: p must be in \[0, 1\)"),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_refuses(call, error, message, where):
    with ops.on(where), pytest.raises(error, match=message):
        call()
