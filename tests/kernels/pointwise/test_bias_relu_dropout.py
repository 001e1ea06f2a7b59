"""Bias, ReLU and dropout in one pass: the bits of the three operations after each other."""

import ml_dtypes
import numpy as np
import pytest
from support.helpers import same_bits
from support.kernels.placing import kernels_of, place
from test_dropout import WINDOWS, mask_by_definition

from pyconvnet import ops

pytestmark = pytest.mark.kernels

BF16 = ml_dtypes.bfloat16
DRAWN = {"p": 0.3, "seed": 0x123456789ABCDEF, "layer": 3}


def host(device, array):
    return device.to_numpy(array)


def blank(device, shape, dtype, misaligned=False):
    return place(device, np.full(shape, np.nan, dtype), misaligned)


def operands(rng, shape):
    x, b = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape[-1]).astype(np.float32)
    if x.size > 8:  # NaN and infinities, kept or dropped
        x.reshape(-1)[:4] = [np.nan, np.inf, -np.inf, 0]
    return x, b


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize(("shape", "window"), [*WINDOWS, ((5, 12), None), ((9, 20), (3, 20, 40))])
def test_it_is_the_three_after_each_other(shape, window, misaligned, any_device, run_on, rng):
    x, b = operands(rng, shape)
    step = 2**33 + 7
    with run_on(any_device):
        for bias in (b, None):
            for scale in (None, 1.0):
                options = {**DRAWN, "scale": scale, "window": window}
                x_, b_ = (place(any_device, a, misaligned) for a in (x, bias))
                y = x_ if bias is None else ops.add_bias(x_, b_)
                want = host(any_device, ops.dropout(ops.relu(y), step=step, **options)[0])
                for kernel in kernels_of(any_device, "bias_relu_dropout", shape):
                    for at in (step, any_device.asarray(np.array([step], np.int64))):
                        out = blank(any_device, shape, np.float32, misaligned)
                        got = ops.bias_relu_dropout(x_, b_, step=at, **options, out=out, kernel=kernel)
                        assert got is out
                        assert same_bits(host(any_device, got), want)
                    in_place = place(any_device, x, misaligned)
                    ops.bias_relu_dropout(in_place, b_, step=step, **options, out=in_place, kernel=kernel)
                    assert same_bits(host(any_device, in_place), want)


def test_what_is_kept_is_what_dropout_says(device, schedule, run_on, rng):
    x, b = rng.standard_normal((37, 129)).astype(np.float32), rng.standard_normal(129).astype(np.float32)
    with run_on(device):
        y = host(device, ops.bias_relu_dropout(device.asarray(x), device.asarray(b), 0.5, 1, 2, 3))
    kept = mask_by_definition(x.shape, 0.5, 1, 2, 3).astype(bool)
    assert np.array_equal(y > 0, kept & (x + b > 0))
    assert np.array_equal(y, np.where(kept, np.maximum(x + b, 0) * 2, 0))


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize(("shape", "window"), WINDOWS)
def test_bfloat16_is_rounded_once(shape, window, misaligned, any_device, run_on, rng):
    x, b = operands(rng, shape)
    x = x.astype(BF16)
    kept = mask_by_definition(shape, 0.3, DRAWN["seed"], 5, 3, window).astype(bool)
    for bias in (b, np.zeros_like(b)):
        sums = x.astype(np.float32) + bias
        want = np.where(kept, np.where(sums < 0, 0, sums) * np.float32(1 / 0.7), np.float32(0)).astype(BF16)
        with run_on(any_device):
            b_ = place(any_device, bias, misaligned) if bias.any() else None
            for kernel in kernels_of(any_device, "bias_relu_dropout", shape):
                out = blank(any_device, shape, BF16, misaligned)
                placed = place(any_device, x, misaligned)
                ops.bias_relu_dropout(placed, b_, step=5, **DRAWN, window=window, out=out, kernel=kernel)
                assert np.array_equal(
                    host(any_device, out).astype(np.float32), want.astype(np.float32), equal_nan=True
                )


def test_cpu_takes_float64(rng):
    x, b = rng.standard_normal((6, 8)), rng.standard_normal(8)
    y = ops.bias_relu_dropout(x, b, **DRAWN)
    assert y.dtype == np.float64
    assert same_bits(y, ops.dropout(ops.relu(ops.add_bias(x, b)), **DRAWN)[0])


X, B = np.zeros((4, 6), np.float32), np.zeros(6, np.float32)
BAD = [
    ({"p": 1.0}, ValueError, r"bias_relu_dropout: p must be in \[0, 1\), got 1.0"),
    ({"b": B[:5]}, ValueError, r"bias_relu_dropout: b must have shape \(6,\)"),
    ({"b": B.astype(BF16)}, TypeError, r"bias_relu_dropout: b must be float32, got bfloat16"),
    ({"x": X.astype(BF16), "b": B.astype(BF16)}, TypeError, r"b must be float32, got bfloat16"),
    ({"step": np.zeros(2, np.int64)}, ValueError, r"bias_relu_dropout: step must be an integer or have one"),
    ({"step": 0.5}, TypeError, r"bias_relu_dropout: step must be a NumPy or CUDA array, got float"),
    ({"layer": -1}, ValueError, r"bias_relu_dropout: layer must be at least 0, got -1"),
    ({"window": (0, 3, 8)}, ValueError, r"bias_relu_dropout: window must hold the 6 columns of x"),
    ({"scale": np.inf}, ValueError, r"bias_relu_dropout: scale must be finite"),
    ({"out": X[:3]}, ValueError, r"bias_relu_dropout: out must have shape \(4, 6\)"),
    ({"x": X.reshape(-1)[:6], "out": B}, ValueError, r"bias_relu_dropout: out must not overlap b"),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_refuses(arguments, error, message, where):
    with ops.on(where), pytest.raises(error, match=message):
        ops.bias_relu_dropout(**{"x": X, "b": B, **arguments})
